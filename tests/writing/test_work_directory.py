"""What a writer finds in its directory: a data set, a plan or another writer."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import remote_data_set
from afad_tfdata.writing import data_set_verification, work_directory
from tests.writing.data_sets import digests, face_file, make_tree, write


def test_a_finished_data_set_is_recognized_and_another_refused(sample_tree, tmp_path):
    first = write(sample_tree, tmp_path / "out")
    before = digests(tmp_path / "out")
    assert write(sample_tree, tmp_path / "out") == first
    assert digests(tmp_path / "out") == before
    with pytest.raises(errors.UsageError, match="differs in seed: take another"):
        write(sample_tree, tmp_path / "out", seed=9)
    assert digests(tmp_path / "out") == before
    (tmp_path / "out" / first.splits["train"].shards[1].name).unlink()
    with pytest.raises(errors.DataError, match="missing or of another size"):
        write(sample_tree, tmp_path / "out")


def test_an_unfinished_data_set_of_another_configuration_is_refused(
    sample_tree, tmp_path
):
    write(sample_tree, tmp_path / "out", shard_range="0:1")
    with pytest.raises(errors.UsageError, match="unfinished .* differs in image_size"):
        write(sample_tree, tmp_path / "out", image_size=25)


def test_a_second_writer_is_refused(sample_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(work_directory, "LOCK_SECS", 0.1)
    work = tmp_path / "out" / ".work"
    work.mkdir(parents=True)
    with work_directory.lock(str(work), shared=False):
        with pytest.raises(errors.UsageError, match="another writer is at work"):
            write(sample_tree, tmp_path / "out")


def test_a_writer_that_waited_for_another_looks_again(tmp_path):
    """It finds a finished data set, of this configuration or of another."""
    tree = make_tree(tmp_path / "tree")
    out = tmp_path / "out"
    work = out / work_directory.WORK_NAME
    work.mkdir(parents=True)
    outcomes = {}

    def second(seed):
        try:
            outcomes[seed] = write(tree, out, seed=seed)
        except errors.UsageError as error:
            outcomes[seed] = error

    with work_directory.lock(str(work), shared=False):
        waiting = [threading.Thread(target=second, args=(seed,)) for seed in (1, 2)]
        for thread in waiting:
            thread.start()
        ready = tmp_path / "ready"
        first = write(tree, ready)
        for path in ready.iterdir():
            shutil.copy(path, out / path.name)
        work_directory.remove_work(str(work))
    for thread in waiting:
        thread.join()
    assert outcomes[1] == first
    assert "a finished data set of another configuration" in str(outcomes[2])
    assert data_set_verification.verify(str(out)) == []


@pytest.mark.parametrize("name", ["plan.npy", "plan.keys", "plan.groups"])
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_plan_that_was_changed_is_written_again(name, fault, tmp_path):
    """The groups of the images are stored and compared like the rows and the keys."""
    rows = ["path,age,gender,group"]
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_bytes(face_file(i))
        rows.append(f"{i}.jpg,{20 + i},111,person {i // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    flags = {"labels_csv": str(tmp_path / "labels.csv"), "shard_range": "0:1"}
    write(tmp_path, tmp_path / "out", **flags)
    stored = tmp_path / "out" / ".work" / name
    before = stored.read_bytes()
    if fault == "missing":
        stored.unlink()
    else:
        stored.write_bytes(before[:-9] + before[-8:] + b"x")
    write(tmp_path, tmp_path / "out", **flags)
    assert stored.read_bytes() == before


def test_payloads_of_another_plan_are_not_taken(tmp_path):
    tree = make_tree(tmp_path / "tree")
    write(tree, tmp_path / "out", shard_range="0:3")
    (tmp_path / "out" / work_directory.WORK_NAME / "plan.json").unlink()
    write(tree, tmp_path / "out", seed=2)
    write(tree, tmp_path / "expected", seed=2)
    assert digests(tmp_path / "out") == digests(tmp_path / "expected")


def test_a_remote_data_set_is_written_in_a_directory_of_its_own(tmp_path):
    staging = remote_data_set.staging_dir("gs://bucket/records", str(tmp_path))
    assert os.path.dirname(staging) == str(tmp_path)
    assert staging == remote_data_set.staging_dir("gs://bucket/records", str(tmp_path))
    assert staging != remote_data_set.staging_dir("gs://bucket/other", str(tmp_path))
