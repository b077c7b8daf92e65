"""What came out of a training."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.training import logbook
from afad_tfdata.training import run_dir as run_directory


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came out of a training.

    Attributes:
      run_dir: Where everything is.
      metric: What decided which epoch is best: ``accuracy``, ``mae`` or ``loss``.
      best_epoch: Counted from 1; 0 where there was none.
      best_value: Of the metric, on the validation split.
      epochs: Epochs of the whole run.
      steps: Steps of the whole run.
      best_path: The model of the best epoch.
      final_path: The model of the last epoch.
      history: As in ``history.json``.
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

    def text(self) -> str:
        """A summary of a few lines."""
        lines = [f"{self.epochs} epochs, {self.steps} steps in {self.run_dir}"]
        rows = {row["epoch"]: row for row in self.history["epochs"]}
        for name, epoch in (("best", self.best_epoch), ("last", self.epochs)):
            if epoch in rows:
                lines.append(f"{name} epoch {epoch}: {logbook.describe(rows[epoch])}")
        lines.append(f"models: {self.best_path} {self.final_path}")
        lines.append(f"beside them: {', '.join(run_directory.BESIDE)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the history."""
        value = dataclasses.asdict(self)
        del value["history"]
        return value
