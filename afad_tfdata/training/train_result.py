"""What `trainer.train` returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.training import (
    best_epoch_age_interval,
    epoch_metrics,
    run_state,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training import history as run_history
from afad_tfdata.training import run_dir as run_directory


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
      run_dir: The run directory, which contains all files.
      metric: The metric that decides on the best epoch: ``accuracy``, ``mae`` or
        ``loss``.
      best_epoch: Counted from 1; 0 if there was none.
      best_value: Value of the metric on the validation split.
      epochs: Number of epochs of the whole run.
      steps: Number of steps of the whole run.
      best_path: Path of the model of the best epoch.
      final_path: Path of the model of the last epoch.
      history: As in ``history.json``.
      stopped: Which callback ended the training before its last epoch, and why; empty
        if none did.
      age_interval: How far the predicted ages of the best model are off, from
        `age_intervals.fit_half_widths` on the validation split; None if it is not
        known.
    """

    run_dir: str
    metric: str
    best_epoch: int
    best_value: float | None
    epochs: int
    steps: int
    best_path: str
    final_path: str
    history: dict[str, Any]
    stopped: str = ""
    age_interval: dict[str, Any] | None = None

    def text(self) -> str:
        """A summary of the training's result in a few lines."""
        lines = [f"{self.epochs} epochs, {self.steps} steps in {self.run_dir}"]
        rows = {row["epoch"]: row for row in self.history["epochs"]}
        for name, epoch in (("best", self.best_epoch), ("last", self.epochs)):
            if epoch in rows:
                lines.append(f"{name} epoch {epoch}: {epoch_metrics.text(rows[epoch])}")
        if interval := self.age_interval:
            lines.append(
                f"age interval of {interval['coverage']:.0%}: the predicted age and"
                f" {interval['half_width']:.1f} years to each side, as on"
                f" {interval['examples']:,} validation examples"
            )
        if self.stopped:
            lines.append(f"stopped by {self.stopped}")
        lines.append(f"models: {self.best_path} {self.final_path}")
        lines.append(f"beside them: {', '.join(run_directory.BESIDE)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The training's result as JSON values, without the history."""
        value = dataclasses.asdict(self)
        del value["history"]
        return value


def result_of(
    config: train_config.TrainConfig,
    state: run_state.RunState,
    history: run_history.History,
    *,
    stopped: str = "",
) -> TrainResult:
    """The result of a training in this state."""
    best = state.best or {"epoch": 0, "value": None}
    best_path = files.join(config.run_dir, run_directory.BEST_NAME)
    return TrainResult(
        run_dir=config.run_dir,
        metric=epoch_metrics.deciding_metric(config.input.task),
        best_epoch=best["epoch"],
        best_value=best["value"],
        epochs=state.epoch,
        steps=state.step,
        best_path=best_path,
        final_path=files.join(config.run_dir, run_directory.FINAL_NAME),
        history=history.to_dict(),
        stopped=stopped,
        age_interval=best_epoch_age_interval.stored(best_path),
    )
