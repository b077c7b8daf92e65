"""The first files of `foreign_files`, read by both engines."""

from __future__ import annotations

import pytest

from tests.robustness import foreign_files


@pytest.mark.parametrize("first", [0, 6])
def test_drawn_files_are_read_right_or_refused_in_one_line(first):
    outcomes = foreign_files.run(range(first, first + 6))
    assert outcomes["right"] and outcomes["refused"]


@pytest.mark.parametrize("name", list(foreign_files.PIXELS))
def test_every_kind_of_pixels(name, tmp_path):
    foreign_files.try_pixels(name, str(tmp_path))


@pytest.mark.parametrize("name", list(foreign_files.LAYOUTS))
@pytest.mark.parametrize("storage", ["contiguous", "gzip"])
def test_every_layout_of_pixels(name, storage, tmp_path):
    foreign_files.try_layout(name, storage, str(tmp_path))


@pytest.mark.parametrize("name", list(foreign_files.LABELS))
@pytest.mark.parametrize("container", ["hdf5", "tfrecord"])
def test_every_form_of_labels(name, container, tmp_path):
    foreign_files.try_labels(name, container, str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(foreign_files.TFRECORD_DAMAGE)))
@pytest.mark.parametrize("budget", [0, foreign_files.COUNT])
def test_every_damage_of_tfrecords(name, budget, tmp_path):
    foreign_files.try_damage(name, "tfrecord", budget, str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(foreign_files.HDF5_DAMAGE)))
@pytest.mark.parametrize("budget", [0, foreign_files.COUNT])
def test_every_damage_of_hdf5(name, budget, tmp_path):
    foreign_files.try_damage(name, "hdf5", budget, str(tmp_path))


@pytest.mark.slow
def test_many_drawn_files():
    foreign_files.run(range(12, 332))
