"""Inspection: every change of a data set is found and named."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from afad_tfdata import records
from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema
from afad_tfdata.writing import data_set_verification, inspection


@pytest.fixture(scope="module")
def hdf5_records(sample_tree, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("hdf5") / "records")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            format="hdf5",
            image_size=16,
            num_workers=1,
        )
    )
    return directory


def _copy(directory, tmp_path):
    target = str(tmp_path / "copy")
    shutil.copytree(directory, target)
    return target


def _shard(directory, split="train", number=0):
    return schema.load_manifest(directory).splits[split].shards[number].name


@pytest.mark.parametrize("kind", ["sample_records", "hdf5_records"])
def test_flips_and_cuts_are_found_and_named(kind, request, tmp_path):
    directory = _copy(request.getfixturevalue(kind), tmp_path)
    rng = np.random.default_rng(8)
    names = [
        name
        for name in sorted(os.listdir(directory))
        if name.startswith("afad-") or name in ("manifest.json", "mean.json")
    ]
    for turn in range(60):
        name = names[turn % len(names)]
        path = os.path.join(directory, name)
        with open(path, "rb") as f:
            content = f.read()
        if turn % 3:
            damaged = bytearray(content)
            bit = int(rng.integers(8 * len(content)))
            damaged[bit // 8] ^= 1 << bit % 8
        else:
            damaged = content[: int(rng.integers(len(content)))]
        with open(path, "wb") as f:
            f.write(damaged)
        faults = data_set_verification.verify(directory, num_threads=1)
        if name == "mean.json" and _same_json(content, damaged):
            assert not faults
        else:
            assert name in {fault.file for fault in faults}, (name, turn)
        with open(path, "wb") as f:
            f.write(content)
    assert data_set_verification.verify(directory) == []


def _same_json(one, other):
    try:
        return json.loads(one) == json.loads(bytes(other))
    except ValueError:
        return False


def test_one_bad_record_is_named_by_position_and_path(sample_records, tmp_path):
    directory = _copy(sample_records, tmp_path)
    manifest = schema.load_manifest(directory)
    name = _shard(directory)
    row = schema.load_index(directory, manifest, "train")[4]
    with open(os.path.join(directory, name), "r+b") as f:
        f.seek(int(row["image_offset"]) + 500)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 16]))
    whole, record = data_set_verification.verify(directory)
    assert (whole.file, whole.record) == (name, None)
    assert (record.file, record.record) == (name, 4)
    assert record.key.startswith(f"{row['age']}/") and record.key.endswith(".jpg")
    result = inspection.inspect_records(
        inspection.InspectConfig(records_dir=directory, verify=True)
    )
    assert result.faults == [whole, record]
    assert f"{name}, record 4 ({record.key})" in result.summary


@pytest.mark.parametrize("kind", ["sample_records", "hdf5_records"])
@pytest.mark.parametrize("verify", [False, True])
def test_a_damaged_face_for_a_sheet_is_named(kind, verify, request, tmp_path):
    """It once ended in a traceback, which hid the faults that --verify found."""
    directory = _copy(request.getfixturevalue(kind), tmp_path)
    name = _shard(directory)
    size = os.path.getsize(os.path.join(directory, name))
    os.truncate(os.path.join(directory, name), size // 20)
    config = inspection.InspectConfig(
        records_dir=directory, sheet=str(tmp_path / "faces.png"), verify=verify
    )
    if verify:
        result = inspection.inspect_records(config)
        assert name in {fault.file for fault in result.faults}
        assert "faces with labels: not drawn" in result.summary
    else:
        with pytest.raises(errors.DataError, match=f"{name}, record .*--verify"):
            inspection.inspect_records(config)
    assert not (tmp_path / "faces.png").exists()


def test_missing_files_are_named(hdf5_records, tmp_path):
    directory = _copy(hdf5_records, tmp_path)
    name = _shard(directory, "test")
    os.remove(os.path.join(directory, name))
    faults = data_set_verification.verify(directory)
    assert [fault.file for fault in faults] == [name]
    assert "No such file" in faults[0].fault


def test_the_summary_counts_what_is_there(sample_records, tmp_path):
    histogram, sheet = tmp_path / "ages.png", tmp_path / "faces.png"
    config = inspection.InspectConfig(
        records_dir=sample_records, histogram=str(histogram), sheet=str(sheet)
    )
    result = inspection.inspect_records(config)
    manifest = schema.load_manifest(sample_records)
    for split in manifest.splits.values():
        assert f"{split.num_examples:,}" in result.summary
    assert f"found {manifest.found} = written {manifest.written}" in result.summary
    assert histogram.read_bytes().startswith(b"\x89PNG")
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_diff_names_the_differences(sample_tree, sample_records, tmp_path):
    assert inspection.diff(sample_records, sample_records) == []
    other = str(tmp_path / "other")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree, output_dir=other, image_size=48, seed=2, num_workers=1
        )
    )
    lines = inspection.diff(sample_records, other)
    assert any(line.startswith("configuration seed: 1 here, 2 there") for line in lines)
    assert any(line.startswith("train, male") for line in lines)


def test_a_manifest_may_lack_a_split(sample_records, tmp_path):
    """As another program may write it."""
    directory = _copy(sample_records, tmp_path)
    manifest = schema.load_manifest(directory)
    splits = {name: s for name, s in manifest.splits.items() if name != "test"}
    changed = dataclasses.replace(manifest, splits=splits)
    with open(os.path.join(directory, schema.MANIFEST_NAME), "wb") as f:
        f.write(schema.manifest_bytes(changed))
    config = inspection.InspectConfig(
        records_dir=directory, histogram=str(tmp_path / "ages.png")
    )
    assert "validation" in inspection.inspect_records(config).summary
    assert inspection.diff(directory, sample_records) == ["test: only there"]
    assert inspection.diff(sample_records, directory) == ["test: only here"]


def test_no_data_set_is_one_line(tmp_path):
    config = inspection.InspectConfig(records_dir=str(tmp_path))
    with pytest.raises(errors.UsageError, match="cannot read the manifest"):
        inspection.inspect_records(config)
    with pytest.raises(errors.UsageError, match="--records_dir is missing"):
        inspection.InspectConfig()
    with pytest.raises(errors.UsageError, match="--num_threads must be 0 or more"):
        inspection.InspectConfig(records_dir=str(tmp_path), num_workers=-1)


@pytest.mark.parametrize("kind", ["sample_records", "hdf5_records"])
@pytest.mark.parametrize("scheme", ["file", "ram"])
def test_records_behind_a_scheme_are_verified(kind, scheme, request, tmp_path):
    """Sound records in a bucket were called damaged."""
    import tensorflow as tf

    directory = _copy(request.getfixturevalue(kind), tmp_path)
    name = _shard(directory)
    target = f"file://{directory}"
    if scheme == "ram":
        target = f"ram://verified-{kind}"
        for file in os.listdir(directory):
            path = os.path.join(directory, file)
            tf.io.gfile.copy(path, f"{target}/{file}", overwrite=True)
    assert data_set_verification.verify(target) == []
    config = inspection.InspectConfig(records_dir=target, verify=True)
    assert not inspection.inspect_records(config).faults
    tf.io.gfile.remove(f"{target}/{name}")
    (fault,) = data_set_verification.verify(target)
    assert fault.file == name and fault.fault.startswith("is missing")


@pytest.mark.parametrize("kind", ["sample_records", "hdf5_records"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("which", ["shard", "index", "mean.json", "manifest.json"])
def test_a_file_that_cannot_be_opened_is_not_called_damaged(
    kind, number, which, request, monkeypatch
):
    directory = request.getfixturevalue(kind)
    name = {"shard": _shard(directory), "index": "afad-train.index.npy"}.get(which)
    refused = os.path.join(directory, name or which)

    def opened(path, *arguments, **named):
        if path == refused:
            raise OSError(number, os.strerror(number))
        return builtin(path, *arguments, **named)

    builtin = open
    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(errors.UsageError, match=os.strerror(number)) as caught:
        data_set_verification.verify(directory)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("source", ["sample_records", "hdf5_records"])
def test_a_remote_data_set_is_verified_too(source, request):
    directory = f"ram://inspected-{source}"
    local = request.getfixturevalue(source)
    for name in os.listdir(local):
        if os.path.isfile(os.path.join(local, name)):
            content = files.read_bytes(os.path.join(local, name))
            files.write_atomic(f"{directory}/{name}", content)
    assert data_set_verification.verify(directory) == []
    shards = schema.load_manifest(directory).splits["train"].shards
    content = bytearray(files.read_bytes(f"{directory}/{shards[0].name}"))
    content[len(content) // 2] ^= 1
    files.write_atomic(f"{directory}/{shards[0].name}", bytes(content))
    import tensorflow as tf

    tf.io.gfile.remove(f"{directory}/{schema.MEAN_NAME}")
    faults = data_set_verification.verify(directory)
    assert {fault.file for fault in faults} == {shards[0].name, schema.MEAN_NAME}
