"""Stateless augmentation on the device: one affine map per image, then colours.

How an image changes depends only on the seed, the step and the image's position in the
global batch.  It does not depend on the number of replicas or on what ran before::

    config = augmentation.AugmentConfig(rotation=10)
    images = augmentation.augment_images(
        images, seed=1, step=step, offset=replica * per_replica, config=config
    )

Rotation, zoom, shifts, shear and flip are composed into one matrix, so that pixels are
interpolated only once, bilinearly (`augment_affine`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors, figures, options, splitmix64, xla
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import augment_affine, augment_colors

FORMS = ("gather", "affine_op")

# The place of each drawn number in an image's stream.  New names are added at the end,
# so that the numbers of the others stay the same for a seed.
_DRAWS = (
    *("rotation", "zoom_y", "zoom_x", "shift_y", "shift_x", "shear", "flip"),
    *("brightness", "contrast", "color"),
    *("erase", "erase_area", "erase_ratio", "erase_y", "erase_x"),
    *("erase_red", "erase_green", "erase_blue"),
)
# An erased rectangle: its share of the image, and the smallest ratio of its sides;
# Zhong et al., "Random erasing data augmentation", 2017 (arXiv:1708.04896), section 3.
_ERASE_AREA = (0.02, 0.4)
_ERASE_RATIO = 0.3


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far images are changed; the defaults are the original project's.

    Every range is symmetric, and every value is drawn uniformly from it, as Keras'
    ImageDataGenerator does.
    """

    rotation: float = options.option(
        20.0, "Largest rotation to either side, in degrees (0 to 180)."
    )
    zoom: float = options.option(
        0.15,
        "Height and width are each scaled by a factor from 1 - zoom to 1 + zoom"
        " (0 to 0.9).",
    )
    shift: float = options.option(
        0.2,
        "Largest shift down and across, each as a share of the side (0 to 1).",
    )
    # Keras' generator took radians when 0.15 became the usual value.  Today it takes
    # degrees, and a shear of 0.15 degrees moves no pixel.
    shear: float = options.option(0.15, "Largest angle of shear, in radians (0 to 1).")
    flip: bool = options.option(
        True, "Whether every second image, on average, is mirrored left to right."
    )
    fill: str = options.option(
        "nearest",
        "What is shown outside the image: the nearest pixel, its reflection, or"
        " black (constant).",
        choices=augment_affine.FILLS,
    )
    brightness: float = options.option(
        0.0,
        "Levels are multiplied by a factor from 1 - brightness to 1 + brightness"
        " (0 to 1).",
    )
    contrast: float = options.option(
        0.0,
        "The distance to the image's mean luma is multiplied by a factor from"
        " 1 - contrast to 1 + contrast (0 to 1).",
    )
    color: float = options.option(
        0.0,
        "The distance of a pixel to its own luma (its saturation) is multiplied by a"
        " factor from 1 - color to 1 + color (0 to 1).",
    )
    erasing: float = options.option(
        0.0,
        "Probability that a rectangle is painted over with a random colour (0 to 1).",
    )
    form: str = options.option(
        "auto",
        "How the affine is computed: gather is exact and needs XLA, affine_op is an"
        " operation of TensorFlow, and auto is gather if XLA compiles.",
        choices=("auto", *FORMS),
    )

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise errors.UsageError(
                    f"--augment: {name} takes a number; got {value!r}"
                )
            if not low <= value <= high:  # Refuses NaN, too.
                raise errors.UsageError(
                    f"--augment: {name} takes {low:g} to {high:g}; got {value:g}"
                )
        if not isinstance(self.flip, bool):
            raise errors.UsageError(
                f"--augment: flip takes true or false; got {self.flip!r}"
            )
        for spec in options.specs(AugmentConfig):
            value = getattr(self, spec.name)
            if spec.choices and value not in spec.choices:
                raise errors.UsageError(
                    f"--augment: {spec.name} takes one of {', '.join(spec.choices)};"
                    f" got {value!r}"
                )


_RANGES = {
    "rotation": (0.0, 180.0),
    "zoom": (0.0, 0.9),
    "shift": (0.0, 1.0),
    "shear": (0.0, 1.0),
    "brightness": (0.0, 1.0),
    "contrast": (0.0, 1.0),
    "color": (0.0, 1.0),
    "erasing": (0.0, 1.0),
}


