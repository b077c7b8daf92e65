"""Published protocols give the splits that their authors meant."""

from __future__ import annotations

import json
import logging
import pathlib

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import image_keys, sharding
from afad_tfdata.writing import published_splits
from tests.writing.data_sets import face_file, keys_by_split, write

# As the README of the databases has them.
_PAPLHAM_AND_FRANC = (
    ([0, 1, 2, 3, 4, 5], [6, 7], [8, 9]),
    ([2, 3, 4, 5, 6, 7], [8, 9], [0, 1]),
    ([4, 5, 6, 7, 8, 9], [0, 1], [2, 3]),
    ([5, 6, 7, 8, 9, 0], [1, 2], [3, 4]),
    ([6, 7, 8, 9, 0, 1], [2, 3], [4, 5]),
)


def _tree(root: pathlib.Path) -> list[str]:
    """40 faces of 10 ages, in folders like AFAD's."""
    keys = [f"{20 + i % 10}/{111 + i % 2}/{500 + i}-0.jpg" for i in range(40)]
    for i, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(face_file(i))
    return keys


def _by_folder(path: pathlib.Path, keys, folder_of) -> str:
    rows = [
        {
            "img_path": f"AFAD/AFAD-Full/{key}",
            "id_num": i,
            "age": 25,
            "gender": "M",
            "database": "AFAD-Full",
            "folder": folder_of(i),
        }
        for i, key in enumerate(keys)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("fold", range(5))
def test_the_folders_of_paplham_and_franc(fold, tmp_path):
    keys = _tree(tmp_path / "faces")
    path = _by_folder(tmp_path / "AFAD-Full.json", keys, lambda i: i // 4)
    splits = published_splits.match(published_splits.load(path, fold=fold), keys)
    assert set(splits) == set(keys)
    for split, folders in zip(sharding.SPLITS, _PAPLHAM_AND_FRANC[fold], strict=True):
        wanted = {key for i, key in enumerate(keys) if i // 4 in folders}
        assert {key for key, given in splits.items() if given == split} == wanted


def test_sets_with_a_split_of_their_own(tmp_path):
    keys = [f"train/{i}.jpg" for i in range(6)]
    path = _by_folder(tmp_path / "CLAP2016.json", keys, lambda i: i % 3)
    splits = published_splits.load(path)
    assert list(splits.values()) == ["train", "validation", "test"] * 2
    with pytest.raises(errors.UsageError, match="--split_fold=1"):
        published_splits.load(path, fold=1)


def test_leave_one_person_out_is_refused(tmp_path):
    keys = [f"{i}.jpg" for i in range(82)]
    path = _by_folder(tmp_path / "FG-Net.json", keys, lambda i: i + 1)
    with pytest.raises(errors.UsageError, match="82 folders, one for each person"):
        published_splits.load(path)


def _lists(root: pathlib.Path, keys, names, *, four_ages: bool = False) -> list[str]:
    """A list for each split with class numbers as ages, as CORAL has them."""
    root.mkdir(exist_ok=True)
    rows: dict[str, list[str]] = {name: [] for name in names}
    for i, key in enumerate(keys):
        age, code, image = key.split("/")
        name = names[2 * (i % 4 == 0)]
        if four_ages and int(age) in (22, 25, 27, 29):
            name = names[1]
        gender = "male" if code == "111" else "female"
        rows[name].append(f"{image},{key},{int(age) - 20},{gender}")
    for name, lines in rows.items():
        text = "\n".join(["file,path,age,gender", *lines])
        (root / name).write_text(text + "\n")
    return [str(root / name) for name in names]


@pytest.mark.parametrize(
    "names",
    [
        ("afad_train.csv", "afad_valid.csv", "afad_test.csv"),
        (
            "afad_train_balanced.csv",
            "afad_valid_balanced.csv",
            "afad_test_balanced.csv",
        ),
    ],
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_lists_of_coral_corn_and_rlel(names, as_folder, tmp_path, caplog):
    keys = _tree(tmp_path / "faces")
    paths = _lists(tmp_path / "lists", keys, names, four_ages=True)
    flag = str(tmp_path / "lists") if as_folder else ",".join(paths)
    write(tmp_path / "faces", tmp_path / "out", split_file=flag, format="hdf5")
    splits = keys_by_split(tmp_path / "out")
    assert {key.split("/")[0] for key in splits["validation"]} == {
        *("22", "25", "27", "29")
    }
    assert sorted(sum(splits.values(), [])) == sorted(keys)
    assert "split validation has only faces of age 22, 25, 27, 29" in caplog.text


def test_lists_without_a_column_of_paths(tmp_path):
    """Those for MORPH have the images in a column without a name."""
    for split, names in {"train": "ab", "test": "c"}.items():
        rows = [f"{name}_03M36.jpg,1,3,B,1" for name in names]
        (tmp_path / f"morph2_{split}.csv").write_text(
            "\n".join([",id_num,picture_num,race,age", *rows])
        )
    splits = published_splits.match(
        published_splits.load(str(tmp_path)),
        ["Album2/a_03M36.jpg", "Album2/b_03M36.jpg", "Album2/c_03M36.jpg"],
    )
    assert splits == {
        "Album2/a_03M36.jpg": "train",
        "Album2/b_03M36.jpg": "train",
        "Album2/c_03M36.jpg": "test",
    }


def test_names_that_occur_twice_are_not_guessed():
    keys = ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    assert published_splits.match({"1.jpg": "train", "2.jpg": "test"}, keys) == {
        "1.jpg": "train",
        "b/2.jpg": "test",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["afad_train.csv", "cacd_train.csv", "afad_test.csv"], "several lists for"),
        (["afad.csv"], "without lists whose names say"),
        (["train.csv"], "without lists whose names say"),
    ],
)
def test_folders_of_lists_that_are_not_clear(names, message, tmp_path):
    for name in names:
        (tmp_path / name).write_text("path\na.jpg\n")
    with pytest.raises(errors.UsageError, match=message):
        published_splits.load(str(tmp_path))


def test_a_list_that_names_no_split(tmp_path):
    path = tmp_path / "afad.csv"
    path.write_text("path,age\na.jpg,3\n")
    with pytest.raises(errors.UsageError, match="must be a CSV") as said:
        published_splits.load(str(path))
    assert "\n" not in str(said.value)


def test_the_log_says_how_paths_were_matched(caplog):
    caplog.set_level(logging.INFO)
    splits = {"AFAD/AFAD-Full/15/111/1-0.jpg": "train"}
    assert published_splits.match(splits, ["15/111/1-0.jpg"]) == {
        "15/111/1-0.jpg": "train"
    }
    assert "without their first 2 folders name 1 images" in caplog.text


@pytest.mark.parametrize(
    "paths",
    [
        ("a/1.jpg", "b/1.jpg"),
        ("1.jpg", "b/1.jpg"),
        ("b/1.jpg", "1.jpg"),
        ("set/a/1.jpg", "set/b/1.jpg"),
    ],
)
def test_paths_that_become_one_are_refused(paths):
    """Two photos of one name in two folders: the last one once decided the split."""
    keys = [f"{number}.jpg" for number in range(1, 9)]
    folder = "set/c" if paths[0].startswith("set") else "c"
    splits = {f"{folder}/{key}": "train" for key in keys[1:]}
    splits |= dict(zip(paths, ("train", "test"), strict=True))
    with pytest.raises(errors.UsageError, match="both would be the image 1.jpg") as e:
        published_splits.match(splits, keys)
    line = str(e.value)
    assert all(path in line for path in paths) and "\n" not in line


def test_paths_of_one_split_that_become_one_are_read():
    splits = {"a/1.jpg": "train", "b/1.jpg": "train", "a/2.jpg": "test"}
    assert published_splits.match(splits, ["1.jpg", "2.jpg"]) == {
        "1.jpg": "train",
        "2.jpg": "test",
    }


@pytest.mark.parametrize(
    ("protocol", "keys"),
    [
        ("photos/{}.jpg", "photos/{}.jpg"),
        ("set/photos/{}.jpg", "photos/{}.jpg"),
        ("{}.jpg", "photos/{}.jpg"),
    ],
)
def test_the_photo_of_a_boxed_face_is_found(protocol, keys, tmp_path):
    """A photo with two boxes has two keys, and the protocol names the photo."""
    splits = {protocol.format(i): ("train", "test")[i % 2] for i in range(6)}
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(splits))
    faces = tmp_path / "faces"
    rows = ["path,age,gender,x1,y1,x2,y2"]
    for i in range(6):
        key = keys.format(i)
        (faces / key).parent.mkdir(parents=True, exist_ok=True)
        (faces / key).write_bytes(face_file(i))
        rows.append(f"{key},{20 + i},111,0,0,9,9")
        if i < 4:  # The others show one face, whose key is the path.
            rows.append(f"{key},{20 + i},112,10,10,20,20")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    write(
        *(faces, tmp_path / "out"),
        **{"labels_csv": str(tmp_path / "labels.csv"), "split_file": str(path)},
        **{"format": "hdf5", "duplicates": "all", "conflicts": "all"},
    )
    found = keys_by_split(tmp_path / "out")
    numbers = {
        split: sorted(int(image_keys.image_path(key)[-5]) for key in listed)
        for split, listed in found.items()
    }
    assert numbers == {
        "train": [0, 0, 2, 2, 4],
        "validation": [],
        "test": [1, 1, 3, 3, 5],
    }


def test_a_protocol_may_name_the_faces_of_a_photo():
    keys = ["photos/1.jpg#0,0,9,9", "photos/1.jpg#10,10,20,20", "photos/2.jpg"]
    splits = {f"set/{key}": "train" for key in keys}
    assert set(published_splits.match(splits, keys)) == set(keys)
