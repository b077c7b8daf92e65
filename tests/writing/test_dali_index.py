"""--dali_index: the places of records in shards, as DALI's tfrecord2idx gives them."""

from __future__ import annotations

import pathlib
import struct

import pytest

from afad_tfdata import records
from afad_tfdata.common import errors
from afad_tfdata.storage import schema, tfrecord
from afad_tfdata.writing import data_set_verification
from tests.writing import data_sets


def places(shard: pathlib.Path) -> list[tuple[int, int]]:
    """Offset and length of each record, found by walking over the framing."""
    data, offset, found = shard.read_bytes(), 0, []
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        found.append((offset, length + 16))
        offset += length + 16
    return found


@pytest.mark.parametrize("from_the_start", [True, False])
def test_lines_are_the_places_of_records(from_the_start, sample_tree, tmp_path):
    flags = {"num_shards": 2, "num_workers": 1, "image_size": 24}
    if not from_the_start:
        data_sets.write(sample_tree, tmp_path, **flags)
        assert not list(tmp_path.glob("*.idx-*"))
    before = data_sets.digests(tmp_path) if not from_the_start else None
    manifest = data_sets.write(sample_tree, tmp_path, dali_index=True, **flags)
    shards = [s for split in manifest.splits.values() for s in split.shards]
    assert len(list(tmp_path.glob("*.idx-*"))) == len(shards) > 2
    for shard in shards:
        index = tmp_path / shard.name.replace(".tfrecord-", ".idx-")
        found = [
            tuple(map(int, line.split())) for line in index.read_text().splitlines()
        ]
        assert found == places(tmp_path / shard.name)
        assert len(found) == shard.num_examples
        offset, length = found[-1]
        framed = (tmp_path / shard.name).read_bytes()[offset : offset + length]
        example = tfrecord.parse_example(tfrecord.unchecked_data(framed))
        assert example[schema.IMAGE_ENCODED]
    if before is not None:
        after = data_sets.digests(tmp_path)
        assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.write_bytes(b"1" + path.read_bytes()), "differs from the"),
        (lambda path: path.write_bytes(b""), "differs from the index"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damage_is_found_by_verify(damage, fault, sample_tree, tmp_path):
    """The index decides which bytes DALI takes for a record."""
    flags = {"num_shards": 2, "num_workers": 1, "image_size": 24}
    data_sets.write(sample_tree, tmp_path, dali_index=True, **flags)
    assert data_set_verification.verify(str(tmp_path)) == []
    path = sorted(tmp_path.glob("*.idx-*"))[0]
    damage(path)
    (found,) = data_set_verification.verify(str(tmp_path))
    assert found.file == path.name and found.fault.startswith(fault)


def test_hdf5_has_none():
    with pytest.raises(errors.UsageError, match="--dali_index describes TFRecord"):
        records.WriteConfig(format="hdf5", dali_index=True)
