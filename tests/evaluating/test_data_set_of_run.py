"""A data set that was written again after a training."""

from __future__ import annotations

import json
import shutil

import pytest

from afad_tfdata import records, schema
from afad_tfdata.common import errors
from afad_tfdata.evaluating import data_set_of_run
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
