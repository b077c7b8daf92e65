"""How TensorFlow computes in this process: its threads and its number formats."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from afad_tfdata.common import resources
from afad_tfdata.common.lazy_imports import keras, tf

_log = logging.getLogger(__name__)
# GPUs of this compute capability or a higher one have units for float16 products; on
# older ones, float16 saves memory but no time.
_FLOAT16_CAPABILITY = (7, 0)


def set_threads(wanted: int) -> dict[str, int]:
    """Sets host threads from the flag, the batch system's allocation, or the cores.

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
    """The Keras dtype policy that ``--precision`` means on these devices."""
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
    """Layers that are created within the block have this Keras dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        # The policy is global, and must not reach the caller's later layers.
        keras.config.set_dtype_policy(before)
