"""What an evaluation measures on the validation split, and applies to another one.

::

    entry = fitted_on_validation.fit(validation_columns, wanted, names)
    columns = fitted_on_validation.with_fitted_corrections(columns, entry)
    fitted_on_validation.coverage_of_interval(columns, entry["age_interval"], names)

Columns are predictions and labels of all examples, as `replica_predictor.Predictor`
returns them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.evaluating import evaluated_model
from afad_tfdata.metrics import age_intervals, output_corrections, prediction_metrics
from afad_tfdata.models import corrections_file
from afad_tfdata.storage import schema

SPLIT = corrections_file.SPLIT


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
        """The label that each flag needs, by flag; the flags ask for the fits."""
        return {
            **({"interval_coverage": "age"} if self.interval_coverage else {}),
            **({"gender_temperature": "gender"} if self.gender_temperature else {}),
            **({"age_correction": "age"} if self.age_correction else {}),
        }

    def check(self, labels: Sequence[str], split: str, path: str) -> None:
        """Raises `UsageError` if a model or the split does not fit the wanted fits.

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


def validation_columns(
    columns_of: Callable[[str], dict[str, np.ndarray]], manifest: schema.Manifest
) -> dict[str, np.ndarray]:
    """The columns of the validation split, on which something is fitted.

    Raises:
      UsageError: The data set has none.
    """
    split = manifest.splits.get(SPLIT)
    if split is None or not split.num_examples:
        raise errors.UsageError(
            f"the data set has no {SPLIT} split to measure on:"
            " write it again with afad-write-records --validation_fraction"
        )
    return columns_of(SPLIT)


def with_stored_interval(
    wanted: WantedFits,
    model: evaluated_model.EvaluatedModel,
    manifest: schema.Manifest,
) -> WantedFits:
    """Wants an interval if one is stored: the new entry replaces its entry."""
    interval = (model.calibration or {}).get("age_interval")
    split = manifest.splits.get(SPLIT)
    if not (wanted.flags and interval and split) or wanted.interval_coverage:
        return wanted
    coverage = interval["coverage"]
    # The data set need not be the one that the interval was measured on.
    if split.num_examples < age_intervals.examples_needed(coverage):
        return wanted
    return dataclasses.replace(wanted, interval_coverage=coverage)


def fit(
    columns: Mapping[str, np.ndarray], wanted: WantedFits, names: Sequence[str]
) -> dict[str, Any]:
    """Fits what is wanted on the validation split.

    Args:
      columns: Predictions and labels of the validation split.
      wanted: What to measure.
      names: Names of the gender labels 0 and 1 in the columns.

    Returns:
      JSON values, None for what is not wanted: ``split``, ``examples``,
      ``flip_average``; ``gender_temperature``: ``temperature`` and the ``log_loss``
      without and with it; ``age_correction``: ``slope``, ``offset`` and the ``mae``
      without and with it; ``age_interval`` from `age_intervals.fit_columns`, of
      corrected ages.

    Raises:
      UsageError: There are too few examples.
    """
    columns = dict(columns)
    entry = corrections_file.empty_entry(columns, flip_average=wanted.flip_average)
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
        before = _age_mae(columns)
        entry["age_correction"] = {"slope": slope, "offset": offset}
        columns = with_fitted_corrections(columns, entry)
        entry["age_correction"]["mae"] = [before, _age_mae(columns)]
    if wanted.interval_coverage:
        entry["age_interval"] = age_intervals.fit_columns(
            columns, names, coverage=wanted.interval_coverage
        )
    return entry


def with_fitted_corrections(
    columns: Mapping[str, np.ndarray], entry: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The columns with the fitted temperature and line of an entry applied."""
    columns = dict(columns)
    if entry["gender_temperature"] and "gender" in columns:
        columns["gender"] = output_corrections.scaled_probability(
            columns["gender_logit"], entry["gender_temperature"]["temperature"]
        )
    if entry["age_correction"]:
        line = entry["age_correction"]
        columns["age"] = line["slope"] * columns["age"] + line["offset"]
    return columns


def interval_to_report(
    entry: Mapping[str, Any] | None,
    model: evaluated_model.EvaluatedModel,
    flip_average: bool,
) -> Mapping[str, Any] | None:
    """The interval just fitted on the validation split, else the stored one."""
    if entry:
        return entry["age_interval"]
    stored = model.calibration
    if not stored or stored["age_correction"] or stored["flip_average"] != flip_average:
        return None
    return stored["age_interval"]


def coverage_of_interval(
    columns: Mapping[str, np.ndarray],
    interval: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, Any]:
    """The interval fitted on the validation split, and its coverage on another split.

    Args:
      columns: Predictions and labels of the evaluated split, with all corrections.
      interval: From `fit`.
      names: Names of the gender labels 0 and 1 in the columns.

    Returns:
      JSON values: the interval and ``measured``: `age_intervals.measure_coverage` of
      the form without a spread, and in ``scaled`` of the form with one, if any.
    """
    values = (columns["age"], columns["label_age"])
    groupings = prediction_metrics.rows_by_group(columns, class_names=names)
    predicted = age_intervals.predicted_names(columns, names)
    measured = age_intervals.measure_coverage(
        interval, *values, predicted=_as_list(predicted), groupings=groupings
    )
    if "scaled" in interval and "age_spread" in columns:
        measured["scaled"] = age_intervals.measure_coverage(
            interval,
            *values,
            predicted=_as_list(predicted),
            spread=columns["age_spread"],
            groupings=groupings,
        )
    return {**interval, "measured": measured}


def effects_of_corrections(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    entry: Mapping[str, Any],
) -> dict[str, list[float]]:
    """Log loss and MAE of another split without and with the fitted corrections."""
    found = {}
    if entry["gender_temperature"]:
        logits, label = before["gender_logit"], before["label_gender"]
        temperature = entry["gender_temperature"]["temperature"]
        found["log_loss"] = [
            output_corrections.log_loss(logits, label),
            output_corrections.log_loss(logits / temperature, label),
        ]
    if entry["age_correction"]:
        found["corrected_mae"] = [_age_mae(before), _age_mae(after)]
    return found


def _as_list(predicted: np.ndarray | None) -> list[str | None] | None:
    """The predicted class names as a list, for the coverage of an interval."""
    return None if predicted is None else predicted.tolist()


def _age_mae(columns: Mapping[str, np.ndarray]) -> float:
    """Mean absolute error of the ages, without or with the fitted correction."""
    return float(np.nanmean(np.abs(columns["age"] - columns["label_age"])))
