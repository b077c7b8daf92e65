"""Settings of the process for a training: threads, number formats, random generators.

A program may train many times, and draw random numbers between the calls: those
settings that a training changes are given back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator

import numpy as np

from afad_tfdata.common import resources
from afad_tfdata.common.lazy_imports import keras, tf

_log = logging.getLogger(__name__)
# GPUs of this compute capability or a higher one have units for float16 products; on
# older ones, float16 saves memory but no time.
_FLOAT16_CAPABILITY = (7, 0)


def set_threads(wanted: int) -> dict[str, int]:
    """Sets the threads of the process: by the flag, the batch system, or the cores.

    A run records the number of threads, because rounding depends on it.

    Args:
      wanted: ``--threads``; 0 for the allocation or the cores.

    Returns:
      TensorFlow's numbers of ``intra_op`` and ``inter_op`` threads, which cannot change
      after it has started; and ``cores``.
    """
    cores = resources.cores()
    # Slurm may allocate fewer cores than this process is allowed to run on.
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    count = wanted or (int(allocated) if allocated.isdigit() else cores)
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:  # TensorFlow has started already, and keeps its threads.
        if wanted and wanted != threading.get_intra_op_parallelism_threads():
            _log.warning("--threads=%d comes too late in this process", wanted)
    return {
        "intra_op": threading.get_intra_op_parallelism_threads(),
        "inter_op": threading.get_inter_op_parallelism_threads(),
        "cores": cores,
    }


def resolve_precision(name: str) -> str:
    """The dtype policy that ``--precision`` means on the devices of this process."""
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    # A GPU without this entry counts as an old one.
    capable = [
        d.get("compute_capability", (0, 0)) >= _FLOAT16_CAPABILITY for d in details
    ]
    return "mixed_float16" if capable and all(capable) else "float32"


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """In this process, layers that are created in the block have this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        # The policy is global, and must not reach the caller's later layers.
        keras.config.set_dtype_policy(before)


def seed_generators(number: int) -> None:
    """Seeds what initial weights and a caller's functions draw from.

    ``keras.utils.set_random_seed`` is not used: it also replaces the generator of
    ``keras.random``, which no public function could give back to the caller.
    """
    random.seed(number)
    np.random.seed(number)
    tf.random.set_seed(number)


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Gives the process its random generators and its TF32 setting back.

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
