"""Images to verify a graph on: of the validation split, else drawn ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import model_source, verification
from afad_tfdata.images import codec, drawn_faces, preprocess
from afad_tfdata.storage import schema

BATCHES = (1, 2, 7)
_SEED = 20


@dataclasses.dataclass(frozen=True)
class Images:
    """Faces.

    Attributes:
      origin: What they are, for reports: ``"real images"`` or ``"drawn faces"``.
      pixels: uint8 ``[n, size, size, 3]`` RGB.
      encoded: The first few as JPEG files, the last of them as PNG.
    """

    origin: str
    pixels: np.ndarray
    encoded: tuple[bytes, ...]

    def pixels_of_size(self, size: int, count: int) -> np.ndarray:
        """The first few at another size: uint8 ``[count, size, size, 3]``."""
        return np.stack([codec.resize(p, size) for p in self.pixels[:count]])


def choose(records_dir: str, size: int) -> Images:
    """Takes images of a data set's validation split, or draws faces.

    Args:
      records_dir: The data set; empty to draw.
      size: Side in pixels.

    Returns:
      As many as `cases` takes.

    Raises:
      UsageError: There is no such data set.
      DataError: A record is damaged.
    """
    count = sum(BATCHES)
    # Drawn faces come in the sizes of real ones, which the encoded form is to have.
    drawn = [drawn_faces.draw(face, _SEED) for face in drawn_faces.faces(count, _SEED)]
    encode = drawn_faces.jpeg_encoder()
    encoded = [encode(face) for face in drawn]
    encoded[1] = tf.io.encode_png(drawn[1]).numpy()
    if records_dir:
        pixels = _of_records(records_dir, size, count)
        return Images("real images", pixels, tuple(encoded))
    pixels = np.stack([codec.resize(face, size) for face in drawn])
    return Images("drawn faces", pixels, tuple(encoded))


def cases(
    source: model_source.Source, faces: Images, mean: Sequence[float] | None
) -> list[verification.Case]:
    """Faces and random input, in batches of `BATCHES`.

    Args:
      source: The model, which says what must come out.
      faces: From `choose`.
      mean: Of the model's input; None takes the middle of the range.
    """
    size = source.image_size
    rng = np.random.default_rng(0)
    center = np.array(mean if mean is not None else [preprocess.DIVISOR] * 3)
    found = []
    start = 0
    for kind in (faces.origin, "random input"):
        for batch in BATCHES:
            pixels = rng.uniform(0, 255, (batch, size, size, 3))
            if kind == faces.origin:
                pixels = faces.pixels[start : start + batch]
                start += batch
            value = ((pixels - center) / preprocess.DIVISOR).astype(np.float32)
            name = f"{kind}, batch of {batch}"
            found.append(
                verification.Case(
                    name, value, expected(source, value), kind == faces.origin
                )
            )
    return found


def expected(source: model_source.Source, value: np.ndarray) -> dict[str, np.ndarray]:
    """What the model makes of a batch."""
    return {k: v.numpy() for k, v in source.call(tf.constant(value)).items()}


def own_difference(
    source: model_source.Source, cases: Sequence[verification.Case]
) -> dict[str, float]:
    """How far the model is from itself by rounding alone, by label.

    Images one by one, and the batch in a traced function, beside the batch.
    """
    largest = dict.fromkeys(source.labels, 0.0)
    traced = tf.function(source.call, autograph=False, reduce_retracing=True)
    for case in cases:
        alone = [
            expected(source, case.inputs[i : i + 1]) for i in range(len(case.inputs))
        ]
        whole = traced(tf.constant(case.inputs))
        for label in largest:
            there = np.concatenate([one[label] for one in alone])
            for other in (there, whole[label].numpy()):
                difference = float(np.max(np.abs(other - case.expected[label])))
                largest[label] = max(largest[label], difference)
    return largest


def _of_records(records_dir: str, size: int, count: int) -> np.ndarray:
    manifest = schema.load_manifest(records_dir)
    filled = [s for s, v in manifest.splits.items() if v.num_examples]
    split = next((s for s in ("validation", "test") if s in filled), "train")
    config = input_fn.InputConfig(
        records_dir=records_dir, global_batch_size=count, image_size=size
    )
    features: Any
    # A damaged record is then one line that names it, not a traceback of TensorFlow's.
    with input_fn.readable_errors():
        features, _ = next(iter(input_fn.eval_input_fn(config, split=split)))
    found = features["image"].numpy()[features["mask"].numpy()]
    # A split with fewer is shown again from its start.
    return found[np.arange(count) % len(found)]
