"""What a training logs as it runs: ``metrics.jsonl``, TensorBoard events, notes."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import epoch_metrics, tensorboard_events

LINES_NAME = "metrics.jsonl"
# Seconds.  In a day, a run then writes less than 10,000 lines of steps, a few MB.
_LINE_SECS = 10.0


class MetricsLog:
    """Writes ``metrics.jsonl`` and TensorBoard events, and notes for the progress bar.

    Args:
      run_dir: The run directory.
      events: The directory of the events of ``train`` or ``validation``; None for no
        event files.
    """

    def __init__(self, run_dir: str, events: Callable[[str], str] | None) -> None:
        self._run_dir, self._events = run_dir, events
        self._written = 0.0

    def steps(
        self,
        step: int,
        rows: np.ndarray,
        *,
        rate: float,
        waiting: float,
        images_per_second: float,
    ) -> dict[str, str]:
        """Logs the steps of a call, unless it logged some a moment ago.

        Args:
          step: Number of steps done after the call.
          rows: The steps' sums, from `step.TrainStep.run`.
          rate: Learning rate.
          waiting: Share of the epoch's time that was spent waiting for input.
          images_per_second: Mean speed of the epoch so far.

        Returns:
          Notes for the progress bar.
        """
        loss = epoch_metrics.mean_loss(rows)
        memory = _peak_memory_gib()
        if time.monotonic() - self._written >= _LINE_SECS:
            self._written = time.monotonic()
            scalars = {
                "step_loss": loss,
                "learning_rate": rate,
                "images_per_second": round(images_per_second, 1),
                "waiting": round(waiting, 4),
                **{f"{name}_gib": round(value, 2) for name, value in memory.items()},
            }
            append_line(self._run_dir, {"step": step, **scalars})
            if self._events is not None:
                tensorboard_events.append(self._events("train"), step, scalars)
        return {
            "loss": f"{loss:.4g}",
            "rate": f"{rate:.2g}",
            "waiting": f"{waiting:.0%}",
            **{name: f"{value:.1f}G" for name, value in memory.items()},
        }

    def epoch(
        self, row: dict[str, Any], *, waiting: float, images_per_second: float
    ) -> None:
        """Logs the metrics of an epoch: a row of the history."""
        line = {
            **row,
            "images_per_second": round(images_per_second, 1),
            "waiting": round(waiting, 4),
        }
        append_line(self._run_dir, line)
        if self._events is not None:
            for part in ("train", "validation"):
                if row[part]:
                    tensorboard_events.append(
                        self._events(part), row["step"], row[part]
                    )


def _peak_memory_gib() -> dict[str, float]:
    """Peak memory for the log, in GiB: of this process, and of the first GPU if any."""
    held = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if tf.config.list_logical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        held["gpu_memory"] = peak / 2**30
    return held


def append_line(run_dir: str, value: dict[str, Any]) -> None:
    """Adds a line to ``metrics.jsonl``."""
    with open(os.path.join(run_dir, LINES_NAME), "a") as f:
        f.write(json.dumps(value) + "\n")


def cut_lines(run_dir: str, step: int) -> None:
    """Removes lines of ``metrics.jsonl`` after a step, and a torn last one."""
    path = os.path.join(run_dir, LINES_NAME)
    if not os.path.exists(path):
        return
    with open(path) as f:
        lines = f.read().splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) != len(lines):
        files.write_atomic(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """The step of a line of ``metrics.jsonl``; infinity for a torn one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