def parse(text: str) -> AugmentConfig | None:
    """The config that ``--augment`` describes.

    Args:
      text: ``none``; ``default``; or fields that differ from the default set, such as
        ``rotation=10,zoom=0.1``; or, starting from no change at all,
        ``none,flip=true,brightness=0.2``.

    Returns:
      None if images are to stay as they are.

    Raises:
      UsageError: A field is unknown, is named twice, or does not take its value.
    """
    words = [word.strip() for word in text.split(",")]
    values: dict[str, Any] = {}
    if words[0] in ("none", "default"):
        if words[0] == "none":
            if len(words) == 1:
                return None
            values = {name: 0.0 for name in _RANGES} | {"flip": False}
        words = words[1:]
    types = {spec.name: spec.type for spec in options.specs(AugmentConfig)}
    given: set[str] = set()
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or name not in types:
            raise errors.UsageError(
                "--augment takes none, default or FIELD=VALUE,... with the fields"
                f" {', '.join(types)}; got {word!r}"
            )
        if name in given:
            raise errors.UsageError(f"--augment names {name} twice; name it once")
        given.add(name)
        values[name] = _parse_setting(name, value, types[name])
    return AugmentConfig(**values)


def _parse_setting(name: str, text: str, kind: type) -> str | bool | float:
    """The value of one setting in the text of ``--augment``."""
    if kind is str:
        return text
    if kind is bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in known:
            raise errors.UsageError(
                f"--augment: {name} takes true or false; got {text!r}"
            )
        return known[text.lower()]
    try:
        return float(text)
    except ValueError as error:
        raise errors.UsageError(
            f"--augment: {name} takes a number; got {text!r}"
        ) from error


def resolve_form(config: AugmentConfig) -> str:
    """The form in which the augmentation runs here: ``gather`` or ``affine_op``.

    The form is chosen once per process, by compiling a small function for the device
    that computes.  For a GPU, a separate process does this, which takes seconds.  A run
    records the form, because the forms differ in the last bits.

    Raises:
      UsageError: The config names ``gather``, and XLA does not compile here.
    """
    # gather is used wherever XLA compiles.  XLA makes one loop of it, which is exact
    # and 3 times as fast as the operation on 2 CPU cores at 64 x 150 x 150 x 3
    # (benchmarks/augment.py).  Without XLA the gather is slower than the operation.
    if config.form == "affine_op":
        return "affine_op"
    reason = xla.why_not()
    if not reason:
        return "gather"
    if config.form == "gather":
        raise errors.UsageError(
            f"--augment: form=gather needs XLA, which does not compile here ({reason});"
            " take form=affine_op or form=auto"
        )
    return "affine_op"


def augment_images(
    images: tf.Tensor | np.ndarray,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    offset: int | tf.Tensor = 0,
    config: AugmentConfig | None = None,
) -> tf.Tensor:
    """Augments each image at random, the same way for any number of replicas.

    Works eagerly, inside ``tf.function`` and inside ``strategy.run``.

    Args:
      images: uint8 or floating ``[B, H, W, 3]`` in [0, 255]; while a function is
        traced, B may be unknown, but not H and W (at most `augment_affine.MAX_SIDE`).
      seed: An integer, or an integer scalar tensor.
      step: Number of the training step, likewise.
      offset: Position of the first image in the global batch, likewise.
      config: Defaults to ``AugmentConfig()``.

    Returns:
      float32 ``[B, H, W, 3]`` in [0, 255].  Levels are not rounded.

    Raises:
      UsageError: The images have another shape or type.
    """
    config = config or AugmentConfig()
    images = tf.convert_to_tensor(images)
    _check_augmentable(images)
    if images.dtype != tf.uint8:
        images = tf.cast(images, tf.float32)
    return _augment_function(config, resolve_form(config))(
        images, _uint64(seed), _uint64(step), _uint64(offset)
    )


