"""Resizing without OpenCV gives OpenCV's own pixels, whatever the sides."""

import numpy as np
import pytest

from afad_tfdata.images import numpy_resizing

cv2 = pytest.importorskip("cv2")


def _image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, or flat squares of 8 pixels, whose averages are often exact halves."""
    if rng.integers(2):
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    squares = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.kron(squares, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()


def _sides(rng: np.random.Generator, trial: int, size: int) -> tuple[int, int]:
    """Sides of at least `size`; each kind that OpenCV treats in a way of its own."""
    multiples = {0: (2, 2), 1: (3, 3), 2: (2, 4), 3: (1, 2), 4: (5, 1)}
    if trial % 8 in multiples:
        down, across = multiples[trial % 8]
        return down * size, across * size
    height, width = (size + rng.integers(0, 200, 2)).tolist()
    return height, width if trial % 3 else height


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_averaged_as_opencv_does(seed):
    rng = np.random.default_rng(seed)
    for trial in range(100):
        size = int(rng.integers(1, 160))
        image = _image(rng, *_sides(rng, trial, size))
        expected = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(numpy_resizing.area(image, size), expected)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_are_interpolated_as_opencv_does(seed):
    rng = np.random.default_rng(seed)
    for trial in range(100):
        size = int(rng.integers(1, 160))
        sides = rng.integers(1, 250, 2).tolist() if trial % 2 else [2 * size] * 2
        image = _image(rng, *sides)
        expected = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(numpy_resizing.bilinear(image, size), expected)
