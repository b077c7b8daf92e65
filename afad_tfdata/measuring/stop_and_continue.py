"""A training that is stopped by SIGTERM, and continued by the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

import numpy as np

from afad_tfdata.common import child_process, errors
from afad_tfdata.measuring import check_settings, check_table
from afad_tfdata.training import checkpoints

# The signal comes after the first checkpoint, and the rest must take longer than it.
_EPOCHS, _EPOCHS_IF_TINY = 12, 3
_POLL_SECS = 0.05
_STOPPED = errors.PreemptedError.exit_status


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Trains with and without a SIGTERM, and compares the last checkpoints."""
    whole = _start_training(settings, "whole")
    cut = _start_training(settings, "cut")
    if not _wait_for_checkpoint(os.path.join(settings.work_dir, "cut"), cut):
        yield check_table.failed(f"there was no checkpoint: {_last_line(cut)}")
        return
    cut.send_signal(signal.SIGTERM)
    status = cut.wait()
    yield check_table.holds(
        "SIGTERM in the middle of a training",
        status == _STOPPED,
        target=f"status {_STOPPED}, with everything saved",
        measured=f"status {status}",
        why=_last_line(cut),
    )
    again = _start_training(settings, "cut")
    statuses = [again.wait(), whole.wait()]
    if any(statuses):
        bad = again if statuses[0] else whole
        yield check_table.failed(f"status {bad.returncode}: {_last_line(bad)}")
        return
    yield _compare_checkpoints(settings)


def _start_training(
    settings: check_settings.CheckSettings, name: str
) -> subprocess.Popen:
    """Starts the ``afad-train`` that is stopped or continued, with a log file."""
    flags = [
        f"--records_dir={settings.records_dir}",
        f"--run_dir={os.path.join(settings.work_dir, name)}",
        *("--backbone=small_cnn", "--weights=none", "--stage=tuning"),
        f"--epochs={_EPOCHS_IF_TINY if settings.tiny else _EPOCHS}",
        "--checkpoint_steps=2",
        f"--global_batch_size={16 * settings.replicas}",
        *("--image_size=32", "--precision=float32", "--steps_per_loop=1"),
        f"--devices={settings.all_devices}",
    ]
    with open(os.path.join(settings.work_dir, f"{name}.log"), "ab") as log:
        return subprocess.Popen(
            child_process.command("afad_tfdata.bin.command:call", "train", *flags),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_for_checkpoint(run_dir: str, process: subprocess.Popen) -> bool:
    """Waits for a checkpoint before the stop; False if the training ends first."""
    while process.poll() is None:  # The part as a whole has a time limit.
        if checkpoints.steps(os.path.join(run_dir, "checkpoints")):
            return True
        time.sleep(_POLL_SECS)
    return False


def _last_line(process: subprocess.Popen) -> str:
    """The last line that the stopped or continued training printed."""
    arguments: Sequence[str] = process.args  # type: ignore[assignment]
    (run_dir,) = (a.partition("=")[2] for a in arguments if a.startswith("--run_dir="))
    with open(f"{run_dir}.log", encoding="utf-8", errors="replace") as log:
        lines = log.read().strip().splitlines()
    return errors.one_line(lines[-1]) if lines else "it printed nothing"


def _compare_checkpoints(settings: check_settings.CheckSettings) -> check_table.Row:
    """Compares the last checkpoint of a continued training with one without a stop."""
    ends = [
        checkpoints.load_newest(os.path.join(settings.work_dir, name, "checkpoints"))
        for name in ("whole", "cut")
    ]
    name = "the continued training, compared with one that was not stopped"
    whole, cut = ends
    if whole is None or cut is None or set(whole.arrays) != set(cut.arrays):
        return check_table.holds(
            name, False, target="the same arrays", measured="other arrays"
        )
    differing = [
        key
        for key, value in whole.arrays.items()
        if not _equal_arrays(value, cut.arrays[key])
    ]
    if settings.gpus:
        # Some kernels of a GPU add in an order that varies.
        text = f"{len(differing)} differ" if differing else "all are equal"
        return check_table.fact(name, f"of {len(whole.arrays)} arrays {text}")
    return check_table.holds(
        name,
        not differing,
        target="equal, bit for bit",
        measured=f"{len(differing)} of {len(whole.arrays)} arrays differ"
        if differing
        else f"all {len(whole.arrays)} arrays are equal",
        why=", ".join(differing[:3]),
    )


def _equal_arrays(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether a continued training has the same array; NaN equals NaN."""
    return np.array_equal(one, two, equal_nan=np.issubdtype(one.dtype, np.floating))
