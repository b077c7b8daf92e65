"""Reports of a running training, for people and for programs."""

from __future__ import annotations

import logging
import resource
import time
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import history, run_dir, tensorboard_events

# Seconds.  In a day, a run then writes less than 10,000 lines of steps, a few MB.
_LINE_SECS = 10.0
_log = logging.getLogger(__name__)


class Logbook:
    """Writes ``metrics.jsonl`` and TensorBoard events, and notes for the progress bar.

    Args:
      directory: The run's directory.
      tensorboard: Whether event files are written.
    """

    def __init__(self, directory: run_dir.RunDir, *, tensorboard: bool) -> None:
        self._dir, self._tensorboard = directory, tensorboard
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
        """Records the steps of a call, unless it recorded some a moment ago.

        Args:
          step: Number of steps done after the call.
          rows: The steps' sums, from `step.TrainStep.run`.
          rate: Learning rate.
          waiting: Share of the epoch's time that was spent waiting for input.
          images_per_second: Mean speed of the epoch so far.

        Returns:
          Notes for the progress bar.
        """
        loss = mean_loss(rows)
        memory = memory_gib()
        if time.monotonic() - self._written >= _LINE_SECS:
            self._written = time.monotonic()
            scalars = {
                "step_loss": loss,
                "learning_rate": rate,
                "images_per_second": round(images_per_second, 1),
                "waiting": round(waiting, 4),
                **{f"{name}_gib": round(value, 2) for name, value in memory.items()},
            }
            history.append_line(self._dir.path, {"step": step, **scalars})
            if self._tensorboard:
                tensorboard_events.append(self._dir.events("train"), step, scalars)
        return {
            "loss": f"{loss:.4g}",
            "rate": f"{rate:.2g}",
            "waiting": f"{waiting:.0%}",
            **{name: f"{value:.1f}G" for name, value in memory.items()},
        }

    def epoch(
        self, row: dict[str, Any], *, waiting: float, images_per_second: float
    ) -> None:
        """Records an epoch: a row of the history."""
        line = {
            **row,
            "images_per_second": round(images_per_second, 1),
            "waiting": round(waiting, 4),
        }
        history.append_line(self._dir.path, line)
        if self._tensorboard:
            for part in ("train", "validation"):
                if row[part]:
                    tensorboard_events.append(
                        self._dir.events(part), row["step"], row[part]
                    )


def mean_loss(rows: np.ndarray) -> float:
    """Mean loss of the examples of steps, from their sums."""
    return float(rows[:, 1].sum() / rows[:, 0].sum())


def start(what: str, facts: dict[str, Any]) -> None:
    """Logs once what follows from flags, records and devices."""
    _log.info(
        "%s: %s, %d images each; %d examples, %d steps an epoch; %s; input engine %s;"
        " augmentation %s; %d threads",
        what,
        facts["devices"],
        facts["per_replica_batch_size"],
        facts["train_examples"],
        facts["steps_per_epoch"],
        facts["precision"],
        facts["engine"],
        facts["augmentation"],
        facts["threads"]["intra_op"] or facts["threads"]["cores"],
    )


def describe(row: dict[str, Any]) -> str:
    """An epoch's metrics on one line."""
    parts = []
    for part in ("train", "validation"):
        values = [
            f"{name} {row[part][name]:.4g}"
            for name in ("loss", "accuracy", "mae")
            if name in row[part]
        ]
        if values:
            parts.append(f"{part} {', '.join(values)}")
    return "; ".join(parts)


def memory_gib() -> dict[str, float]:
    """Peak memory so far in GiB: of this process, and of the first GPU if any."""
    held = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if tf.config.list_logical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        held["gpu_memory"] = peak / 2**30
    return held
