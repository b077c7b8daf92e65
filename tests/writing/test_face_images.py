"""Writing the faces of photos: which are cut, which are rejected, what is recorded."""

import glob
import json
import os

import h5py
import numpy as np
import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.images import face_crop
from tests.predicting import test_find_faces

SQUARES = test_find_faces.SQUARES
DETECTOR = """
import numpy as np
calls = []
def squares(photo):
    open(f"loaded.{__import__('os').getpid()}", "a").close()
    boxes, rest = [], photo[..., 0] >= 247
    rest = rest.copy()
    while rest.any():
        y, x = np.argwhere(rest)[0]
        w = np.argmin(np.append(rest[y, x:], False))
        h = np.argmin(np.append(rest[y:, x], False))
        rest[y:y + h, x:x + w] = False
        boxes.append((x, y, x + w, y + h))
    return boxes
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A tree of photos with 0 to 3 faces, and a module that finds them."""
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("square_finder.py").write_text(DETECTOR)
    for number in range(24):
        folder = tmp_path / "photos" / str(20 + number % 3) / ("111", "112")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        # Different pixels in each photo, so that none is a duplicate.
        photo = test_find_faces.photo_of(SQUARES[: number % 4])
        photo[0, :5] = number
        test_find_faces.write_png(folder / f"{1000 + number}-0.png", photo)
    return tmp_path


def write(directory, **changes):
    values = {
        "data_dir": str(directory / "photos"),
        "output_dir": str(directory / "records"),
        "find_faces": True,
        "face_detector": "square_finder:squares",
        "image_size": 30,
        "num_workers": 1,
        "test_fraction": 0.25,
    }
    return records.write_records(records.WriteConfig(**values | changes))


def stored(directory):
    """The pixels of an HDF5 data set by the name of the image."""
    found = {}
    for path in glob.glob(f"{directory}/*.h5"):
        with h5py.File(path) as f:
            names = [name.decode() for name in f["filename"]]
            found |= dict(zip(names, f["data"][:], strict=True))
    return found


def rejected(directory, name="records"):
    lines = (directory / name / "rejected.jsonl").read_text().splitlines()
    return {row["path"]: row["reason"] for row in map(json.loads, lines)}


def test_one_face_is_cut_and_other_photos_are_rejected(photos):
    manifest = write(photos, format="hdf5")
    assert manifest.written == 6
    reasons = rejected(photos)
    assert len(reasons) == 18
    assert sum(reason == "no face is found" for reason in reasons.values()) == 6
    assert sum("2 faces are found" in reason for reason in reasons.values()) == 6
    assert manifest.image_encoding == "raw"
    assert manifest.config["face_crop"] == {
        "margin": 0.0,
        "border": "replicate",
        "size": 30,
        "found_by": "square_finder:squares",
        "shape": "square",
        "antialias": True,
        "rule": "only",
    }
    for pixels in stored(photos / "records").values():
        assert (pixels == (255, 40, 60)).all()  # Square 0 has a side of 30 pixels.


def test_the_largest_face_of_several(photos):
    manifest = write(photos, face_rule="largest", format="hdf5", face_margin=0.5)
    assert manifest.written == 18
    # The squares 0 and 1 are equally large, and 1 is the leftmost.
    crop = face_crop.FaceCrop(margin=0.5, size=30)
    expected = {
        count: crop.cut(
            test_find_faces.photo_of(SQUARES[:count]),
            crop.square(SQUARES[0 if count == 1 else 1]),
        )
        for count in (1, 2, 3)
    }
    found = stored(photos / "records")
    assert len(found) == 18
    for name, pixels in found.items():
        number = int(name.rpartition("/")[2][:4]) - 1000
        np.testing.assert_array_equal(pixels, expected[number % 4])


def test_jpeg_is_the_default_and_original_is_refused(photos):
    assert write(photos).image_encoding == "jpeg"
    with pytest.raises(errors.UsageError, match="--image_encoding=original"):
        write(photos, image_encoding="original")


def test_the_bytes_do_not_depend_on_the_processes(photos):
    one = write(photos, face_rule="largest", num_shards=4)
    two = write(
        photos, face_rule="largest", num_shards=4, num_workers=2, output_dir="two"
    )
    assert one == two
    loaded = [name for name in os.listdir(photos) if name.startswith("loaded.")]
    assert len(loaded) >= 2


def test_photos_without_one_face_are_not_bad_files(photos):
    # They are most of the source; a damaged file still counts.
    for folder in (photos / "photos" / "20" / "111", photos / "photos" / "21" / "112"):
        for number in range(3):
            (folder / f"{2000 + number}-0.png").write_bytes(b"damaged")
    with pytest.raises(errors.DataError, match="6 of 30 files cannot be used"):
        write(photos)
    assert write(photos, max_rejected=6).written == 6


def test_other_crops_are_another_data_set(photos):
    write(photos)
    with pytest.raises(errors.UsageError, match="differs in face_crop"):
        write(photos, face_margin=0.1)


def test_whole_images_have_no_crop_in_their_manifest(photos):
    manifest = write(photos, find_faces=False)
    assert "face_crop" not in manifest.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"face_detector": "yolo"}, "--face_detector takes"),
        ({"face_detector": "nobody:finds"}, "ModuleNotFoundError"),
        ({"face_margin": -1}, "--face_margin"),
        ({"face_margin": float("nan")}, "--face_margin"),
        ({"face_border": "mirror"}, "face_border"),
        ({"face_rule": "first"}, "face_rule"),
    ],
)
def test_wrong_flags(photos, changes, message):
    with pytest.raises(errors.UsageError, match=message):
        write(photos, **changes)


def test_a_failing_detector_ends_in_one_line(photos):
    (photos / "failing_finder.py").write_text("def find(photo):\n    return 1 / 0\n")
    for workers in (1, 2):
        with pytest.raises(errors.UsageError, match="find failed: ZeroDivisionError"):
            write(
                photos,
                face_detector="failing_finder:find",
                num_workers=workers,
                num_shards=2,
            )
