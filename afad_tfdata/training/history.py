"""The history of a run: numbers by epoch, and their picture.

``history.json`` contains what is the same when a run is repeated; times and speeds,
which differ, are in ``metrics.jsonl``.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from afad_tfdata.common import figures, files

JSON_NAME = "history.json"
PICTURE_NAME = "history.png"


@dataclasses.dataclass
class History:
    """Epochs in order, and what happened between them.

    Attributes:
      epochs: One dict for each epoch: ``epoch`` (from 1), ``stage``, ``step`` (at its
        end), ``learning_rate``, ``train`` and ``validation`` (dicts of metrics).
      events: Dicts with ``step``, ``kind`` (``stage``, ``restart``, ``recovery``) and
        ``text``.
    """

    epochs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def event(self, step: int, kind: str, text: str) -> None:
        """Records an event that the picture marks."""
        self.events.append({"step": step, "kind": kind, "text": text})

    def trim(self, epoch: int) -> None:
        """Removes later epochs, for a restart from this one."""
        self.epochs = [row for row in self.epochs if row["epoch"] <= epoch]

    def to_dict(self) -> dict[str, Any]:
        """The history as plain JSON values."""
        return {"epochs": self.epochs, "events": self.events}

    def save(self, run_dir: str, *, picture: bool = True) -> None:
        """Writes ``history.json`` and draws ``history.png``."""
        files.write_json(os.path.join(run_dir, JSON_NAME), self.to_dict())
        if self.epochs and picture:
            self.draw(os.path.join(run_dir, PICTURE_NAME))

    def draw(self, path: str) -> None:
        """Curves of loss and metrics, training and validation, with the events."""
        names = [
            name
            for name in ("loss", "mae", "accuracy")
            if any(name in row["train"] for row in self.epochs)
        ]
        figure = figures.new(5 * len(names), 4)
        for axes, name in zip(
            figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
        ):
            for part in ("train", "validation"):
                points = [
                    (row["epoch"], row[part][name])
                    for row in self.epochs
                    if row.get(part, {}).get(name) is not None
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), marker=".", label=part)
            self._mark(axes)
            axes.set(title=_TITLES[name], xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend()
        figures.save(path, figure)

    def _mark(self, axes: Any) -> None:
        """Draws a line where a stage, a restart or a recovery was."""
        colors = {"stage": "tab:gray", "restart": "tab:red", "recovery": "tab:purple"}
        ends = [(row["step"], row["epoch"]) for row in self.epochs]
        for event in self.events:
            before = [epoch for step, epoch in ends if step <= event["step"]]
            # The line is half an epoch further, between the points of two epochs.
            at = (before[-1] if before else self.epochs[0]["epoch"] - 1) + 0.5
            axes.axvline(at, color=colors[event["kind"]], ls="--", lw=1)
            axes.annotate(
                event["text"],
                (at, 1),
                xycoords=("data", "axes fraction"),
                # The text is to the right of the line, because the axis is left of the
                # first line.
                xytext=(2, -3),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="left",
                fontsize=7,
            )


_TITLES = {
    "loss": "loss",
    "mae": "age: mean absolute error, years",
    "accuracy": "gender: accuracy",
}
