"""Drawn faces: in AFAD's folders, sizes and ages, and the same for each seed."""

from __future__ import annotations

import collections
import pathlib

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.images import codec, drawn_faces
from afad_tfdata.storage import image_keys


def _tree(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in pathlib.Path(directory).rglob("*.jpg")
    }


def test_sizes_ages_and_photos_are_as_in_afad():
    faces = list(drawn_faces.faces(4000, 3))
    ages = np.array([face.age for face in faces])
    assert ages.min() == 15 and 41 <= ages.max() <= 72
    assert 71 not in ages
    assert 24 <= np.median(ages) <= 27  # The data set's own median is 25.
    photos = collections.Counter(image_keys.photo_id(face.path) for face in faces)
    assert max(photos.values()) > 1
    assert len({face.path for face in faces}) == 4000


def test_drawn_images_have_the_sizes_of_afad(sample_tree):
    headers = [codec.read_header(data) for data in _tree(sample_tree).values()]
    sides = np.array([max(h.height, h.width) for h in headers])
    assert sides.min() >= 20 and sides.max() <= 500
    assert 100 <= np.median(sides) <= 140
    assert len(headers) == 240


def test_faces_depend_on_the_seed_only(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(
                output_dir=str(tmp_path / name), num_images=20, seed=seed
            )
        )
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")
    assert _tree(tmp_path / "a") != _tree(tmp_path / "c")


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(errors.UsageError, match="not empty"):
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(output_dir=str(tmp_path), num_images=5, seed=1)
        )


def test_faces_show_age_and_gender():
    """A linear fit on coarse pixels predicts both better than a constant does."""
    faces = list(drawn_faces.faces(300, 4))
    pictures = [
        codec.resize(drawn_faces.draw(face, 4), 16, antialias=True) for face in faces
    ]
    x = np.stack(pictures).reshape(len(faces), -1) / 255
    x = np.c_[x - x.mean(0), np.ones(len(x))]
    age = np.array([face.age for face in faces], float)
    gender = np.array([face.female for face in faces], float)
    for label, chance in ((age, np.abs(age - np.median(age)).mean()), (gender, None)):
        gram = x[:200].T @ x[:200] + 1.0 * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[:200].T @ label[:200])
        predicted = x[200:] @ weights
        if chance is None:
            assert ((predicted > 0.5) == label[200:]).mean() > 0.8
        else:
            assert np.abs(predicted - label[200:]).mean() < 0.8 * chance
