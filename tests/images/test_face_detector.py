"""Detectors: the caller's own, what they may return, and that of the extra."""

import sys

import numpy as np
import pytest

from afad_tfdata import faces
from afad_tfdata.common import errors
from afad_tfdata.images import codec, drawn_faces, face_crop, face_detector

PHOTO = np.zeros((100, 200, 3), np.uint8)


def test_faces_are_listed_from_left_to_right_then_from_top_to_bottom():
    found = [(50, 0, 60, 10), (10, 40, 30, 60), (10, 5, 30, 25)]
    expected = [(10, 5, 30, 25), (10, 40, 30, 60), (50, 0, 60, 10)]
    for kind in (list, np.array, np.float32):
        assert faces.find_faces(PHOTO, lambda photo, k=kind: k(found)) == expected


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.zeros(0)])
def test_a_photo_may_have_no_face(nothing):
    assert faces.find_faces(PHOTO, lambda photo: nothing) == []


def test_faces_outside_of_the_photo_are_left_out():
    boxes = [(300, 10, 320, 30), (10, 10, 30, 30), (40, 40, 40, 60)]
    assert faces.find_faces(PHOTO, lambda photo: boxes) == [(10, 10, 30, 30)]


@pytest.mark.parametrize(
    "wrong", [None, "face", [1, 2, 3, 4], [[1, 2, 3]], [[1, 2, 3, np.nan]], [["a"] * 4]]
)
def test_other_results_are_refused(wrong):
    with pytest.raises(errors.UsageError, match=r"must return boxes \[n, 4\]"):
        faces.find_faces(PHOTO, lambda photo: wrong)


def test_a_failing_detector_is_named_in_one_line():
    def broken(photo):
        raise KeyError("weights\nmissing")

    with pytest.raises(errors.UsageError, match="detector broken failed: KeyError"):
        faces.find_faces(PHOTO, broken)


def test_cut_faces_gives_the_square_and_its_pixels():
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    crop = face_crop.FaceCrop(margin=0.5, size=20)
    ((square, pixels),) = faces.cut_faces(photo, crop, lambda p: [(30, 20, 40, 30)])
    assert square == (25, 15, 45, 35)
    np.testing.assert_array_equal(pixels, photo[15:35, 25:45])


def test_a_detector_is_imported_by_name(tmp_path, monkeypatch):
    tmp_path.joinpath("my_finder.py").write_text(
        "number = 3\ndef left_half(photo):\n"
        "    return [(0, 0, photo.shape[1] / 2, photo.shape[0])]\n"
    )
    tmp_path.joinpath("broken_finder.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)  # Console commands do not look there by themselves.
    before = list(sys.path)
    found = faces.load_detector("my_finder:left_half")
    assert faces.find_faces(PHOTO, found) == [(0, 0, 100, 100)]
    assert faces.load_detector("my_finder:left_half") is found  # Loaded once.
    assert sys.path == before
    for name, message in (
        ("yolo", "takes mtcnn or MODULE:FUNCTION; got 'yolo'"),
        ("my_finder:", "got 'my_finder:'"),
        ("my_finder:right", "AttributeError"),
        ("my_finder:number", "not a function"),
        ("no_such_finder:find", "ModuleNotFoundError"),
        ("broken_finder:find", "ZeroDivisionError"),
    ):
        with pytest.raises(errors.UsageError, match=message):
            faces.load_detector(name)


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    face_detector.load_detector.cache_clear()
    with pytest.raises(errors.UsageError) as caught:
        faces.find_faces(PHOTO)
    assert "pip install 'afad-tfdata[faces]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def drawn_photo():
    """Three drawn faces that MTCNN finds, and their squares; it misses most others."""
    side = 120
    photo = np.full((260, 700, 3), 127, np.uint8)
    lefts = {(100000, 1): 40, (100001, 0): 290, (100028, 0): 520}
    squares = []
    for face in drawn_faces.faces(60, seed=1):
        left = lefts.get((face.photo, face.number))
        if left is not None:
            top = 40 + left // 10
            image = codec.resize(drawn_faces.draw(face, 1), side)
            photo[top : top + side, left : left + side] = image
            squares.append((left, top, left + side, top + side))
    return photo, squares


def test_the_extra_finds_faces_and_nothing_where_there_is_none():
    pytest.importorskip("mtcnn")
    photo, squares = drawn_photo()
    boxes = faces.find_faces(photo)
    assert len(boxes) == 3
    for (x1, y1, x2, y2), square in zip(boxes, squares, strict=True):
        assert square[0] < (x1 + x2) / 2 < square[2]
        assert square[1] < (y1 + y2) / 2 < square[3]
        assert x2 - x1 == pytest.approx(y2 - y1)
    assert faces.find_faces(np.full((300, 300, 3), 90, np.uint8)) == []
    assert faces.find_faces(np.zeros((2, 900, 3), np.uint8)) == []


def test_a_large_photo_is_searched_at_a_bounded_size():
    pytest.importorskip("mtcnn")
    photo, _ = drawn_photo()
    small = faces.find_faces(photo)
    large = faces.find_faces(photo.repeat(5, axis=0).repeat(5, axis=1))
    assert len(large) == len(small)
    np.testing.assert_allclose(np.array(large) / 5, small, atol=12)


def test_weights_in_the_current_directory_are_not_loaded(tmp_path, monkeypatch):
    pytest.importorskip("mtcnn")
    tmp_path.joinpath("pnet.lz4").write_bytes(b"not weights")
    monkeypatch.chdir(tmp_path)
    face_detector.load_detector.cache_clear()
    assert faces.find_faces(PHOTO) == []
