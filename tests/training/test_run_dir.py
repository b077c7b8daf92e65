"""Run directories: the data set that a run was trained on."""

import pytest

from afad_tfdata.storage import schema
from afad_tfdata.training import run_dir


@pytest.fixture
def project(tmp_path):
    """A project that has trained with ``--records_dir=data/faces`` in its folder."""
    (tmp_path / "data" / "faces").mkdir(parents=True)
    (tmp_path / "data" / "faces" / schema.MANIFEST_NAME).write_text("{}")
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.mark.parametrize("place", ["", "runs", "runs/first", "elsewhere"])
def test_a_relative_path_from_any_working_directory(place, project, monkeypatch):
    monkeypatch.chdir(project / place)
    found = run_dir.find_data_set(str(project / "runs" / "first"), "data/faces")
    assert (project / place / found).resolve() == project / "data" / "faces"


def test_a_data_set_that_is_gone(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "data" / "faces" / schema.MANIFEST_NAME).unlink()
    assert run_dir.find_data_set("runs/first", "data/faces") == ""
    assert run_dir.find_data_set("runs/first", str(project / "data" / "faces")) == ""
    assert run_dir.find_data_set("runs/first", "") == ""
