"""The square around a face: which pixels it has, at borders, in large photos."""

import json
import tracemalloc

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.images import codec, face_crop


def ramp(height, width):
    """A photo in which every pixel shows where it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, y + x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "margin", "square"),
    [
        ((10, 20, 30, 40), 0.0, (10, 20, 30, 40)),
        ((10, 20, 20, 40), 0.0, (5, 20, 25, 40)),  # The longer side decides.
        ((10, 20, 30, 40), 0.5, (0, 10, 40, 50)),
        ((0, 0, 20, 20), 0.25, (-5, -5, 25, 25)),  # Beyond the photo's edge.
        ((0.4, 0.4, 10.4, 10.4), 0.0, (0, 0, 10, 10)),
        ((0.5, 1.5, 10.5, 11.5), 0.0, (1, 2, 11, 12)),  # Halves are rounded up.
        ((5.1, 5.1, 5.2, 5.2), 0.0, (5, 5, 6, 6)),  # Never empty.
    ],
)
def test_square(box, margin, square):
    assert face_crop.FaceCrop(margin=margin).square(box) == square


def test_a_crop_of_the_final_size_has_the_photos_pixels():
    photo = ramp(60, 80)
    pixels = face_crop.FaceCrop(size=20).cut(photo, (30, 10, 50, 30))
    np.testing.assert_array_equal(pixels, photo[10:30, 30:50])


def test_a_crop_is_resized_with_antialiasing():
    photo = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    pixels = face_crop.FaceCrop(size=30).cut(photo, (0, 0, 90, 90))
    np.testing.assert_array_equal(pixels, codec.resize(photo, 30, antialias=True))


@pytest.mark.parametrize(
    ("border", "outside"), [("replicate", (0, 0, 0)), ("constant", (127, 127, 127))]
)
def test_beyond_the_edge(border, outside):
    photo = ramp(40, 40)
    pixels = face_crop.FaceCrop(border=border, size=20).cut(photo, (-10, -10, 10, 10))
    np.testing.assert_array_equal(pixels[10:, 10:], photo[:10, :10])
    assert tuple(pixels[0, 0]) == outside
    far = face_crop.FaceCrop(border=border, size=20).cut(photo, (30, 30, 50, 50))
    assert tuple(far[-1, -1]) == ((39, 39, 78) if border == "replicate" else outside)


@pytest.mark.parametrize("square", [(0, 0, 2400, 2400), (-600, -420, 2880, 3060)])
def test_a_large_crop_is_that_of_the_whole_photo_and_takes_little_memory(square):
    height, width = 2400, 2400
    y, x = np.mgrid[:height, :width]
    photo = np.stack([y // 16, x // 16, (y + x) // 32], axis=-1).astype(np.uint8)
    crop = face_crop.FaceCrop(size=100)
    tracemalloc.start()
    pixels = crop.cut(photo, square)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    side = square[2] - square[0]
    # The value at the centre of each pixel of the result.
    at = (np.arange(100) + 0.5) * side / 100
    rows = np.clip(square[1] + at, 0, height - 1) / 16
    columns = np.clip(square[0] + at, 0, width - 1) / 16
    assert np.abs(pixels[..., 0] - rows[:, None]).max() < 2.5
    assert np.abs(pixels[..., 1] - columns[None, :]).max() < 2.5
    assert peak < photo.nbytes


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, 30, 30), ""),
        ((-5, -5, 30, 30), ""),  # It may reach beyond the photo,
        ((90, 40, 130, 80), "outside"),  # but its centre may not be there.
        ((10, 10, 10, 30), "empty"),
        ((30, 10, 10, 30), "empty"),
        ((0, 0, float("nan"), 10), "empty"),
        ((0, 0, float("inf"), 10), "empty"),
        ((-200, -200, 250, 250), "twice as large"),
    ],
)
def test_why_unusable(box, reason):
    found = face_crop.why_no_crop(box, 60, 100)
    assert reason in found
    assert bool(reason) == bool(found)


def test_every_usable_box_can_be_cut():
    rng = np.random.default_rng(1)
    photo = ramp(9, 13)
    for _ in range(300):
        x1, y1 = rng.uniform(-13, 13, 2)
        box = (x1, y1, x1 + rng.uniform(0.01, 26), y1 + rng.uniform(0.01, 26))
        crop = face_crop.FaceCrop(margin=float(rng.uniform(0, 1)), size=7)
        if not face_crop.why_no_crop(box, 9, 13):
            assert crop.cut(photo, crop.square(box)).shape == (7, 7, 3)


def test_json_gives_the_same_crop():
    crop = face_crop.FaceCrop(0.25, "constant", 96, "mtcnn 1.0.0")
    assert face_crop.crop_from_json(json.loads(json.dumps(crop.to_json()))) == crop
    assert face_crop.crop_from_json(None) is None
    assert face_crop.crop_from_json({}) is None


@pytest.mark.parametrize(
    "value", [{"margin": "wide"}, {"border": "mirror"}, {"margin": -1}, [1], "0.1"]
)
def test_damaged_json_is_refused(value):
    with pytest.raises(errors.DataError, match="face crop is damaged"):
        face_crop.crop_from_json(value)


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan")])
def test_impossible_margins_are_refused(margin):
    with pytest.raises(errors.UsageError, match="face_margin"):
        face_crop.FaceCrop(margin=margin)
