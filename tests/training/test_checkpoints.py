"""Checkpoint files: round trip, damage, rotation, replicas."""

import logging
import os
import re

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.training import checkpoint_format, checkpoints, history, run_state
from afad_tfdata.training.distributed import strategies

ARRAYS = {
    "model/0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model/1": np.float64(2.5),  # No dimension stays no dimension.
    "seeds/0": np.array([7, 0], np.int32),
    "empty/0": np.zeros((0, 4), np.float16),
}
STATE = {"sums": [0.1 + 0.2, 1e-300], "nested": {"best": None, "loss": float("inf")}}


def save(directory, step, arrays=None):
    path = checkpoints.path_of(str(directory), step)
    checkpoints.save(path, ARRAYS if arrays is None else arrays, {"step": step})
    return path


def test_round_trip_is_exact(tmp_path):
    path = checkpoints.path_of(str(tmp_path), 12)
    checkpoints.save(path, ARRAYS, STATE)
    loaded = checkpoints.load(path)
    assert loaded.state == STATE
    assert loaded.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == np.asarray(array).dtype
        assert loaded.arrays[name].shape == np.shape(array)
        np.testing.assert_array_equal(loaded.arrays[name], array)
    assert os.listdir(tmp_path) == ["step-0000000012.ckpt"]


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "foreign"])
def test_a_damaged_newest_checkpoint_is_named_and_skipped(tmp_path, caplog, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    with open(path, "rb") as f:
        content = bytearray(f.read())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    keep = {"torn": content[:-5], "empty": b"", "foreign": b"x" * 200}
    with open(path, "wb") as f:
        f.write(keep.get(damage, content))
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.load_newest(str(tmp_path))
    assert newest.state == {"step": 1}
    assert path in caplog.text and "before" in caplog.text


def test_no_checkpoint_and_no_whole_one_are_told_apart(tmp_path):
    assert checkpoints.load_newest(str(tmp_path / "missing")) is None
    with open(save(tmp_path, 3), "wb") as f:
        f.write(b"x")
    with pytest.raises(errors.DataError, match="none of the 1 checkpoints"):
        checkpoints.load_newest(str(tmp_path))


def test_rotation_keeps_the_last_and_the_named(tmp_path):
    for step in (0, 10, 20, 30, 40):
        save(tmp_path, step, {})
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.prune(str(tmp_path), [10, 99], last=2)
    assert checkpoints.steps(str(tmp_path)) == [10, 30, 40]
    assert (tmp_path / "notes.txt").exists()


def test_other_programs_find_the_variables_by_name(tmp_path, one_replica):
    groups = _network(one_replica, 1)
    path = checkpoints.path_of(str(tmp_path), 1)
    arrays = checkpoints.variable_values(one_replica, groups)
    paths = checkpoints.variable_paths(groups)
    checkpoints.save(path, arrays, {"step": 1}, paths)
    names = sorted(safetensors_numpy.load_file(path))
    assert len(names) == len(arrays)
    assert [name.partition("/")[0] for name in names] == sorted(
        name.partition("/")[0] for name in arrays
    )
    assert any(re.fullmatch(r"model/0000 .*dense.*/kernel", name) for name in names)
    assert any(name.endswith("seed_generator/seed_generator_state") for name in names)
    loaded = checkpoints.load(path)
    assert loaded.paths == paths and loaded.arrays.keys() == arrays.keys()


def test_a_position_that_is_there_twice_is_damage(tmp_path):
    path = checkpoints.path_of(str(tmp_path), 1)
    twice = {"model/0000 a": np.zeros(1), "model/0000 b": np.zeros(1)}
    (tmp_path / "step-0000000001.ckpt").write_bytes(checkpoint_format.pack(twice, {}))
    with pytest.raises(errors.DataError, match="model/0 is in it twice"):
        checkpoints.load(path)


def _network(strategy, seed, units=3):
    with strategy.scope():
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(units),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5, seed=seed),
            ]
        )
        optimizer = keras.optimizers.Adam(use_ema=True)
        optimizer.build(model.trainable_variables)
    return {"model": model.variables, "optimizer": optimizer.variables}


@pytest.mark.latest
def test_what_two_replicas_saved_one_restores(one_replica, two_replicas, tmp_path):
    """Dropout seeds and averages too; every copy of a mirrored variable is set."""
    two, one, other = (
        _network(two_replicas, 1),
        _network(one_replica, 2),
        _network(two_replicas, 3),
    )
    saved = checkpoints.variable_values(two_replicas, two)
    path = checkpoints.path_of(str(tmp_path), 1)
    checkpoints.save(path, saved, {})
    arrays = checkpoints.load(path).arrays
    assert any("seed" in v.path for v in two["model"])
    for strategy, groups in ((one_replica, one), (two_replicas, other)):
        checkpoints.assign(strategy, groups, arrays, where=path)
        restored = checkpoints.variable_values(strategy, groups)
        for name, value in saved.items():
            np.testing.assert_array_equal(restored[name], value)
    copies = two_replicas.experimental_local_results(other["model"][0].value)
    assert len(copies) == 2
    np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())


def test_another_network_is_one_line_and_changes_nothing(one_replica):
    small, large = _network(one_replica, 1), _network(one_replica, 2, units=5)
    stored = checkpoints.variable_values(one_replica, large)
    before = [strategies.local_value(one_replica, v) for v in small["model"]]
    with pytest.raises(errors.UsageError, match="does not fit this network.*shape"):
        checkpoints.assign(one_replica, small, stored, where="x.ckpt")
    more = {**checkpoints.variable_values(one_replica, small), "model/99": np.zeros(2)}
    with pytest.raises(errors.UsageError, match="this network has"):
        checkpoints.assign(one_replica, small, more, where="x.ckpt")
    for variable, value in zip(small["model"], before, strict=True):
        now = strategies.local_value(one_replica, variable)
        np.testing.assert_array_equal(now, value)


def test_epochs_are_found_without_reading_the_arrays(tmp_path, monkeypatch):
    directory = str(tmp_path)
    for step, epoch in ((10, 1), (20, 2), (25, 2), (30, 3)):
        state = run_state.RunState(step=step, epoch=epoch)
        if step == 25:  # In the middle of an epoch.
            state.sums[0] = 1.0
        run_state.RunSnapshot(state, history.History(), ARRAYS).save(directory)
    os.truncate(checkpoints.path_of(directory, 20), 300)

    def read_whole(path):
        raise AssertionError(f"{path} was read whole")

    monkeypatch.setattr(checkpoints.files, "read_bytes", read_whole)
    assert run_state.steps_of_epoch_ends(directory) == {1: 10, 3: 30}
