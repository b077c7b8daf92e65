"""--overwrite replaces a data set, and removes nothing else; --max_examples."""

import os
import shutil

import pytest

from afad_tfdata import records
from afad_tfdata.common import errors, locks
from afad_tfdata.storage import schema
from afad_tfdata.writing import work_directory
from tests.writing import data_sets


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from afad_tfdata.images import drawn_faces

    directory = tmp_path_factory.mktemp("source") / "faces"
    drawn_faces.make_sample(
        drawn_faces.SampleConfig(output_dir=str(directory), num_images=40)
    )
    return directory


def write(source, directory, **flags):
    return data_sets.write(source, directory, **flags)


def test_a_finished_data_set_is_replaced(source, tmp_path):
    write(source, tmp_path / "new", seed=2, format="hdf5")
    write(source, tmp_path / "old", seed=1, num_shards=7)
    write(source, tmp_path / "old", seed=2, format="hdf5", overwrite=True)
    assert data_sets.digests(tmp_path / "old") == data_sets.digests(tmp_path / "new")
    assert not (tmp_path / "old" / work_directory.WORK_NAME).exists()


def test_files_for_dali_are_replaced(source, tmp_path):
    write(source, tmp_path / "new", seed=2, num_shards=2)
    write(source, tmp_path / "old", seed=1, num_shards=3, dali_index=True)
    write(source, tmp_path / "old", seed=2, num_shards=2, overwrite=True)
    assert sorted(os.listdir(tmp_path / "old")) == sorted(os.listdir(tmp_path / "new"))


def test_nothing_to_replace(source, tmp_path):
    write(source, tmp_path / "new", overwrite=True)
    (tmp_path / "empty").mkdir()
    write(source, tmp_path / "empty", overwrite=True)
    assert data_sets.digests(tmp_path / "new") == data_sets.digests(tmp_path / "empty")


@pytest.mark.parametrize("name", ["notes.txt", "15", "model.keras", ".hidden"])
def test_what_is_no_data_set_is_kept(source, tmp_path, name):
    """Alone, and next to a data set."""
    for directory in (tmp_path / "alone", tmp_path / "beside"):
        if directory.name == "beside":
            write(source, directory)
        directory.mkdir(exist_ok=True)
        path = directory / name
        path.mkdir() if name == "15" else path.write_text("mine")
        before = sorted(os.listdir(directory))
        with pytest.raises(errors.UsageError, match=f"contains {name}, which is not"):
            write(source, directory, overwrite=True, seed=2)
        assert sorted(os.listdir(directory)) == before


@pytest.mark.parametrize("name", ["manifest.json", "mean.json", "age_gender.png"])
def test_a_file_of_another_program_with_such_a_name_is_kept(source, tmp_path, name):
    (tmp_path / name).write_text('{"name": "a web page"}')
    with pytest.raises(errors.UsageError, match="nothing is removed"):
        write(source, tmp_path, overwrite=True)
    assert (tmp_path / name).exists()


def test_a_folder_with_the_name_of_a_shard_is_kept(source, tmp_path):
    write(source, tmp_path / "records")
    (tmp_path / "records" / "afad-test.tfrecord-00000-of-00009").mkdir()
    with pytest.raises(errors.UsageError, match="00009, which is not"):
        write(source, tmp_path / "records", overwrite=True)


def test_a_damaged_data_set_is_replaced(source, tmp_path):
    write(source, tmp_path / "records")
    expected = data_sets.digests(tmp_path / "records")
    (tmp_path / "records" / schema.MANIFEST_NAME).write_text("{")
    write(source, tmp_path / "records", overwrite=True)
    assert data_sets.digests(tmp_path / "records") == expected
    # A removal that was killed leaves the manifest, and the next run goes on.
    os.remove(next((tmp_path / "records").glob("*tfrecord-*")))
    write(source, tmp_path / "records", overwrite=True)
    assert data_sets.digests(tmp_path / "records") == expected


