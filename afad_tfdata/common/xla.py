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

from afad_tfdata.common import child_process, errors
from afad_tfdata.common.lazy_imports import tf

# Importing TensorFlow from a slow file system takes a minute; compiling takes seconds.
_TIMEOUT_SECS = 300


@functools.cache
def why_not() -> str:
    """Empty if XLA compiles for the first GPU or, without one, for the CPU."""
    gpu = _first_gpu()
    if gpu:
        done = _in_child(_child_command(gpu))
        if done is not None:
            return done
    return _why_not_here()


def _first_gpu() -> str:
    """Name of the first GPU that this process uses; empty if there is none."""
    gpus = tf.config.get_visible_devices("GPU")
    return gpus[0].name if gpus else ""


def _child_command(gpu: str) -> list[str]:
    """The command that tries XLA in a process of its own."""
    return child_process.command(f"{__name__}:_run_child", gpu)


def _in_child(command: list[str]) -> str | None:
    """Runs the trial in another process.

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
        return f"XLA aborts the process: {fatal_line(done.stderr)}"
    # For example a GPU that only one process at a time may open.
    return None


def fatal_line(text: str) -> str:
    """The line of a process's output that says why TensorFlow aborted it."""
    lines = text.strip().splitlines() or ["it says nothing"]
    # In TensorFlow's log, the line of a fatal error begins with F and the date.  Lines
    # of a stack trace may follow it.
    fatal = [line for line in lines if line[:1] == "F" and line[1:2].isdigit()]
    fatal += [line for line in lines if ": F " in line]
    return errors.one_line((fatal or lines)[-1])


def _why_not_here() -> str:
    """The trial, in this process."""
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


def _run_child(arguments: list[str]) -> int:
    """Status 0 if XLA compiles for the GPU of this machine that is named."""
    (gpu,) = arguments
    # The name counts the GPUs that CUDA_VISIBLE_DEVICES shows, which is inherited.
    chosen = [g for g in tf.config.list_physical_devices("GPU") if g.name == gpu]
    tf.config.set_visible_devices(chosen, "GPU")
    if not chosen:
        return 1
    reason = _why_not_here()
    print(reason, file=sys.stderr)
    return 1 if reason else 0
