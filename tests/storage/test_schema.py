"""The manifest and the index: round trips, and every kind of damage is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema
from tests.storage.small_manifest import build_manifest


def _write(tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(schema.manifest_bytes(manifest))
    return str(tmp_path)


def test_manifest_round_trip(tmp_path):
    manifest = build_manifest()
    assert schema.load_manifest(_write(tmp_path, manifest)) == manifest
    assert manifest.mean_rgb == (1.5, 2.0, 3.0)
    assert schema.age_range(manifest) == (20, 61)


def test_every_changed_character_of_a_manifest_is_noticed(tmp_path):
    """Flips one bit in every byte; white space between tokens carries nothing."""
    path = tmp_path / "manifest.json"
    content = schema.manifest_bytes(build_manifest())
    reference = schema.load_manifest(_write(tmp_path, build_manifest()))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            assert schema.load_manifest(str(tmp_path)) == reference
            assert content[position : position + 1].isspace()
        except errors.AfadError as error:
            assert "manifest.json" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_truncated_manifest_is_damage(tmp_path, size):
    (tmp_path / "manifest.json").write_bytes(
        schema.manifest_bytes(build_manifest())[:size]
    )
    with pytest.raises(errors.DataError, match="manifest"):
        schema.load_manifest(str(tmp_path))


def test_no_manifest_is_no_data_set(tmp_path):
    with pytest.raises(errors.UsageError, match="write_records"):
        schema.load_manifest(str(tmp_path))


def test_another_schema_version_is_refused(tmp_path):
    newer = dataclasses.replace(build_manifest(), schema_version=99)
    with pytest.raises(errors.UsageError, match="schema version 99"):
        schema.load_manifest(_write(tmp_path, newer))


def test_shards_that_do_not_add_up_are_damage(tmp_path):
    value = json.loads(schema.manifest_bytes(build_manifest()))
    value["splits"]["train"]["num_examples"] = 3
    value.pop("checksum")
    value["checksum"] = files.json_checksum(value)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(errors.DataError, match="do not add up"):
        schema.load_manifest(str(tmp_path))


def test_an_empty_split_names_the_others():
    with pytest.raises(errors.UsageError, match="'test'; it has train"):
        build_manifest().split("test")


def test_index_is_mapped_and_checked(tmp_path):
    index = np.zeros(2, schema.INDEX_DTYPE)
    index["age"] = [20, 61]
    path = tmp_path / "afad-train.index.npy"
    np.save(path, index)
    size, digest = path.stat().st_size, files.sha256(str(path))
    manifest = build_manifest(size, digest)
    loaded = schema.load_index(str(tmp_path), manifest, "train")
    assert isinstance(loaded, np.memmap) and loaded["age"].tolist() == [20, 61]
    with pytest.raises(errors.DataError, match="index.npy is damaged"):
        schema.load_index(str(tmp_path), build_manifest(size + 1, digest), "train")
    index["age"][0] = 21  # A label: nothing else would notice.
    np.save(path, index)
    with pytest.raises(errors.DataError, match="SHA-256 does not match"):
        schema.load_index(str(tmp_path), manifest, "train")
    np.save(path, index[:1])
    other = build_manifest(path.stat().st_size, files.sha256(str(path)))
    with pytest.raises(errors.DataError, match="wanted"):
        schema.load_index(str(tmp_path), other, "train")
    path.unlink()
    with pytest.raises(errors.DataError, match="index.npy"):
        schema.load_index(str(tmp_path), manifest, "train")


def test_index_rows_are_small():
    """A record may cost 320 bytes in addition to its image, including the index."""
    assert schema.INDEX_DTYPE.itemsize == 46


def test_labels_of_a_task():
    assert [schema.labels_of(task) for task in schema.TASKS] == [
        ("age",),
        ("gender",),
        ("age", "gender"),
    ]


def test_the_digest_of_an_index_is_compared_once_until_it_changes(
    tmp_path, monkeypatch
):
    path = tmp_path / "afad-train.index.npy"
    np.save(path, np.zeros(2, schema.INDEX_DTYPE))
    content = path.read_bytes()
    manifest = build_manifest(len(content), hashlib.sha256(content).hexdigest())
    calls = []

    def counted(path):
        calls.append(path)
        return hashlib.sha256(open(path, "rb").read()).hexdigest()

    monkeypatch.setattr(schema.files, "sha256", counted)
    # A file that was just written may be written again within the same tick.
    for count in (1, 2):
        schema.load_index(str(tmp_path), manifest, "train")
        assert len(calls) == count
    os.utime(path, ns=(0, 0))
    for _ in range(3):
        schema.load_index(str(tmp_path), manifest, "train")
        assert len(calls) == 3
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(errors.DataError, match="SHA-256"):
        schema.load_index(str(tmp_path), manifest, "train")
