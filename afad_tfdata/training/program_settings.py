"""Settings of the process that a training changes, and gives back to the program.

A program may train many times, and draw random numbers between the calls.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from afad_tfdata.common.lazy_imports import tf


def seed(number: int) -> None:
    """Seeds what initial weights and a caller's functions draw from.

    ``keras.utils.set_random_seed`` is not used: it also replaces the generator of
    ``keras.random``, which no public function could give back to the caller.
    """
    random.seed(number)
    np.random.seed(number)
    tf.random.set_seed(number)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Gives a program its random generators and its TF32 setting back.

    A program that draws the options of its next training would otherwise draw the same
    ones after every training.
    """
    python, numpy = random.getstate(), np.random.get_state()
    # The second number is drawn from TensorFlow's generator of seeds, so that it
    # depends on the caller's seed, and differs from one training to the next.
    before, drawn = tf.compat.v1.random.get_seed(None)
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        tf.random.set_seed(None if before is None else drawn)
        tf.config.experimental.enable_tensor_float_32_execution(rounds)