def _check_augmentable(images: tf.Tensor) -> None:
    """Refuses a batch of images that cannot be augmented."""
    shape = images.shape
    if shape.rank != 4 or None in shape[1:] or shape[3] != 3:
        raise errors.UsageError(
            "augmentation takes images [B, H, W, 3] with H and W known;"
            f" got shape {shape}"
        )
    if not 1 <= min(shape[1:3]) <= max(shape[1:3]) <= augment_affine.MAX_SIDE:
        raise errors.UsageError(
            f"augmentation takes sides of 1 to {augment_affine.MAX_SIDE} pixels;"
            f" got shape {shape}"
        )
    if images.dtype != tf.uint8 and not images.dtype.is_floating:
        raise errors.UsageError(
            f"augmentation takes uint8 or floating images; got {images.dtype.name}"
        )


@functools.cache
def _augment_function(config: AugmentConfig, form: str) -> Callable[..., tf.Tensor]:
    """The whole augmentation as one function, compiled by XLA for ``gather``."""

    # Cached by config: each config is traced once for the whole process.
    def augment(
        images: tf.Tensor, seed: tf.Tensor, step: tf.Tensor, offset: tf.Tensor
    ) -> tf.Tensor:
        """Augments a batch of images."""
        drawn = _draw_numbers(tf.shape(images)[0], seed, step, offset)
        height, width = images.shape[1:3]
        values = _scaled_parameters(drawn, height, width, config)
        transform = (
            augment_affine.gather if form == "gather" else augment_affine.affine_op
        )
        result = transform(images, _affine_matrices(values), config.fill)
        if config.brightness or config.contrast or config.color:
            result = augment_colors.recolor(
                result, images, values, saturate=config.color > 0
            )
        if config.erasing:
            result = augment_colors.erase_rectangles(result, values)
        return result

    # Autograph is off, because no branch here depends on a tensor's value.  For
    # affine_op, jit_compile is None, TensorFlow's default: the function is not compiled
    # by itself.
    return tf.function(augment, jit_compile=form == "gather" or None, autograph=False)


def parameters(
    batch_size: int,
    height: int,
    width: int,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    offset: int | tf.Tensor = 0,
    config: AugmentConfig,
) -> dict[str, tf.Tensor]:
    """What the augmentation does to each image of a batch.

    Returns:
      float64 ``[B]`` by name: ``rotation`` and ``shear`` (radians), ``zoom_y``,
      ``zoom_x``, ``shift_y``, ``shift_x`` (pixels), ``flip`` (0 or 1), ``brightness``,
      ``contrast``, ``color`` (factors), and the erased rectangle ``erase_top``,
      ``erase_left``, ``erase_height``, ``erase_width`` (pixels; heights of 0 erase
      nothing), ``erase_red``, ``erase_green``, ``erase_blue``.
    """
    drawn = _draw_numbers(batch_size, _uint64(seed), _uint64(step), _uint64(offset))
    return _scaled_parameters(drawn, height, width, config)


