"""Which images the flags and published protocols select."""

from __future__ import annotations

import json
import pathlib

import pytest

from afad_tfdata.common import errors
from tests.writing.data_sets import (
    digests,
    face_file,
    keys_by_split,
    make_tree,
    rejected,
    write,
)


def test_flags_leave_out_ages_and_crowded_photos(sample_tree, tmp_path):
    manifest = write(
        sample_tree, tmp_path / "out", min_age=20, max_age=30, max_faces_per_photo=1
    )
    ages = [
        int(age)
        for split in manifest.splits.values()
        for by_age in split.counts.values()
        for age in by_age
    ]
    assert min(ages) >= 20 and max(ages) <= 30
    reasons = rejected(tmp_path / "out").values()
    assert sum("--max_faces_per_photo" in reason for reason in reasons) > 0
    assert manifest.written + manifest.rejected == 240


@pytest.mark.parametrize("names", ["{age}-{i}.jpg", "{gender}-{i}.jpg", "1-{i}.jpg"])
def test_names_whose_number_is_no_photo(names, tmp_path, caplog):
    """Whole ages were once put into one split, without a warning."""
    for i in range(120):
        age, gender = 20 + i % 6, (111, 112)[i // 6 % 2]
        path = (
            tmp_path
            / f"faces/{age}/{gender}"
            / names.format(age=age, gender=gender, i=i)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(face_file(i))
    manifest = write(tmp_path / "faces", tmp_path / "out")
    assert "are not taken for faces of the photo" in caplog.text
    assert manifest.config["untrusted_photos"] == ["*"]
    train = manifest.splits["train"].counts
    assert all(len(by_age) == 6 for by_age in train.values())
    assert manifest.splits["test"].num_examples > 10
    by_image = write(tmp_path / "faces", tmp_path / "image", split_by="image")
    assert by_image.splits == manifest.splits
    assert write(tmp_path / "faces", tmp_path / "out", num_workers=2) == manifest
    with pytest.raises(errors.UsageError, match="--max_faces_per_photo needs names"):
        write(tmp_path / "faces", tmp_path / "few", max_faces_per_photo=3)


def test_a_split_file_decides_the_splits(sample_tree, tmp_path, caplog):
    faces = sorted(
        str(p.relative_to(sample_tree))
        for p in pathlib.Path(sample_tree).rglob("*.jpg")
    )
    split_of = {
        face: ("train", "val", "test")[i % 3] for i, face in enumerate(faces[:200])
    }
    protocol = tmp_path / "protocol.csv"
    lines = [f"{face},{split}" for face, split in split_of.items()]
    protocol.write_text("\n".join(["path,split", *lines]))
    flags = {"split_file": str(protocol), "format": "hdf5", "max_rejected": 40}
    write(sample_tree, tmp_path / "out", **flags)
    for split, keys in keys_by_split(tmp_path / "out").items():
        name = "val" if split == "validation" else split
        assert sorted(keys) == [face for face in split_of if split_of[face] == name]
    assert "has no face of age" in caplog.text
    assert len(rejected(tmp_path / "out")) == 40
    as_json = tmp_path / "protocol.json"
    as_json.write_text(json.dumps(split_of))
    write(sample_tree, tmp_path / "json", **{**flags, "split_file": str(as_json)})
    assert digests(tmp_path / "out") == digests(tmp_path / "json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": ["15/111/0-0.jpg"]}', "expected one of train"),
        (
            '[{"path": "a", "split": "train"}, {"path": "a", "split": "test"}]',
            "one split",
        ),
        ("[1, 2]", "must be a CSV"),
        ("[" * 100_000, "must be a CSV"),
    ],
    ids=["no_split", "two_splits", "no_rows", "nested"],
)
def test_bad_split_files_are_refused(content, message, tmp_path):
    path = tmp_path / "protocol.json"
    path.write_text(content)
    with pytest.raises(errors.UsageError, match=message):
        write(make_tree(tmp_path / "tree"), tmp_path / "out", split_file=str(path))


def test_a_remote_split_file_that_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(errors.UsageError, match="cannot read --split_file=/"):
        write(
            make_tree(tmp_path / "tree"),
            tmp_path / "out",
            split_file=f"file://{tmp_path}/no.csv",
        )


def test_split_file_paths_without_an_image_are_counted(tmp_path, caplog):
    tree = make_tree(tmp_path / "tree")
    faces = [str(p.relative_to(tree)) for p in sorted(tree.rglob("*.jpg"))]
    rows = [f"{face},train" for face in faces[:-1]] + [f"{faces[-1]},test"]
    path = tmp_path / "protocol.csv"
    path.write_text("\n".join(["path,split", *rows, "no\u2028pe/x.jpg,test"]))
    write(tree, tmp_path / "out", split_file=str(path))
    assert "1 of the 25 paths in --split_file name no image" in caplog.text


@pytest.mark.parametrize(
    ("years", "message"),
    [
        (lambda i: i % 26, "the ages are from 0 to 24, as numbers of classes are"),
        (lambda i: 20 + i, "all 25 images are male: no model can learn the gender"),
    ],
)
def test_folders_that_may_be_meant_otherwise_are_named(
    years, message, tmp_path, caplog
):
    """Only tables of labels were looked at, and only for ages of 9 or less."""
    for i in range(25):
        path = tmp_path / f"faces/{years(i)}/111/{i}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(face_file(i))
    write(tmp_path / "faces", tmp_path / "out")
    assert message in caplog.text


def folders_of_ages(folder, ages):
    """A face of each age."""
    for i, age in enumerate(ages):
        path = folder / f"{age}/{(111, 112)[i % 2]}/{i}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(face_file(i))
    return folder


@pytest.mark.parametrize("flags", [{"max_age": 60}, {"max_age": 9}])
def test_ages_that_end_because_of_a_flag_are_not_doubted(flags, tmp_path, caplog):
    faces = folders_of_ages(tmp_path / "faces", range(0, 96, 3))
    write(faces, tmp_path / "out", **flags)
    assert "class" not in caplog.text


def test_ages_are_doubted_once_for_a_data_set(tmp_path, caplog):
    """Each part of the shards, and each call for a finished data set, said it again."""
    faces = folders_of_ages(tmp_path / "faces", range(26))
    for shards in ("0:1", "1:2", "", ""):
        flags = {"num_shards": 2, "shard_range": shards, "min_age": 2}
        write(faces, tmp_path / "out", **flags)
    assert caplog.text.count("as numbers of classes are") == 1


@pytest.mark.parametrize(
    ("groups", "flags", "warned"),
    [
        (["adult", "child"], {}, True),
        (["adult", "child"], {"split_by": "image"}, False),
        ([f"person {i}" for i in range(20)], {}, False),
    ],
)
def test_groups_that_are_no_persons_are_noticed(
    groups, flags, warned, tmp_path, caplog
):
    """A column of that name may have something else, which would decide the splits."""
    rows = ["path,age,gender,group"]
    for i in range(60):
        (tmp_path / f"{i}.jpg").write_bytes(face_file(i))
        rows.append(f"{i}.jpg,{20 + i % 30},111,{groups[i % len(groups)]}")
    (tmp_path / "l.csv").write_text("\n".join(rows))
    flags |= {"labels_csv": str(tmp_path / "l.csv"), "test_fraction": 1}
    write(tmp_path, tmp_path / "out", **flags)
    message = "the group 'adult' has 30 of the 60 images, which all get the same split"
    assert (message in caplog.text) == warned
