"""A network whose state is easily lost, and what a run of it left at its end."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.training import checkpoints


class End(NamedTuple):
    """What is compared between runs that must have ended alike.

    Attributes:
      arrays: Weights and optimizer state in the newest checkpoint, by name.
      state: Everything else in that checkpoint.
      history: Content of history.json.
    """

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]
    history: dict[str, Any]


def build_network(*, dropout: float = 0.0, batch_statistics: bool = False):
    """A small network for images of 16 x 16, the same weights at every call."""
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3), name="root_input")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    if batch_statistics:
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(dropout, seed=1)(keras.layers.Flatten()(x))
    age = keras.layers.Dense(1, name="age_output")(x)
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender_output")(x)
    return keras.Model(image, [age, gender])


def end_of(run_dir: str | os.PathLike[str]) -> End:
    """What a run left."""
    newest = checkpoints.load_newest(os.path.join(run_dir, "checkpoints"))
    assert newest is not None, f"no checkpoint in {run_dir}"
    with open(os.path.join(run_dir, "history.json")) as f:
        return End(newest.arrays, newest.state, json.load(f))


def differences(one: End, two: End) -> list[str]:
    """Names of what is not equal, bit for bit."""
    names = sorted(one.arrays.keys() | two.arrays.keys())
    found = [
        name
        for name in names
        if name not in one.arrays
        or name not in two.arrays
        or not np.array_equal(one.arrays[name], two.arrays[name])
    ]
    found += ["state"] * (one.state != two.state)
    return found + ["history"] * (one.history != two.history)


def assert_same(one: End, two: End) -> None:
    """Fails with the names of what is not equal."""
    assert one.state == two.state
    assert one.history == two.history
    assert not differences(one, two)
