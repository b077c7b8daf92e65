"""A data set that was written again after a training."""

from __future__ import annotations

import json
import shutil

import pytest

from afad_tfdata import records, schema
from afad_tfdata.common import errors, files
from afad_tfdata.evaluating import data_set_of_run
from afad_tfdata.storage import joined_data_sets
from afad_tfdata.training import run_dir


@pytest.fixture
def run(sample_tree, tmp_path):
    """A run's configuration, and the data set that it names."""
    path = tmp_path / "records"
    write(sample_tree, path)
    digest = run_dir.records_digest(schema.load_manifest(str(path)))
    (tmp_path / "run").mkdir()
    stored = {"train": {"records_dir": str(path)}, "records_digest": digest}
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    return str(tmp_path / "run"), path


def write(tree, path, **changes):
    config = records.WriteConfig(
        data_dir=str(tree), output_dir=str(path), image_size=16, **changes
    )
    records.write_records(config)


def test_the_same_data_set_is_evaluated(run, caplog):
    directory, path = run
    data_set_of_run.check(directory, str(path), named=False)
    data_set_of_run.check(directory, str(path), named=True)
    assert "was written again" not in caplog.text


def test_a_data_set_that_was_written_again_is_refused(run, sample_tree, caplog):
    """Its test split once had images of the training, and the result was too good."""
    directory, path = run
    shutil.rmtree(path)
    write(sample_tree, path, seed=2)
    with pytest.raises(errors.UsageError, match="not the data set any more that"):
        data_set_of_run.check(directory, str(path), named=False)
    data_set_of_run.check(directory, str(path), named=True)
    assert "may have images of the training" in caplog.text


def test_another_data_set_is_evaluated_on_purpose(run, sample_tree, tmp_path, caplog):
    directory, _ = run
    write(sample_tree, tmp_path / "other", seed=2)
    data_set_of_run.check(directory, str(tmp_path / "other"), named=True)
    assert "was written again" not in caplog.text


@pytest.fixture
def relative(run, sample_tree, tmp_path, monkeypatch):
    """The run with a relative path, in another folder with records of that name."""
    directory, path = run
    config = tmp_path / "run" / "config.json"
    stored = json.loads(config.read_text())
    stored["train"]["records_dir"] = "records"
    config.write_text(json.dumps(stored))
    write(sample_tree, tmp_path / "elsewhere" / "records", seed=2)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return directory, path


def test_a_nearer_data_set_of_the_same_name_is_not_taken(relative):
    """Evaluation ended with the error that the data set was written again."""
    directory, path = relative
    stored = run_dir.read_config(directory)
    assert run_dir.data_set_of_run(directory, stored) == str(path)
    shutil.rmtree(path)
    assert run_dir.data_set_of_run(directory, stored) == "records"


def test_a_nearer_data_set_of_the_same_name_can_be_named(relative, caplog):
    directory, _ = relative
    data_set_of_run.check(directory, "records", named=True)
    assert "was written again" not in caplog.text


def test_a_data_set_in_the_working_directory_instead_of_one_that_is_gone(
    run, sample_tree, tmp_path, monkeypatch, caplog
):
    """No path was taken for the working directory, and the new data set for the old."""
    directory, path = run
    shutil.rmtree(path)
    write(sample_tree, tmp_path / "other", seed=2)
    monkeypatch.chdir(tmp_path / "other")
    data_set_of_run.check(directory, ".", named=True)
    assert "was written again" not in caplog.text


@pytest.mark.parametrize("other", ["gs://b/records/", "gs://b/records"])
def test_a_slash_at_the_end_of_a_remote_path(other):
    place = joined_data_sets.place_of("gs://b/records")
    assert joined_data_sets.place_of(other) == place
    with pytest.raises(errors.UsageError, match="twice"):
        joined_data_sets.directories(f"gs://b/records,{other}")


def test_a_replaced_remote_data_set_with_a_slash_is_seen(
    run, sample_tree, tmp_path, monkeypatch, caplog
):
    directory, path = run
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(str(path), "gs://b/records"))
    write(sample_tree, tmp_path / "new", seed=2)
    manifest = schema.load_manifest(str(tmp_path / "new"))
    monkeypatch.setattr(files, "exists", lambda _: True)
    monkeypatch.setattr(joined_data_sets, "load_manifest", lambda *_: manifest)
    data_set_of_run.check(directory, "gs://b/records/", named=True)
    assert "was written again" in caplog.text
