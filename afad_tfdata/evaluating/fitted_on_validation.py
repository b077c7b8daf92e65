"""What an evaluation measures on the validation split, and applies to another one.

::

    entry = fitted_on_validation.fit(validation_columns, wanted, names)
    corrected = fitted_on_validation.corrected(columns, entry)
    report = fitted_on_validation.report(corrected, entry, names)

Columns are predictions and labels of all examples, as `replica_predictor.Predictor`
returns them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.metrics import age_intervals, output_corrections, prediction_metrics

SPLIT = output_corrections.SPLIT


@dataclasses.dataclass(frozen=True)
class WantedFits:
    """What is to be measured on the validation split.

    Attributes:
      interval_coverage: Coverage of the age intervals; 0 for no intervals.
      gender_temperature: Whether the gender probability is scaled.
      age_correction: Whether the age is corrected by a line.
      flip_average: Whether the outputs are means over an image and its mirror image.
        It is not measured, but everything else depends on it.
    """

    interval_coverage: float = 0.0
    gender_temperature: bool = False
    age_correction: bool = False
    flip_average: bool = False

    @property
    def flags(self) -> dict[str, str]:
        """The label that each given flag needs, by flag."""
        return {
            **({"interval_coverage": "age"} if self.interval_coverage else {}),
            **({"gender_temperature": "gender"} if self.gender_temperature else {}),
            **({"age_correction": "age"} if self.age_correction else {}),
        }

    def check(self, labels: Sequence[str], split: str, path: str) -> None:
        """Raises `UsageError` if a model or the split does not fit.

        Args:
          labels: What the model predicts.
          split: The split that is evaluated.
          path: The model.
        """
        for flag, label in self.flags.items():
            if label not in labels:
                raise errors.UsageError(
                    f"--{flag}: {path} predicts no {label}; leave the flag out"
                )
            if split == SPLIT:
                raise errors.UsageError(
                    f"--{flag} is measured on the {SPLIT} split, so that its effect"
                    " there says nothing: evaluate --split=test"
                )
        if self.flags and path.endswith(".pb"):
            raise errors.UsageError(
                f"--{next(iter(self.flags))} does not apply to a frozen graph: evaluate"
                " its model with the flag, and freeze again"
            )


def fit(
    columns: Mapping[str, np.ndarray], wanted: WantedFits, names: Sequence[str]
) -> dict[str, Any]:
    """Measures what is wanted.

    Args:
      columns: Predictions and labels of the validation split.
      wanted: What to measure.
      names: Names of the gender labels 0 and 1 in the columns.

    Returns:
      JSON values, None for what is not wanted: ``split``, ``examples``,
      ``flip_average``; ``gender_temperature``: ``temperature`` and the ``log_loss``
      without and with it; ``age_correction``: ``slope``, ``offset`` and the ``mae``
      without and with it; ``age_interval`` from `age_intervals.fit`, of corrected ages.

    Raises:
      UsageError: There are too few examples.
    """
    columns = dict(columns)
    entry = output_corrections.empty_entry(columns, flip_average=wanted.flip_average)
    if wanted.gender_temperature:
        logits, label = columns["gender_logit"], columns["label_gender"]
        temperature = output_corrections.fit_temperature(logits, label)
        entry["gender_temperature"] = {
            "temperature": temperature,
            "log_loss": [
                output_corrections.log_loss(logits, label),
                output_corrections.log_loss(logits / temperature, label),
            ],
        }
    if wanted.age_correction:
        slope, offset = output_corrections.fit_age_correction(
            columns["age"], columns["label_age"]
        )
        before = _mae(columns)
        entry["age_correction"] = {"slope": slope, "offset": offset}
        columns = corrected(columns, entry)
        entry["age_correction"]["mae"] = [before, _mae(columns)]
    if wanted.interval_coverage:
        entry["age_interval"] = age_intervals.of_columns(
            columns, names, coverage=wanted.interval_coverage
        )
    return entry


def corrected(
    columns: Mapping[str, np.ndarray], entry: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The columns with the temperature and the line of an entry applied."""
    columns = dict(columns)
    if entry["gender_temperature"] and "gender" in columns:
        columns["gender"] = output_corrections.scaled_probability(
            columns["gender_logit"], entry["gender_temperature"]["temperature"]
        )
    if entry["age_correction"]:
        line = entry["age_correction"]
        columns["age"] = line["slope"] * columns["age"] + line["offset"]
    return columns


