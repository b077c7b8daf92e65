"""Resizing in numpy, with the arithmetic of OpenCV.

Where OpenCV is not installed, these two functions take its place.  They give the same
pixels to the last bit, so that a data set does not depend on what is installed.  That
matters most for JPEGs, where one level before encoding becomes ten after decoding.
Pillow cannot be used: its bilinear filter rounds down, and its box filter weighs a
pixel by its centre instead of by the part that is covered.
"""

from __future__ import annotations

import functools
import math

import numpy as np

# Bits of a bilinear weight.
_WEIGHT_BITS = 11
# A part of a pixel below this is not counted.
_SMALLEST_PART = 1e-3
# Number of new rows that are averaged at a time: the copy in float32 stays small for
# large photos.
_AVERAGED_ROWS = 16


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes by interpolation between the nearest pixels, as OpenCV's INTER_LINEAR.

    Args:
      image: uint8 ``[height, width, 3]``.
      size: Side of the result, pixels.

    Returns:
      uint8 ``[size, size, 3]``.
    """
    height, width, channels = image.shape
    top, down = _nearest_old_pixels(height, size)
    both = np.clip([top, top + 1], 0, height - 1)
    # Most rows of a large photo are not needed.
    needed, places = np.unique(both, return_inverse=True)
    above, below = places.reshape(2, size)
    left, part = _nearest_old_pixels(width, size)
    # Outside the outer centres only the nearest column counts.
    part[(left < 0) | (left >= width - 1)] = 0
    near, far = _interpolation_weights(np.repeat(part, channels))
    pixels = image[needed].reshape(len(needed), -1).astype(np.int32)
    rows = pixels[:, _value_positions(np.clip(left, 0, width - 1), channels)] * near
    rows += pixels[:, _value_positions(np.clip(left + 1, 0, width - 1), channels)] * far
    # OpenCV multiplies 16-bit numbers here, and keeps the upper half of each product.
    rows >>= 4
    near, far = (weights[:, None] for weights in _interpolation_weights(down))
    square = (rows[above] * near >> 16) + (rows[below] * far >> 16) + 2 >> 2
    return square.astype(np.uint8).reshape(size, size, channels)


def _value_positions(columns: np.ndarray, channels: int) -> np.ndarray:
    """The positions of the values of these columns in a row of pixels to be resized.

    numpy multiplies long rows of values several times faster than three at a time.
    """
    return (columns[:, None] * channels + np.arange(channels)).reshape(-1)


def _nearest_old_pixels(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each new pixel: the last old centre before it, and the distance to that."""
    centres = (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5
    exact = centres.astype(np.float32)
    before = np.floor(exact)
    return before.astype(np.int64), exact - before


def _interpolation_weights(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the nearer and the farther pixel, in units of 2 ** -11."""
    unit = np.float32(1 << _WEIGHT_BITS)
    near = np.rint((np.float32(1) - part) * unit)
    return near.astype(np.int32), np.rint(part * unit).astype(np.int32)


def area(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes by averages over the area of each new pixel, as OpenCV's INTER_AREA.

    Args:
      image: uint8 ``[height, width, 3]``; both sides are at least `size`.
      size: Side of the result, pixels.

    Returns:
      uint8 ``[size, size, 3]``.
    """
    height, width, channels = image.shape
    down, across = height // size, width // size
    if (height, width) == (down * size, across * size):
        # Whole pixels are summed in integers.
        blocks = image.reshape(size, down, size, across, channels)
        sums = blocks.sum(axis=(1, 3), dtype=np.int64)
        if down == across == 2:
            return (sums + 2 >> 2).astype(np.uint8)
        averages = sums.astype(np.float32) * np.float32(1 / (down * across))
    else:
        averages = _weighted_averages(image, size)
    return np.rint(averages).astype(np.uint8)


def _weighted_averages(image: np.ndarray, size: int) -> np.ndarray:
    """Averages old pixels by their part of the area, added in OpenCV's order."""
    height, width, channels = image.shape
    columns, column_weights = _covered_pixels(width, size)
    rows, row_weights = _covered_pixels(height, size)
    taken = [_value_positions(column, channels) for column in columns]
    factors = np.repeat(column_weights, channels, axis=1)
    flat = image.reshape(height, width * channels)
    averages = np.zeros((size, size * channels), np.float32)
    for first in range(0, size, _AVERAGED_ROWS):
        last = min(first + _AVERAGED_ROWS, size)
        low, high = rows[:, first:last].min(), rows[:, first:last].max() + 1
        old = flat[low:high].astype(np.float32)
        narrow = np.zeros((high - low, size * channels), np.float32)
        for place, factor in zip(taken, factors, strict=True):
            narrow += old[:, place] * factor
        for row, weight in zip(rows, row_weights, strict=True):
            averages[first:last] += (
                narrow[row[first:last] - low] * weight[first:last, None]
            )
    return averages.reshape(size, size, channels)


@functools.lru_cache(maxsize=64)
def _covered_pixels(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """The old pixels that each new one covers when it is resized, and their weights.

    Both are ``[largest count, new]``.  Unused places repeat the last pixel at weight 0.
    """
    scale = 1 / (new / old)
    count = math.ceil(scale) + 2
    pixels = np.zeros((count, new), np.int64)
    weights = np.zeros((count, new), np.float32)
    for position in range(new):
        start = position * scale
        end = start + scale
        width = min(scale, old - start)
        last = min(math.floor(end), old - 1)
        first = min(math.ceil(start), last)
        parts = [(pixel, 1 / width) for pixel in range(first, last)]
        if first - start > _SMALLEST_PART:
            parts.insert(0, (first - 1, (first - start) / width))
        if end - last > _SMALLEST_PART:
            parts.append((last, min(end - last, 1, width) / width))
        pixels[:, position] = parts[-1][0]
        for place, (pixel, weight) in enumerate(parts):
            pixels[place, position] = pixel
            weights[place, position] = weight
    return pixels, weights
