"""The metrics of an epoch, from the sums of its steps, and which epoch is the best.

`prediction_metrics` has those of a finished model, with groups and intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.storage import schema
from afad_tfdata.training import step

# By task: the metric that decides on the best epoch, and 1 if a larger value is better
# or -1 if a smaller one is.
_METRICS = {"gender": ("accuracy", 1), "age": ("mae", -1), "age_gender": ("loss", -1)}
_OF_LABEL = {"age": {"age_loss", "mae"}, "gender": {"gender_loss", "accuracy"}}


def deciding_metric(task: str) -> str:
    """The metric that decides on the best epoch: ``accuracy``, ``mae`` or ``loss``."""
    return _METRICS[task][0]


def training_metrics(
    sums: Sequence[float],
    task: str,
    loss_names: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Metrics of an epoch on its training examples, for the task.

    Args:
      sums: As `step.SUMS`.
      task: One of `schema.TASKS`.
      loss_names: The losses that the loss function returns; None for all.  Others are
        left out, because their sums are 0 without a meaning.
      weights: As for `validation_metrics`.
    """
    labels = schema.labels_of(task)
    kept = {"loss"}.union(*(_OF_LABEL[label] for label in labels))
    if loss_names is not None:
        kept -= {"loss", "age_loss", "gender_loss"} - set(loss_names)
    values = {
        name: value for name, value in means_of_sums(sums).items() if name in kept
    }
    counts = dict(zip(step.SUMS, sums, strict=True))
    if any(counts[f"{label}_examples"] != counts["examples"] for label in labels):
        values |= _joint_loss(values, weights if len(labels) > 1 else None)
    return values


def means_of_sums(sums: Sequence[float]) -> dict[str, float]:
    """Means from the sums of an epoch's steps; a label's over the examples with it.

    Args:
      sums: As `step.SUMS`.

    Returns:
      Means by metric name, without those of a label that no example had.
    """
    totals = {name: float(value) for name, value in zip(step.SUMS, sums, strict=True)}
    # An epoch without steps has means of 0.
    result = {"loss": totals["loss"] / max(totals["examples"], 1.0)}
    for label, of_label in (
        ("age", {"age_loss": "age_loss", "mae": "absolute_error"}),
        ("gender", {"gender_loss": "gender_loss", "accuracy": "correct"}),
    ):
        count = totals[f"{label}_examples"]
        if count or not totals["examples"]:
            for name, sum_name in of_label.items():
                result[name] = totals[sum_name] / max(count, 1.0)
    return result


def validation_metrics(
    columns: Mapping[str, np.ndarray], weights: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Metrics of an epoch on the validation examples; of a label, where it is known.

    Args:
      columns: From `replica_predictor.Predictor.run`.
      weights: Factors of ``age_loss`` and ``gender_loss`` in the joint loss; only used
        if examples lack a label.
    """
    values = {}
    for name in ("loss", "age_loss", "gender_loss"):
        if name in columns:
            rows = _has_label(columns, name.partition("_")[0])
            values[str(name)] = _float64_mean(columns[name][rows])
    parts = [name for name in ("age_loss", "gender_loss") if name in values]
    lacking = not all(_has_label(columns, n.partition("_")[0]).all() for n in parts)
    if lacking:
        values |= _joint_loss(values, weights if len(parts) > 1 else None)
    if "age" in columns and "label_age" in columns:
        error = np.abs(columns["age"] - columns["label_age"])
        values["mae"] = _float64_mean(error[_has_label(columns, "age")])
    if "gender" in columns and "label_gender" in columns:
        right = (columns["gender"] >= 0.5) == columns["label_gender"]
        values["accuracy"] = _float64_mean(right[_has_label(columns, "gender")])
    return values


def _joint_loss(
    values: Mapping[str, float], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """The loss of an epoch, where the means of its parts are over other examples.

    Args:
      values: Means by name.
      weights: Factors of the parts; None for a task of one label.
    """
    parts = [name for name in ("age_loss", "gender_loss") if name in values]
    if not parts:
        return {}
    factors = weights or dict.fromkeys(parts, 1.0)
    return {"loss": sum(factors[name] * values[name] for name in parts)}


def _has_label(columns: Mapping[str, np.ndarray], label: str) -> np.ndarray:
    """Which examples of an epoch have a label; all, if there is no such label."""
    if f"label_{label}" not in columns:
        return np.ones(len(next(iter(columns.values()))), bool)
    return np.asarray(columns[f"label_{label}"]) >= 0


def _float64_mean(values: np.ndarray) -> float:
    """The mean of an epoch's values in float64; a sum would round in float32."""
    return float(np.mean(values, dtype=np.float64)) if len(values) else math.nan


def is_better(task: str, value: float | None, best: float | None) -> bool:
    """Whether an epoch is the best so far.

    Args:
      task: One of `schema.TASKS`.
      value: The epoch's metric; None without a validation split, where the last epoch
        counts as the best.
      best: That of the best epoch before; None if there is none.
    """
    if value is None:
        return True
    if not math.isfinite(value):
        return False
    # Strictly better: of equal epochs the first stays the best.
    sign = _METRICS[task][1]
    return best is None or sign * value > sign * best


def mean_loss(rows: np.ndarray) -> float:
    """Mean loss of some steps of an epoch, from the sums over their examples."""
    return float(rows[:, 1].sum() / rows[:, 0].sum())


def text(row: dict[str, Any]) -> str:
    """The metrics of an epoch on one line, from its row of the history."""
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
