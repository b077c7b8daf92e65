"""Tries whether XLA compiles here, without risking this process.

On a GPU that is newer than the build of TensorFlow, XLA does not raise an error: it
aborts the process.  If there is a GPU, the trial therefore runs in a child process.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

from afad_tfdata.common import child_process, errors, tensorflow_messages
from afad_tfdata.common.lazy_imports import tf

# Importing TensorFlow from a slow file system takes a minute; compiling takes seconds.
_TIMEOUT_SECS = 300


@functools.cache
def why_not() -> str:
    """Why XLA does not compile for the first GPU or else the CPU; empty if it does."""
    gpu = _gpu_to_try()
    if gpu:
        done = _try_in_child(_trial_command(gpu))
        if done is not None:
            return done
    return _try_here()


def _gpu_to_try() -> str:
    """The name of the first GPU, for which XLA is tried; empty if there is none."""
    gpus = tf.config.get_visible_devices("GPU")
    return gpus[0].name if gpus else ""


def _trial_command(gpu: str) -> list[str]:
    """The command that tries XLA in a child process."""
    return child_process.command(f"{__name__}:_trial_main", gpu)


def _try_in_child(command: list[str]) -> str | None:
    """Tries XLA in a child process, which it may abort.

    Returns:
      Empty if XLA compiles there, the reason if XLA ended the process; None if the
      process ended for a reason of its own, so that nothing is known.
    """
    # This process may have taken nearly all of the GPU's memory already.
    environment = dict(os.environ, TF_FORCE_GPU_ALLOW_GROWTH="true")
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return ""
    if done.returncode in (-signal.SIGABRT, -signal.SIGSEGV):
        return f"XLA aborts the process: {tensorflow_messages.fatal_line(done.stderr)}"
    # For example a GPU that only one process at a time may open.
    return None


def _try_here() -> str:
    """Tries XLA in this process; returns why it does not compile, or nothing."""
    # The caller may be tracing a function; the trial must not become part of it.
    with tf.init_scope():
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        try:
            with tf.device(devices[0].name):
                # A sine needs XLA's mathematics library, which a GPU installation may
                # lack.
                trial = tf.function(tf.sin, jit_compile=True, autograph=False)
                trial(tf.constant([0.5])).numpy()
        except (tf.errors.OpError, RuntimeError) as error:
            return errors.one_line(error)
    return ""


def _trial_main(arguments: list[str]) -> int:
    """Tries XLA for a named GPU, in the child; returns 0 if it compiles."""
    (gpu,) = arguments
    # The name counts the GPUs that CUDA_VISIBLE_DEVICES shows, which is inherited.
    chosen = [g for g in tf.config.list_physical_devices("GPU") if g.name == gpu]
    tf.config.set_visible_devices(chosen, "GPU")
    if not chosen:
        return 1
    reason = _try_here()
    print(reason, file=sys.stderr)
    return 1 if reason else 0
