"""What a training leaves behind in the program that calls it."""

from __future__ import annotations

import random

import numpy as np
import tensorflow as tf

from afad_tfdata.training import process_settings
from tests.training import own_parts


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(tf.random.uniform([]))


def test_a_program_draws_other_numbers_after_each_training(monkeypatch):
    """A search over random options tried the same ones from the second run on."""

    def seen(seed: int) -> list[tuple[float, float, float]]:
        random.seed(seed)
        np.random.seed(seed)
        tf.random.set_seed(seed)
        found = [draws()]
        for _ in range(2):
            with process_settings.settings_kept():
                process_settings.seed_generators(1)
                draws()
            found.append(draws())
        return found

    try:
        first = seen(5)
        for numbers in zip(*first, strict=True):
            assert len(set(numbers)) == 3
        # A program that sets its seeds draws the same numbers again.
        assert seen(5) == first
        random.seed(5)
        assert [random.random() for _ in range(3)] == [row[0] for row in first]
    finally:
        tf.random.set_seed(None)


def test_a_program_without_seeds_stays_without():
    tf.random.set_seed(None)
    found = set()
    for _ in range(3):
        with process_settings.settings_kept():
            process_settings.seed_generators(1)
        found.add(float(tf.random.uniform([])))
    assert len(found) == 3


def test_training_keeps_the_settings(tmp_path):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    model = own_parts.network()
    before = random.getstate(), np.random.get_state()[1].tolist()
    result = own_parts.train(tmp_path / "run", model=model, tf32=False)
    assert result.best_epoch == 1
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert tf.config.experimental.tensor_float_32_execution_enabled()