def _draw_numbers(
    batch_size: int | tf.Tensor, seed: tf.Tensor, step: tf.Tensor, offset: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The random numbers of an augmentation: float64 ``[B]`` by name, in [0, 1)."""
    # The numbers are hashes of (seed, step, position, place in the stream).
    # TensorFlow's generators cannot be used: they count a tensor's elements from 0, so
    # that a replica could not draw its own part of a batch, and they give other numbers
    # under XLA.
    position = tf.cast(tf.range(batch_size, dtype=tf.int32), tf.uint64) + offset
    mix, gamma = splitmix64.mix, splitmix64.GAMMA
    row = mix(mix(mix(seed + splitmix64.word(gamma)) + step) + position)
    places = np.arange(1, len(_DRAWS) + 1, dtype=np.uint64) * np.uint64(gamma)
    bits = mix(row[:, tf.newaxis] + tf.constant(places))
    # The upper 24 bits are used, which float64 and float32 both represent exactly.
    upper = tf.cast(tf.bitwise.right_shift(bits, splitmix64.word(40)), tf.int32)
    # The type is float64, because compilers round the last bits differently.  In
    # float64, these bits are far below the fixed-point grid to which `augment_affine`
    # rounds.
    uniform = tf.cast(upper, tf.float64) * 2.0**-24
    return dict(zip(_DRAWS, tf.unstack(uniform, axis=1), strict=True))


def _uint64(value: int | tf.Tensor) -> tf.Tensor:
    """The seed or step of an augmentation as uint64 tensor, modulo 2^64."""
    if isinstance(value, int | np.integer):
        return splitmix64.word(int(value))
    return tf.cast(tf.cast(value, tf.int64), tf.uint64)


def _scaled_parameters(
    drawn: dict[str, tf.Tensor], height: int, width: int, config: AugmentConfig
) -> dict[str, tf.Tensor]:
    """Converts the random numbers of an augmentation to its parameters."""
    signed = {name: 2.0 * value - 1.0 for name, value in drawn.items()}
    values = {
        "rotation": signed["rotation"] * math.radians(config.rotation),
        "shear": signed["shear"] * config.shear,
        "zoom_y": 1.0 + signed["zoom_y"] * config.zoom,
        "zoom_x": 1.0 + signed["zoom_x"] * config.zoom,
        "shift_y": signed["shift_y"] * (config.shift * height),
        "shift_x": signed["shift_x"] * (config.shift * width),
        "flip": tf.cast(drawn["flip"] < (0.5 if config.flip else 0.0), tf.float64),
    }
    for name in ("brightness", "contrast", "color"):
        values[name] = 1.0 + signed[name] * getattr(config, name)
    low, high = _ERASE_AREA
    area = low + (high - low) * drawn["erase_area"]
    # The ratio's logarithm is uniform, so that wide and tall are equally likely.
    ratio = tf.exp(signed["erase_ratio"] * -math.log(_ERASE_RATIO))
    erased = tf.cast(drawn["erase"] < config.erasing, tf.float64)
    for name, place, side, share in (
        ("height", "top", height, tf.sqrt(area * ratio)),
        ("width", "left", width, tf.sqrt(area / ratio)),
    ):
        length = tf.minimum(tf.round(share * side), side)
        room = side - length + 1.0
        start = drawn["erase_y" if place == "top" else "erase_x"] * room
        values[f"erase_{name}"] = length * erased
        values[f"erase_{place}"] = tf.floor(start)
    for name in ("erase_red", "erase_green", "erase_blue"):
        values[name] = drawn[name] * 255.0
    return values


def _affine_matrices(values: dict[str, tf.Tensor]) -> tf.Tensor:
    """Matrices from output to source, float64 ``[B, 2, 3]``, for `augment_affine`.

    The order and axes are those of Keras' ImageDataGenerator: rotation, shift, shear
    (of columns by rows) and zoom, counted from the source, then the flip of the result.
    """
    angle = values["rotation"]
    sheared = angle + values["shear"]
    sine, cosine = tf.sin(angle), tf.cos(angle)
    shift_y, shift_x = values["shift_y"], values["shift_x"]
    zoom_y = values["zoom_y"]
    zoom_x = values["zoom_x"] * (1.0 - 2.0 * values["flip"])
    rows = (
        (tf.cos(sheared) * zoom_y, sine * zoom_x, sine * shift_x + cosine * shift_y),
        (-tf.sin(sheared) * zoom_y, cosine * zoom_x, cosine * shift_x - sine * shift_y),
    )
    return tf.stack([tf.stack(row, axis=-1) for row in rows], axis=1)


def preview(
    images: np.ndarray,
    path: str,
    config: AugmentConfig,
    seed: int,
    *,
    num_steps: int = 4,
) -> None:
    """Draws images, and below each its augmented versions in the first steps.

    Args:
      images: uint8 ``[N, H, W, 3]``, the first of a global batch; 10 are shown.
      path: The PNG to write; a failed write leaves no partial file.
      config: As for training.
      seed: As for training.
      num_steps: Number of steps, with one row for each.
    """
    images = np.asarray(images)[:10]
    rows = [images] + [
        augment_images(images, seed=seed, step=step, config=config).numpy()
        for step in range(num_steps)
    ]
    titles = ["original"] + [f"step {step}" for step in range(num_steps)]
    figure = figures.new(1.4 * len(images) + 0.5, 1.4 * len(rows))
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for axes_row, row, title in zip(grid, rows, titles, strict=True):
        for axes, image in zip(axes_row, row, strict=True):
            axes.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(title)
    figures.save(path, figure)
