"""Brightness, contrast, saturation and erased rectangles of augmented images."""

from __future__ import annotations

from collections.abc import Mapping

from afad_tfdata.common.lazy_imports import tf

# Weights of red, green and blue in the luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


def recolor(
    images: tf.Tensor,
    originals: tf.Tensor,
    values: Mapping[str, tf.Tensor],
    *,
    saturate: bool,
) -> tf.Tensor:
    """Changes saturation, brightness and contrast in one linear pass, and clips.

    Contrast is changed around the mean of the image before the affine transformation,
    so that it does not depend on what was shifted out of the image.

    Args:
      images: float32 ``[B, H, W, 3]`` in [0, 255].
      originals: uint8 or float32 ``[B, H, W, 3]``: the images before the affine.
      values: float64 ``[B]``: factors ``brightness``, ``contrast``, ``color``, where 1
        changes nothing.
      saturate: False if every ``color`` is 1, which saves a pass.

    Returns:
      float32 ``[B, H, W, 3]`` in [0, 255].
    """
    # A row's sum of levels is exact in float32 (at most 8192 times 255, below 2^24),
    # and the sum of rows is exact in float64, in whatever order a device adds them.
    by_row = tf.reduce_sum(tf.cast(originals, tf.float32), axis=2)
    sums = tf.reduce_sum(tf.cast(by_row, tf.float64), axis=1)
    mean = tf.reduce_sum(sums * tf.constant(LUMA, tf.float64), axis=1)
    mean /= originals.shape[1] * originals.shape[2]
    pivot = mean * values["brightness"] * (1.0 - values["contrast"])
    gain = values["brightness"] * values["contrast"]
    if saturate:
        images = _saturate(images, values["color"])
    changed = images * _colors_per_image(gain) + _colors_per_image(pivot)
    return tf.clip_by_value(changed, 0.0, 255.0)


def _saturate(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Scales the distance of a pixel's colour to its luma."""
    # A matrix product, because XLA does not fuse it.  It would fuse a sum over channels
    # with the affine, which would then be computed once for each channel of the sum.
    luma = tf.constant(LUMA, tf.float64)[:, tf.newaxis] * tf.ones([1, 3], tf.float64)
    factors = factors[:, tf.newaxis, tf.newaxis]
    matrices = tf.eye(3, dtype=tf.float64) * factors + luma * (1.0 - factors)
    shape = tf.shape(images)
    pixels = tf.reshape(images, [shape[0], -1, 3])
    return tf.reshape(tf.matmul(pixels, tf.cast(matrices, tf.float32)), shape)


def erase_rectangles(images: tf.Tensor, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Paints a rectangle over each augmented image.

    Args:
      images: float32 ``[B, H, W, 3]``.
      values: float64 ``[B]``: ``erase_top``, ``erase_left``, ``erase_height`` (0 for
        no rectangle), ``erase_width`` (pixels), ``erase_red``, ``erase_green``,
        ``erase_blue``.

    Returns:
      float32 ``[B, H, W, 3]``.
    """
    height, width = images.shape[1:3]
    y = tf.range(height, dtype=tf.float32)[:, tf.newaxis, tf.newaxis]
    x = tf.range(width, dtype=tf.float32)[:, tf.newaxis]
    top, left, tall, wide = (
        _colors_per_image(values[f"erase_{name}"])
        for name in ("top", "left", "height", "width")
    )
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    names = ("erase_red", "erase_green", "erase_blue")
    paint = tf.cast(tf.stack([values[n] for n in names], axis=-1), tf.float32)
    return tf.where(inside, paint[:, tf.newaxis, tf.newaxis, :], images)


def _colors_per_image(value: tf.Tensor) -> tf.Tensor:
    """Gives one value of a colour change for each image the shape of images."""
    return tf.cast(value, tf.float32)[:, tf.newaxis, tf.newaxis, tf.newaxis]