def coverage(
    columns: Mapping[str, np.ndarray],
    interval: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, Any]:
    """The interval, and its coverage on a split by gender and age group.

    Args:
      columns: Predictions and labels of the evaluated split, with all corrections.
      interval: From `fit`.
      names: Names of the gender labels 0 and 1 in the columns.

    Returns:
      JSON values: the interval and ``measured``: `age_intervals.measure` of the form
      without a spread, and in ``scaled`` of the form with one, if there is one.
    """
    values = (columns["age"], columns["label_age"])
    groupings = prediction_metrics.groups(columns, class_names=names)
    predicted = age_intervals.predicted_names(columns, names)
    measured = age_intervals.measure(
        interval, *values, predicted=_list(predicted), groupings=groupings
    )
    if "scaled" in interval and "age_spread" in columns:
        measured["scaled"] = age_intervals.measure(
            interval,
            *values,
            predicted=_list(predicted),
            spread=columns["age_spread"],
            groupings=groupings,
        )
    return {**interval, "measured": measured}


def lines(result: Mapping[str, Any]) -> list[str]:
    """What was measured, in a few lines for people.

    Args:
      result: From `evaluation.evaluate`.
    """
    found = []
    entry = result.get("calibration") or {}
    if value := entry.get("gender_temperature"):
        before, after = result["log_loss"]
        found.append(
            f"Temperature of the gender: {value['temperature']:.3f}; log loss"
            f" {before:.4f} without it, {after:.4f} with it"
        )
    if value := entry.get("age_correction"):
        before, after = result["corrected_mae"]
        found.append(
            f"Corrected age: {value['slope']:.3f} * age {value['offset']:+.2f}; MAE"
            f" {before:.4f} without it, {after:.4f} with it"
        )
    if interval := result.get("age_interval"):
        measured = interval["measured"]
        share = measured["coverage"]
        by_gender = measured.get("by_gender", {}).items()
        parts = [
            f"{n} {row['coverage']:.1%}" for n, row in by_gender if row["examples"]
        ]
        found.append(
            f"Age intervals of {interval['coverage']:.0%}: cover"
            f" {'no example' if share is None else f'{share:.1%}'}"
            + (f" ({', '.join(parts)})" if parts else "")
            + f", {measured['mean_width'] or 0:.1f} years wide"
        )
        if (scaled := measured.get("scaled")) and scaled["examples"]:
            found[-1] += (
                f"; scaled by the spread: {scaled['coverage']:.1%},"
                f" {scaled['mean_width']:.1f} years wide on average"
            )
    return found


def effects(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    entry: Mapping[str, Any],
) -> dict[str, list[float]]:
    """Log loss and MAE without and with the corrections, on the evaluated split."""
    found = {}
    if entry["gender_temperature"]:
        logits, label = before["gender_logit"], before["label_gender"]
        temperature = entry["gender_temperature"]["temperature"]
        found["log_loss"] = [
            output_corrections.log_loss(logits, label),
            output_corrections.log_loss(logits / temperature, label),
        ]
    if entry["age_correction"]:
        found["corrected_mae"] = [_mae(before), _mae(after)]
    return found


def _list(predicted: np.ndarray | None) -> list[str | None] | None:
    """The predicted class names as a list."""
    return None if predicted is None else predicted.tolist()


def _mae(columns: Mapping[str, np.ndarray]) -> float:
    """Mean absolute error of the ages."""
    return float(np.nanmean(np.abs(columns["age"] - columns["label_age"])))
