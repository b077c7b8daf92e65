"""TFLite files with fewer bits: what they are calibrated on, and what they may lose.

A file in float16 or int8 never equals its model.  It is therefore compared with the
model on faces that it was not calibrated on, and refused beyond `QuantizationLimits`::

    images = quantization.choose_images("records", 150, calibration_images=128)
    cases = quantization.cases(source, images, mean, divisor)
    limits.failure(comparison)      # One sentence, or None if it passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import model_source, verification, verification_images
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.storage import joined_data_sets

# They show the share of equal genders to one percent, and take a second or two.
VERIFICATION_IMAGES = 128
# The first image is a batch by itself, of which the time is measured.
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class QuantizationLimits:
    """What a quantized file may lose, as mean differences from the model.

    Attributes:
      age: Years.
      gender: Of the probability.
    """

    age: float
    gender: float

    def failure(self, comparison: verification.Comparison) -> str | None:
        """The first loss by quantization that is too large, in a sentence, or None."""
        for label, allowed, flag in (
            ("age", self.age, "max_age_loss"),
            ("gender", self.gender, "max_gender_loss"),
        ):
            loss = comparison.mean_difference.get(label, 0.0)
            # "not <=" and not ">": NaN must fail.
            if not loss <= allowed:
                return (
                    f"{label} differs from the model's by {loss:.3g} on average, and"
                    f" --{flag}={allowed:g} is allowed"
                )
        return None


@dataclasses.dataclass(frozen=True)
class QuantizationImages:
    """The faces for quantized files.

    Attributes:
      origin: What they are, for people.
      calibration: uint8 ``[n, size, size, 3]`` RGB; empty if nothing is calibrated.
      verification: The same; none of them is in `calibration`, unless there is only
        one face.
    """

    origin: str
    calibration: np.ndarray
    verification: np.ndarray


def choose_images(
    records_dir: str, size: int, *, calibration_images: int, decode: str = ""
) -> QuantizationImages:
    """Takes the faces for quantization from the validation split, or draws some.

    Args:
      records_dir: The data set; empty for none.
      size: Side in pixels.
      calibration_images: How many are wanted to calibrate on; 0 for none.
      decode: As for `verification_images.choose_images`.

    Raises:
      UsageError: There is nothing to calibrate on.
      DataError: A record is damaged.
    """
    wanted = calibration_images + VERIFICATION_IMAGES
    if not calibration_images and not records_dir:
        found = verification_images.choose_images("", size, decode, count=wanted)
        return QuantizationImages(found.origin, found.pixels[:0], found.pixels)
    if not records_dir:
        raise errors.UsageError(
            "--tflite_int8 needs faces to calibrate on, and no data set is known: name"
            " it with --records_dir"
        )
    split = joined_data_sets.load_manifest(records_dir).splits.get("validation")
    available = split.num_examples if split else 0
    if calibration_images and not available:
        raise errors.UsageError(
            "--tflite_int8 is calibrated on the validation split, and that of"
            f" {records_dir} is empty: name a data set that has one with --records_dir"
        )
    count = min(wanted, available) or wanted
    pixels = verification_images.choose_images(
        records_dir, size, decode, count=count
    ).pixels
    # Of a short split, one half is for each purpose.
    first = min(calibration_images, (count + 1) // 2)
    return QuantizationImages(
        "real images", pixels[:first], pixels[first:] if count > 1 else pixels
    )


def normalized_images(
    pixels: np.ndarray, mean: Sequence[float] | None, divisor: float
) -> np.ndarray:
    """Images for quantization as the graph is fed them: ``[n, size, size, 3]``."""
    center = np.array(mean if mean is not None else [tensor_preprocessing.DIVISOR] * 3)
    return ((pixels - center) / divisor).astype(np.float32)


def cases(
    source: model_source.Source,
    images: QuantizationImages,
    mean: Sequence[float] | None,
    divisor: float,
) -> list[verification.Case]:
    """What the losses by quantization are measured on: one face alone, and a batch."""
    values = normalized_images(images.verification, mean, divisor)
    starts = [0, *range(1, len(values), _BATCH_SIZE)]
    result = []
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        batch = values[start:end]
        name = f"{images.origin}, {start + 1} to {end}" if start else "batch of 1"
        expected = verification_images.expected_outputs(source, batch)
        result.append(verification.Case(name, batch, expected, is_timed=not start))
    return result


def convert_to_tflite(
    saved_model: str, calibration: np.ndarray | None, *, int8_inputs: bool = False
) -> bytes:
    """Converts a SavedModel to a TFLite file with fewer bits (quantization).

    Args:
      saved_model: Its directory.
      calibration: Images as the graph is fed them, for weights and activations of 8
        bits; None for weights of 16 bits.
      int8_inputs: Whether inputs and outputs have 8 bits, too; otherwise float32.

    Raises:
      UsageError: TFLite has no form of an operation in whole numbers.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration is None:
        converter.target_spec.supported_types = [tf.float16]
        return converter.convert()

    def representative() -> Iterator[list[np.ndarray]]:
        """The images that the quantization is calibrated on, one by one."""
        for image in calibration:
            yield [image[np.newaxis]]

    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if int8_inputs:
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        return converter.convert()
    except Exception as error:  # The converter raises errors of several classes.
        raise errors.UsageError(
            "--tflite_int8: this network cannot be written in whole numbers"
            f" ({errors.one_line(error)}); leave the flag out, or take --tflite_float16"
        ) from error
