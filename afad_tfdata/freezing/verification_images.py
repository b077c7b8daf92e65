"""Images to verify a graph on, and what the model returns for them.

The images come from the validation split of a data set; without one, faces are drawn::

    images = verification_images.choose_images("records", size=150)
    cases = verification_images.cases(source, images, mean)
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import model_source, preprocessing_graph, verification
from afad_tfdata.images import codec, drawn_faces, tensor_preprocessing
from afad_tfdata.models import output_checks
from afad_tfdata.storage import joined_data_sets

# One image, as most programs feed it; the smallest real batch; and an odd number,
# because vectorised kernels compute the remainder of a batch separately.
BATCH_SIZES = (1, 2, 7)
_FACES_SEED = 20  # Any number; it decides which faces are drawn.
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VerificationImages:
    """Images of faces.

    Attributes:
      origin: What they are, for people: ``"real images"`` or ``"drawn faces"``.
      pixels: uint8 ``[n, size, size, 3]`` RGB.
      encoded: Image files, JPEG, the second one PNG.
      decode: How JPEGs are decoded for the network, one of `codec.DECODES`.
    """

    origin: str
    pixels: np.ndarray
    encoded: tuple[bytes, ...]
    decode: str = "accurate"

    def pixels_of_size(self, size: int, count: int) -> np.ndarray:
        """The first verification images at another size: ``[count, size, size, 3]``."""
        return np.stack([codec.resize(p, size) for p in self.pixels[:count]])


def choose_images(
    records_dir: str, size: int, decode: str = "", *, count: int = sum(BATCH_SIZES)
) -> VerificationImages:
    """Takes images to verify on from a validation split, or draws faces.

    Args:
      records_dir: The data set; empty to draw.
      size: Side in pixels.
      decode: One of `codec.DECODES`; empty if the model does not say.
      count: How many images; by default as many as `cases` uses.

    Raises:
      UsageError: There is no such data set.
      DataError: A record is damaged.
    """
    decode = decode or "accurate"
    # Drawn faces have sizes as in AFAD, and image files must have different sizes;
    # pixels of a data set all have one.
    drawn = [
        drawn_faces.draw(face, _FACES_SEED)
        for face in drawn_faces.faces(count, _FACES_SEED)
    ]
    encoded = [drawn_faces.encode_jpeg(face) for face in drawn]
    # Every batch but the first has a PNG, so that both decoders are verified.
    encoded[1] = tf.io.encode_png(drawn[1]).numpy()
    if records_dir:
        pixels = _pixels_of_records(records_dir, size, count, decode)
        return VerificationImages("real images", pixels, tuple(encoded), decode)
    pixels = np.stack([codec.resize(face, size) for face in drawn])
    return VerificationImages("drawn faces", pixels, tuple(encoded), decode)


def cases(
    source: model_source.Source,
    images: VerificationImages,
    mean: Sequence[float] | None,
    divisor: float = tensor_preprocessing.DIVISOR,
) -> list[verification.Case]:
    """Verification images, normalised, then random input, in batches of `BATCH_SIZES`.

    Args:
      source: The model, whose outputs are expected.
      images: From `choose_images`.
      mean: Channel means of the model's input; None takes the middle of the range.
      divisor: What the difference to them is divided by.

    Raises:
      DataError: The model returns no ages or probabilities for the images.
    """
    size = source.image_size
    rng = np.random.default_rng(0)  # The same input for every graph of a size.
    center = np.array(mean if mean is not None else [tensor_preprocessing.DIVISOR] * 3)
    result = []
    start = 0
    for kind in (images.origin, "random input"):
        is_image = kind == images.origin
        for batch in BATCH_SIZES:
            pixels = rng.uniform(0, 255, (batch, size, size, 3))
            if is_image:
                pixels = images.pixels[start : start + batch]
                start += batch
            value = ((pixels - center) / divisor).astype(np.float32)
            name = f"{kind}, batch of {batch}"
            outputs = expected_outputs(source, value)
            if is_image:
                what = source.path or "the model"
                output_checks.check_predictions(outputs, what=what)
                ages = np.ravel(outputs.get("age", ()))
                if doubt := output_checks.doubt_about_ages(ages):
                    _log.warning("the ages that %s predicts: %s", what, doubt)
            result.append(verification.Case(name, value, outputs, is_image))
    return result


def preprocessing_cases(
    source: model_source.Source,
    images: VerificationImages,
    mean: Sequence[float],
    kind: str,
    divisor: float = tensor_preprocessing.DIVISOR,
) -> list[verification.Case]:
    """Verification images as a graph with preprocessing is fed them, in batches.

    Args:
      source: The model, whose outputs for the preprocessed images are expected.
      images: From `choose_images`.
      mean: Channel means of the model's input.
      kind: A key of `preprocessing_graph.INPUTS`.
      divisor: What the difference to the means is divided by.
    """
    result = []
    for batch in BATCH_SIZES:
        value, seen = _PREPROCESSING_BATCHES[kind](
            images, batch, source.image_size, mean, divisor
        )
        name = f"{kind}, batch of {batch}"
        result.append(verification.Case(name, value, expected_outputs(source, seen)))
    return result


def all_preprocessing_cases(
    source: model_source.Source,
    images: VerificationImages,
    mean: Sequence[float] | None,
    divisor: float,
) -> dict[str, list[verification.Case]]:
    """Verification images as the graphs with preprocessing are fed them, by format.

    Args:
      source: The model.
      images: From `choose_images`.
      mean: The mean that the model was trained with; None if it is not known.
      divisor: As for `preprocessing_cases`.

    Raises:
      UsageError: The mean is not known.
    """
    if mean is None:
        raise errors.UsageError(
            "--with_preprocessing needs the mean that the model was trained with, and"
            " the model file does not contain it: name --records_dir or --mean_json"
        )
    return {
        kind: preprocessing_cases(source, images, mean, kind, divisor)
        for kind in preprocessing_graph.INPUTS
    }


def expected_outputs(
    source: model_source.Source, value: np.ndarray
) -> dict[str, np.ndarray]:
    """The model's outputs for a batch of verification images, by label."""
    return {k: v.numpy() for k, v in source.call(tf.constant(value)).items()}


