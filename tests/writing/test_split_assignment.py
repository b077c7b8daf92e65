"""What belongs together is in one split and in one fold."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from afad_tfdata import cross_validation
from afad_tfdata.common import errors
from afad_tfdata.storage import image_keys, schema, sharding, tfrecord
from afad_tfdata.training import config as train_config
from afad_tfdata.writing import data_set_config, split_assignment
from tests.writing.data_sets import digests, face_file, keys_by_split, write

_GROUPINGS = 10_000


def _random_source(rng: np.random.Generator):
    """Keys, groups and given splits of up to 24 images.

    Some images have no group, some of them are faces of one photo, and some groups have
    a given split on some of their images.
    """
    count = int(rng.integers(1, 25))
    numbers = rng.integers(0, rng.integers(1, count + 1), count)
    groups = [None if n % 7 == 3 else f"person {n}" for n in numbers.tolist()]
    photos = rng.integers(0, 30, count).tolist()
    keys = [f"{i % 3}/{photo}-{i}.jpg" for i, photo in enumerate(photos)]
    given_to = {
        group: sharding.SPLITS[rng.integers(3)]
        for group in set(groups)
        if group is not None and rng.random() < 0.2
    }
    given = [given_to.get(g) if rng.random() < 0.5 else None for g in groups]
    return keys, groups, given


def test_groups_are_never_divided():
    """10,000 random groupings, splits and folds."""
    rng = np.random.default_rng(7)
    filled = np.zeros(3, bool)
    for number in range(_GROUPINGS):
        keys, groups, given = _random_source(rng)
        config = data_set_config.SplitConfig(
            seed=number,
            split_by="group",
            test_fraction=float(rng.random()),
            validation_fraction=float(rng.random()),
        )
        splits = split_assignment.assign(keys, groups, given, config)
        names = [
            image_keys.group_key(key, "group", (), group)
            for key, group in zip(keys, groups, strict=True)
        ]
        folds = sharding.folds_of(names, seed=number, num_folds=5)
        # By what the source says, and not by `names`, which the package has made.
        members = [
            group or re.fullmatch(r"\d/(\d+)-\d+\.jpg", key)[1]
            for key, group in zip(keys, groups, strict=True)
        ]
        split_of: dict[str, int] = {}
        fold_of: dict[str, int] = {}
        for member, split, fold in zip(
            members, splits.tolist(), folds.tolist(), strict=True
        ):
            assert split_of.setdefault(member, split) == split
            assert fold_of.setdefault(member, fold) == fold
        for split, wanted in zip(splits.tolist(), given, strict=True):
            assert wanted is None or sharding.SPLITS[split] == wanted
        filled[splits] = True
    assert filled.all()


def test_shares_of_groups_are_those_of_the_flags():
    groups = [f"g{i // 3}" for i in range(30_000)]
    keys = [f"{i}.jpg" for i in range(30_000)]
    config = data_set_config.SplitConfig(1, "group", 0.2, 0.25)
    splits = split_assignment.assign(keys, groups, [None] * 30_000, config)
    shares = np.bincount(splits, minlength=3) / 30_000
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.02)


def test_a_group_in_two_given_splits_is_refused():
    config = data_set_config.SplitConfig(1, "group", 0.2, 0.2)
    arguments = (["a.jpg", "b.jpg"], ["x", "x"], ["train", "test"])
    with pytest.raises(errors.UsageError, match="'x' is in two splits: a.jpg is given"):
        split_assignment.assign(*arguments, config)
    by_image = data_set_config.SplitConfig(1, "image", 0.2, 0.2)
    assert split_assignment.assign(*arguments, by_image).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("split_by", "groups", "resolved"),
    [
        ("", [None, None], "photo"),
        ("", [None, "a"], "group"),
        ("group", [None, "a"], "group"),
        ("photo", ["a", "a"], "photo"),
        ("image", [None], "image"),
    ],
)
def test_what_is_kept_together_by_default(split_by, groups, resolved):
    assert split_assignment.resolve_split_by(split_by, groups) == resolved


def test_groups_are_asked_for_and_not_there():
    with pytest.raises(errors.UsageError, match="column group"):
        split_assignment.resolve_split_by("group", [None])


def _persons(tmp_path, count: int = 60):
    """A table of images of 12 persons, 1 image without one; path by person."""
    rows, person_of = ["path,age,gender,person"], {}
    for i in range(count):
        key = f"f{i}.jpg"
        (tmp_path / key).write_bytes(face_file(i))
        person_of[key] = f"p\u00e9{i % 12}" if i else ""
        rows.append(f"{key},{20 + i % 5},{'mf'[i % 2]},{person_of[key]}")
    (tmp_path / "l.csv").write_text("\n".join(rows), encoding="utf-8")
    return {"labels_csv": str(tmp_path / "l.csv"), "test_fraction": 0.4}, person_of


def test_a_data_set_with_groups_and_a_name(tmp_path):
    flags, person_of = _persons(tmp_path)
    flags |= {"name": "family"}
    manifest = write(tmp_path, tmp_path / "out", **flags)
    assert manifest.config["split_by"] == "group" and manifest.config["groups"] == 12
    assert manifest.name == "family"
    assert all(
        shard.name.startswith("family-")
        for split in manifest.splits.values()
        for shard in split.shards
    )
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["name"] == "family"
    split_of: dict[str, str] = {}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            path = str(tmp_path / "out" / shard.name)
            for _, framed in tfrecord.framed_records(path):
                example = tfrecord.parse_example(tfrecord.check_record(framed))
                key = bytes(example[schema.IMAGE_FILENAME]).decode()
                group = bytes(example[schema.IMAGE_GROUP]).decode()
                assert group == person_of[key]
                assert not group or split_of.setdefault(group, name) == name
    assert set(split_of.values()) >= {"train", "test"}
    # Two writer processes read the plan from the disk, groups included.
    again = write(tmp_path, tmp_path / "two", **flags, num_workers=2)
    assert again == manifest and digests(tmp_path / "two") == digests(tmp_path / "out")


def test_groups_in_hdf5(tmp_path):
    import h5py

    flags, person_of = _persons(tmp_path)
    write(tmp_path, tmp_path / "out", format="hdf5", **flags)
    for keys in keys_by_split(tmp_path / "out").values():
        assert set(keys) <= set(person_of)
    for path in (tmp_path / "out").glob("*.h5"):
        with h5py.File(path) as f:
            groups = [group.decode() for group in f["group"]]
            assert groups == [person_of[key.decode()] for key in f["filename"]]


def test_folds_keep_groups_together(tmp_path):
    flags, person_of = _persons(tmp_path)
    write(tmp_path, tmp_path / "out", **flags)
    config = train_config.TrainConfig(
        records_dir=str(tmp_path / "out"), run_dir=str(tmp_path / "run"), folds=3
    )
    cross_validation.write_views(str(tmp_path / "out"), str(tmp_path / "views"), config)
    fold_of: dict[str, str] = {}
    for path in sorted((tmp_path / "views").glob("fold-*.tfrecord")):
        for _, framed in tfrecord.framed_records(str(path)):
            example = tfrecord.parse_example(tfrecord.check_record(framed))
            group = person_of[bytes(example[schema.IMAGE_FILENAME]).decode()]
            assert not group or fold_of.setdefault(group, path.name) == path.name
    assert len(fold_of) == 12 and len(set(fold_of.values())) == 3


@pytest.mark.parametrize("name", ["", "1st", "my-faces", "a/b", "x" * 65])
def test_names_that_other_programs_do_not_read_are_refused(name, tmp_path):
    with pytest.raises(errors.UsageError, match="--name takes"):
        write(tmp_path, tmp_path / "out", name=name)
