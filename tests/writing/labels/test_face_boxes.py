"""Boxes in label files: what is cut, several faces in one image, wrong boxes."""

import json
import sys

import numpy as np
import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.images import face_crop
from afad_tfdata.storage import image_keys
from tests.predicting import test_find_faces
from tests.writing import data_sets, test_face_images

HEADER = "path,age,gender,x1,y1,x2,y2\n"


@pytest.fixture
def photos(tmp_path):
    """Photos 0.png to 11.png, noise that differs from photo to photo."""
    for number in range(12):
        rng = np.random.default_rng(number)
        photo = rng.integers(0, 256, (60, 80, 3), np.uint8)
        test_find_faces.write_png(tmp_path / f"{number}.png", photo)
    return tmp_path


def photo(number):
    return np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)


def write(directory, rows, header=HEADER, **changes):
    (directory / "labels.csv").write_text(header + "\n".join(rows) + "\n")
    values = {
        "labels_csv": str(directory / "labels.csv"),
        "output_dir": str(directory / "records"),
        "format": "hdf5",
        "image_size": 20,
        "num_workers": 1,
        "gender_codes": "m:male,f:female",
        "max_rejected": 5,
        "validation_fraction": 0,
        "test_fraction": 0,
    }
    return records.write_records(records.WriteConfig(**values | changes))


def rows_of(count=12, box="10,10,30,30"):
    return [f"{i}.png,{20 + i},{'mf'[i % 2]},{box}" for i in range(count)]


def test_the_box_is_cut_without_a_detector(photos, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    manifest = write(photos, rows_of(), face_margin=0.25, face_border="constant")
    assert manifest.written == 12
    assert manifest.config["face_crop"]["found_by"] == "boxes"
    assert "12 rows have a box" in caplog.text
    crop = face_crop.FaceCrop(0.25, "constant", 20)
    for name, pixels in test_face_images.stored(photos / "records").items():
        expected = crop.cut(photo(int(name[:-4])), crop.square((10, 10, 30, 30)))
        np.testing.assert_array_equal(pixels, expected)


def test_several_faces_of_one_image_are_rows_of_their_own(photos):
    rows = [
        *rows_of(6),
        "0.png,50,f,40,5,60,25",
        "0.png,51,m,40,30,60,50",
        "0.png,51,m,40,30,60,50",  # The same face again.
    ]
    manifest = write(photos, rows, validation_fraction=0.3, test_fraction=0.3)
    assert manifest.written == 8
    assert "named in row 9, too" in str(test_face_images.rejected(photos))
    found = test_face_images.stored(photos / "records")
    several = {name for name in found if name.startswith("0.png")}
    assert several == {
        "0.png#10,10,30,30",
        "0.png#40,5,60,25",
        "0.png#40,30,60,50",
    }
    crop = face_crop.FaceCrop(size=20)
    np.testing.assert_array_equal(
        found["0.png#40,5,60,25"], crop.cut(photo(0), (40, 5, 60, 25))
    )
    # One image is in one split, because its faces share light and camera.
    splits = [
        split
        for split, names in data_sets.keys_by_split(photos / "records").items()
        if several & set(names)
    ]
    assert len(splits) == 1


def test_a_protocol_names_the_image(photos):
    rows = [*rows_of(6), "0.png,50,f,40,5,60,25"]
    protocol = {f"{i}.png": "train" if i else "test" for i in range(6)}
    (photos / "split.json").write_text(json.dumps(protocol))
    manifest = write(photos, rows, split_file=str(photos / "split.json"))
    assert manifest.splits["test"].num_examples == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("11.png,30,m,10,10,,30", "column x2: no value, but the row has a part"),
        ("11.png,30,m,10,10,wide,30", "column x2: 'wide' is not a number"),
        ("11.png,30,m,10,10,10,30", "column x2: the box is empty"),
        ("11.png,30,m,10,40,30,20", "widths and heights are not read"),
        ("11.png,30,m,0.1,0.2,0.5,1", "expected pixels, not shares of the image"),
        ("11.png,30,m,,,,", "column x1: no box of the face; --find_faces"),
        ("11.png,30,m,100,10,130,30", "is outside the image of 80 x 60 pixels"),
        ("11.png,30,m,-999,-999,999,999", "more than twice as large"),
    ],
)
def test_wrong_boxes_are_rejected(photos, row, reason):
    assert write(photos, [*rows_of(11), row]).written == 11
    assert reason in test_face_images.rejected(photos)["11.png"]


def test_rows_without_a_box_are_found(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "middle_finder.py").write_text(
        "def find(photo):\n    return [(30, 20, 50, 40)]\n"
    )
    changes = {"find_faces": True, "face_detector": "middle_finder:find"}
    manifest = write(photos, [*rows_of(11), "11.png,30,m,,,,"], **changes)
    assert manifest.written == 12
    crop = manifest.config["face_crop"]
    assert crop["found_by"] == "boxes and middle_finder:find"
    found = test_face_images.stored(photos / "records")
    np.testing.assert_array_equal(found["11.png"], photo(11)[20:40, 30:50])
    np.testing.assert_array_equal(found["10.png"], photo(10)[10:30, 10:30])


def test_an_incomplete_header_is_refused(photos):
    rows = [f"{i}.png,20,m,1,1,9" for i in range(3)]
    with pytest.raises(errors.UsageError, match="there is no y2"):
        write(photos, rows, "path,age,gender,x1,y1,x2\n")


def test_whole_files_cannot_be_cut(photos):
    with pytest.raises(errors.UsageError, match="--image_encoding=original"):
        write(photos, rows_of(), format="tfrecord", image_encoding="original")
    assert write(photos, rows_of(), format="tfrecord").image_encoding == "jpeg"


def test_other_boxes_are_another_data_set(photos):
    write(photos, rows_of())
    with pytest.raises(errors.UsageError, match="the source's files"):
        write(photos, rows_of(box="10,10,30,31"))


@pytest.mark.parametrize(
    ("path", "box", "key"),
    [
        ("a/7.jpg", (10, 20, 30, 40), "a/7.jpg#10,20,30,40"),
        ("a.jpg", (-1.5, 0.25, 1e6, 3), "a.jpg#-1.5,0.25,1000000,3"),
        ("a.jpg", (1e-7, 1e12, 2, 3), "a.jpg#1e-07,1e+12,2,3"),
        ("a#1,2,3,4", (1, 2, 3, 4), "a#1,2,3,4#1,2,3,4"),
    ],
)
def test_the_key_of_a_face_contains_the_path(path, box, key):
    assert image_keys.face_key(path, box) == key
    assert image_keys.image_path(key) == path
    assert image_keys.group_key("x/77-3.jpg#1,2,3,4", "photo") == "photo:77"


def test_a_file_whose_name_looks_like_a_face(photos):
    odd = "odd#1,2,3,4"
    (photos / odd).write_bytes((photos / "11.png").read_bytes())
    write(photos, [*rows_of(11), f'"{odd}",30,m,10,10,30,30'])
    found = test_face_images.stored(photos / "records")
    np.testing.assert_array_equal(found[f"{odd}#10,10,30,30"], photo(11)[10:30, 10:30])