def own_difference(
    source: model_source.Source, cases: Sequence[verification.Case]
) -> dict[str, float]:
    """How far the model differs from itself on verification images, by rounding alone.

    The outputs for each batch are compared with those for its images one by one, and
    with those of a traced function: both compute the same sums in another order.
    """
    largest = dict.fromkeys(source.labels, 0.0)
    # reduce_retracing: one trace is used for batches of all sizes.
    traced = tf.function(source.call, autograph=False, reduce_retracing=True)
    for case in cases:
        batch = np.asarray(case.inputs)
        one_by_one = [
            expected_outputs(source, batch[i : i + 1]) for i in range(len(batch))
        ]
        whole = traced(tf.constant(batch))
        for label in largest:
            joined = np.concatenate([outputs[label] for outputs in one_by_one])
            for other in (joined, whole[label].numpy()):
                difference = float(np.max(np.abs(other - case.expected[label])))
                largest[label] = max(largest[label], difference)
    return largest


def rounding_on_random_input(
    source: model_source.Source, cases: Sequence[verification.Case]
) -> dict[str, float]:
    """How far the model differs from itself on the random input of verification."""
    random = [case for case in cases if not case.is_image]
    return own_difference(source, random)


def _encoded_images(
    images: VerificationImages,
    count: int,
    size: int,
    mean: Sequence[float],
    divisor: float,
) -> tuple[list[bytes], np.ndarray]:
    """Verification images as files, and what the network sees of them."""
    encoded = list(images.encoded[:count])
    seen = [
        preprocessing_graph.expected_input(one, size, mean, divisor, images.decode)
        for one in encoded
    ]
    return encoded, np.array(seen)


def _images_of_another_size(
    images: VerificationImages,
    count: int,
    size: int,
    mean: Sequence[float],
    divisor: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Verification images of another size, and what the network sees of them."""
    pixels = images.pixels_of_size(size * 4 // 3, count)
    seen = tensor_preprocessing.normalize(
        tensor_preprocessing.resize(pixels, size), mean, divisor
    )
    return pixels, np.array(seen)


# By key of `preprocessing_graph.INPUTS`: what is fed, and what the network sees.
_PREPROCESSING_BATCHES: dict[str, Callable[..., tuple[Any, np.ndarray]]] = {
    "bytes": _encoded_images,
    "pixels": _images_of_another_size,
}


def _pixels_of_records(
    records_dir: str, size: int, count: int, decode: str
) -> np.ndarray:
    """The pixels of verification images that are from a data set's records."""
    manifest = joined_data_sets.load_manifest(records_dir)
    filled = [s for s, v in manifest.splits.items() if v.num_examples]
    # Images that the model was not trained on are preferred.
    split = next((s for s in ("validation", "test") if s in filled), "train")
    config = input_fn.InputConfig(
        records_dir=records_dir,
        # Only the images are used, and a data set may lack one of the labels.
        task="_".join(manifest.labels),
        global_batch_size=count,
        image_size=size,
        decode=decode,
    )
    features: Any
    # A damaged record is then one line that names it, not a traceback of TensorFlow's.
    with input_fn.readable_errors():
        features, _ = next(iter(input_fn.eval_input_fn(config, split=split)))
    # The mask is False for the padding of a short split.
    found = features["image"].numpy()[features["mask"].numpy()]
    # A split with fewer images is used again from its start.
    return found[np.arange(count) % len(found)]