def unfinished(source, directory, monkeypatch, **flags):
    """A data set of which all payloads, and nothing else, are written."""

    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.data_set_files, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            write(source, directory, **flags)
    work = directory / work_directory.WORK_NAME
    return {p.name: p.stat().st_mtime_ns for p in work.glob("*.payload")}


def test_an_unfinished_data_set_of_the_same_plan_is_continued(
    source, tmp_path, monkeypatch
):
    written = unfinished(source, tmp_path / "records", monkeypatch, overwrite=True)
    again = unfinished(source, tmp_path / "records", monkeypatch, overwrite=True)
    assert written and written == again


def test_an_unfinished_data_set_of_another_plan_is_replaced(
    source, tmp_path, monkeypatch
):
    unfinished(source, tmp_path / "records", monkeypatch, seed=3, num_shards=6)
    with pytest.raises(errors.UsageError, match="another configuration"):
        write(source, tmp_path / "records")
    write(source, tmp_path / "records", overwrite=True)
    write(source, tmp_path / "new")
    found = data_sets.digests(tmp_path / "records")
    assert found == data_sets.digests(tmp_path / "new")


def test_wrong_flags_cost_no_data_set(source, tmp_path):
    write(source, tmp_path / "records")
    before = data_sets.digests(tmp_path / "records")
    shutil.copytree(source, tmp_path / "few")
    for folder in (tmp_path / "few").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with pytest.raises(errors.UsageError, match="no image to write"):
        write(tmp_path / "few", tmp_path / "records", overwrite=True)
    assert data_sets.digests(tmp_path / "records") == before


def test_a_writer_at_work_is_left_alone(source, tmp_path, monkeypatch):
    monkeypatch.setattr(work_directory, "LOCK_SECS", 0.1)
    write(source, tmp_path / "records")
    before = data_sets.digests(tmp_path / "records")
    path = tmp_path / "records" / work_directory.WORK_NAME / work_directory.LOCK_NAME
    with locks.FileLock(str(path)):
        with pytest.raises(errors.UsageError, match="another writer is at work"):
            write(source, tmp_path / "records", overwrite=True, seed=2)
    assert data_sets.digests(tmp_path / "records") == before


def test_flags_that_do_not_fit():
    with pytest.raises(errors.UsageError, match="--shard_range"):
        records.WriteConfig(overwrite=True, shard_range="0:1")
    with pytest.raises(errors.UsageError, match="local --output_dir"):
        records.WriteConfig(overwrite=True, output_dir="gs://bucket/records")


def keys(directory):
    return {
        name for names in data_sets.keys_by_split(directory).values() for name in names
    }


def test_max_examples_is_a_sample(source, tmp_path):
    flags = {"format": "hdf5", "num_shards": 2}
    everything = write(source, tmp_path / "all", **flags)
    assert "max_examples" not in everything.config
    ten = write(source, tmp_path / "10", max_examples=10, **flags)
    twenty = write(source, tmp_path / "20", max_examples=20, **flags)
    many = write(source, tmp_path / "many", max_examples=1000, **flags)
    assert (ten.written, twenty.written) == (10, 20)
    assert ten.config["max_examples"] == 10
    assert ten.found == everything.found
    assert many.written == everything.written
    assert keys(tmp_path / "10") < keys(tmp_path / "20") < keys(tmp_path / "all")
    other = write(source, tmp_path / "seed", max_examples=10, seed=2, **flags)
    assert other.written == 10
    assert keys(tmp_path / "seed") != keys(tmp_path / "10")
    reasons = data_sets.rejected(tmp_path / "10").values()
    assert sum(reason == "left out by --max_examples" for reason in reasons) == 30
    # An image keeps its split.
    of_all = data_sets.keys_by_split(tmp_path / "all")
    for split, names in data_sets.keys_by_split(tmp_path / "20").items():
        assert set(names) <= set(of_all[split])


def test_max_examples_takes_a_number_from_0():
    with pytest.raises(errors.UsageError, match="--max_examples"):
        records.WriteConfig(max_examples=-1)
