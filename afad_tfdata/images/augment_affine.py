"""One bilinear affine transformation per image, in two forms: with and without XLA.

Both forms take the same matrices.  They agree with ``scipy.ndimage.affine_transform``
at ``order=1``, with the mode of the same name:

* ``nearest``: the pixel at the edge is repeated without end (aaaa|abcd|dddd);
* ``reflect``: mirrored at the edge of the last pixel (dcba|abcd|dcba);
* ``constant``: 0 wherever the source is outside the outermost pixels' centres.

`gather` rounds coordinates to integers with a fixed number of fraction bits.  For uint8
images, everything after that is integer arithmetic.  The result therefore has the same
bits on every machine, however a compiler fuses multiplications and additions.
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf

FILLS = ("nearest", "reflect", "constant")
MAX_SIDE = 8192

# A coordinate is an int32: its sign, 3 bits for up to 8 sides in either direction (more
# than any shift, zoom and shear of a config reaches), 28 for the side and the fraction.
_COORDINATE_BITS = 28
# A level has 8 bits and is multiplied by two weights of 11: 30 bits fit into an int32.
# Rounding the weights costs at most 2 * 255 / 4096, an eighth of a level.
_WEIGHT_BITS = 11
# Pixels.  With `constant`, a pixel whose source is exactly at the edge must not turn
# black because of the last bit of a sine.
_EDGE = 1e-4


def gather(images: tf.Tensor, matrices: tf.Tensor, fill: str) -> tf.Tensor:
    """Transforms images affinely by reading four neighbours for each pixel, for XLA.

    Args:
      images: uint8 or float32 ``[B, H, W, 3]`` in [0, 255]; H and W at most
        `MAX_SIDE` and known when the function is traced.
      matrices: float64 ``[B, 2, 3]``: output to source, both as (row, column)
        relative to the image's centre, in pixels.
      fill: One of `FILLS`.

    Returns:
      float32 ``[B, H, W, 3]``.
    """
    height, width = images.shape[1:3]
    bits = _COORDINATE_BITS - max(height, width).bit_length()
    rows, columns = (
        _source_coordinates(matrices[:, axis], side, (height, width), bits)
        for axis, side in enumerate((height, width))
    )
    inside = None
    if fill == "constant":
        edge = round(_EDGE * 2**bits)
        inside = _are_within(rows, -edge, ((height - 1) << bits) + edge)
        inside &= _are_within(columns, -edge, ((width - 1) << bits) + edge)
    kept = _WEIGHT_BITS if images.dtype == tf.uint8 else bits
    top, bottom, row_weight = _neighbour_indices(rows, height, bits, kept, fill)
    left, right, column_weight = _neighbour_indices(columns, width, bits, kept, fill)
    pixels = tf.reshape(images, [tf.shape(images)[0], height * width, 3])

    def read(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        """Reads the pixels at these rows and columns of each image."""
        found = tf.gather(pixels, row * width + column, batch_dims=1)
        return tf.cast(found, tf.int32) if images.dtype == tf.uint8 else found

    corners = (
        read(top, left),
        read(top, right),
        read(bottom, left),
        read(bottom, right),
    )
    if images.dtype == tf.uint8:
        one = 1 << kept
        blended = _blend_neighbours(corners, row_weight, column_weight, one)
        result = tf.cast(blended, tf.float32) * np.float32(1 / one**2)
    else:
        scale = np.float32(2.0**-kept)
        result = _blend_neighbours(
            corners,
            tf.cast(row_weight, tf.float32) * scale,
            tf.cast(column_weight, tf.float32) * scale,
            np.float32(1),
        )
    if inside is not None:
        result = tf.where(inside[..., tf.newaxis], result, tf.zeros([], tf.float32))
    return result


def affine_op(images: tf.Tensor, matrices: tf.Tensor, fill: str) -> tf.Tensor:
    """Transforms images affinely by TensorFlow's operation, which XLA does not compile.

    Arguments and result are those of `gather`.  Coordinates and weights are rounded
    differently: the results differ by less than half a level.
    """
    height, width = images.shape[1:3]
    center = tf.constant([(height - 1) / 2, (width - 1) / 2], tf.float64)
    linear = matrices[:, :, :2]
    offset = matrices[:, :, 2] + center - tf.linalg.matvec(linear, center)
    # The operation counts (column, row), with the column's factor first.
    by_column = tf.stack(
        [linear[:, 1, 1], linear[:, 1, 0], offset[:, 1]]
        + [linear[:, 0, 1], linear[:, 0, 0], offset[:, 0]],
        axis=-1,
    )
    transforms = tf.cast(by_column, tf.float32)
    # The operation's own CONSTANT blends the edge with the fill value; scipy's
    # `constant` does not.  NEAREST with a mask gives scipy's result.
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.pad(transforms, [[0, 0], [0, 2]]),
        output_shape=tf.constant([height, width], tf.int32),
        fill_value=tf.constant(0.0),
        interpolation="BILINEAR",
        fill_mode="REFLECT" if fill == "reflect" else "NEAREST",
    )
    if fill == "constant":
        # The type is float32, because TensorFlow has no int32 kernels on GPUs without
        # XLA.
        factors = transforms[:, :, tf.newaxis, tf.newaxis]
        x = tf.range(width, dtype=tf.float32)
        y = tf.range(height, dtype=tf.float32)[:, tf.newaxis]
        columns = factors[:, 0] * x + factors[:, 1] * y + factors[:, 2]
        rows = factors[:, 3] * x + factors[:, 4] * y + factors[:, 5]
        inside = _are_within(rows, -_EDGE, height - 1 + _EDGE)
        inside &= _are_within(columns, -_EDGE, width - 1 + _EDGE)
        result *= tf.cast(inside, tf.float32)[..., tf.newaxis]
    return result


def _source_coordinates(
    factors: tf.Tensor, side: int, shape: tuple[int, int], bits: int
) -> tf.Tensor:
    """Source coordinates along one axis: int32 ``[B, H, W]`` in units of 2^-bits px."""
    # Twice the distance to the centre is an integer, so the factor is halved.
    y = 2 * tf.range(shape[0], dtype=tf.int32)[:, tf.newaxis] - (shape[0] - 1)
    x = 2 * tf.range(shape[1], dtype=tf.int32) - (shape[1] - 1)
    half = tf.cast(tf.round(factors[:, :2] * 2.0 ** (bits - 1)), tf.int32)
    offset = factors[:, 2] + (side - 1) / 2
    offset = tf.cast(tf.round(offset * 2.0**bits), tf.int32)
    half = half[:, :, tf.newaxis, tf.newaxis]
    return half[:, 0] * y + half[:, 1] * x + offset[:, tf.newaxis, tf.newaxis]


def _neighbour_indices(
    coordinates: tf.Tensor, side: int, bits: int, kept: int, fill: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The indices of both neighbours, and the second one's weight in units of 2^-kept.

    Indices are int32 ``[B, H, W]``, the weight ``[B, H, W, 1]``.
    """
    if fill == "reflect":
        period, half = (2 * side) << bits, 1 << (bits - 1)
        folded = tf.math.floormod(coordinates + half, period)
        coordinates = tf.minimum(folded, period - folded) - half
    if kept < bits:
        dropped = bits - kept
        # The value is rounded and not cut off, by adding half of a unit before the
        # shift.
        coordinates = tf.bitwise.right_shift(
            coordinates + (1 << (dropped - 1)), dropped
        )
    coordinates = tf.clip_by_value(coordinates, 0, (side - 1) << kept)
    first = tf.bitwise.right_shift(coordinates, kept)
    weight = tf.bitwise.bitwise_and(coordinates, (1 << kept) - 1)
    return first, tf.minimum(first + 1, side - 1), weight[..., tf.newaxis]


def _blend_neighbours(
    corners: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor],
    row_weight: tf.Tensor,
    column_weight: tf.Tensor,
    one: int | np.float32,
) -> tf.Tensor:
    """The bilinear mean, times the square of `one`, the integer that represents 1."""
    top_left, top_right, bottom_left, bottom_right = corners
    top = top_left * one + (top_right - top_left) * column_weight
    bottom = bottom_left * one + (bottom_right - bottom_left) * column_weight
    return top * one + (bottom - top) * row_weight


def _are_within(values: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Which source coordinates of an affine transformation are inside the image."""
    return (values >= low) & (values <= high)
