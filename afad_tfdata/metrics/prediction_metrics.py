"""Metrics of predictions, over all examples and by group, in numpy.

::

    # {"accuracy": ..., "mae": ...}
    result = prediction_metrics.evaluate(predictions)
    counts = manifest.split("train").counts
    result["constant"] = prediction_metrics.of_constant_predictor(counts, predictions)

Predictions are columns over all examples, each once: ``gender`` (probability of class
1) with ``label_gender``, ``age`` (years) with ``label_age``, or both.  Padding was
removed and the parts of the replicas were joined before, so that no number depends on
the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.storage import schema

# First and last age of each group, in years.
AGE_GROUPS = ((0, 19), (20, 24), (25, 29), (30, 34), (35, 39), (40, 49), (50, 999))

# Years within which an age counts as right in the cumulative score CS@5.
CS_YEARS = 5

_LABELS = ("age", "gender")


def evaluate(
    predictions: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = schema.CLASS_NAMES,
) -> dict[str, Any]:
    """All metrics of predictions, over all examples, by gender and by age group.

    Args:
      predictions: Columns ``[num_examples]``: ``gender`` in [0, 1] and
        ``label_gender`` in {0, 1}, and/or ``age`` and ``label_age`` in years.  A label
        without a prediction only divides the examples into groups.
      class_names: Of labels 0 and 1.

    Returns:
      JSON values.  ``examples``; for gender ``accuracy``, ``balanced_accuracy`` (mean
      recall of the classes), ``auc`` and ``confusion`` (``[label][prediction]``, where
      a probability of at least 0.5 means class 1); for age ``mae``, ``rmse``,
      ``cs5`` (share of errors up to 5 years) and ``bias`` (mean of prediction minus
      label); ``by_gender`` and ``by_age_group`` have the same for the examples of each
      group that has any.  None where a value is not defined, such as the AUC of one
      class.
    """
    columns = label_columns(predictions)
    parts = columns_by_label(columns)
    if len(parts) > 1 or any(len(rows) for rows in _missing_rows(columns)):
        result: dict[str, Any] = {"examples": len(next(iter(columns.values()), ()))}
        for label, part in parts.items():
            found = evaluate(part, class_names=class_names)
            result[f"examples_{label}"] = found.pop("examples")
            for name, value in found.items():
                if isinstance(value, dict) and name in result:
                    value = _joined_metrics(result[name], value)
                result[name] = value
        return result
    result = _overall_metrics(columns)
    if "gender" in columns:
        confusion = np.zeros((2, 2), np.int64)
        predicted = (columns["gender"] >= 0.5).astype(np.int64)
        np.add.at(confusion, (columns["label_gender"].astype(np.int64), predicted), 1)
        result["confusion"] = confusion.tolist()
    for grouping, by_name in rows_by_group(columns, class_names=class_names).items():
        result[f"by_{grouping}"] = {
            name: _overall_metrics(_chosen_rows(columns, rows))
            for name, rows in by_name.items()
        }
    return result


def rows_by_group(
    predictions: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = schema.CLASS_NAMES,
) -> dict[str, dict[str, np.ndarray]]:
    """The rows of predictions that metrics by group take, of each group with any.

    Args:
      predictions: As for `evaluate`.
      class_names: Of labels 0 and 1.

    Returns:
      Bools ``[num_examples]`` by grouping (``gender``, ``age_group``) and by group.
    """
    columns = label_columns(predictions)
    result: dict[str, dict[str, np.ndarray]] = {}
    if "label_gender" in columns:
        result["gender"] = {
            name: columns["label_gender"] == label
            for label, name in enumerate(class_names)
        }
    if "label_age" in columns:
        label_age = np.round(columns["label_age"])
        result["age_group"] = {
            age_group_name(low, high): (label_age >= low) & (label_age <= high)
            for low, high in AGE_GROUPS
        }
    return {
        grouping: {name: rows for name, rows in by_name.items() if rows.any()}
        for grouping, by_name in result.items()
    }


def of_constant_predictor(
    counts: Mapping[str, Mapping[str, int]],
    labels: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = schema.CLASS_NAMES,
) -> dict[str, Any]:
    """The metrics of a predictor that ignores the image.

    It predicts the median age of the training split, which has the least absolute error
    of all constants there, and the more frequent gender.

    Args:
      counts: Of the training split: ``{class name: {age: number}}``.
      labels: ``label_age`` and/or ``label_gender`` of the examples to predict.
      class_names: Of labels 0 and 1.

    Returns:
      As `evaluate` over all examples, and ``predicts``: the ``age`` in years and the
      ``gender`` by name.
    """
    by_age_of_all = [
        (int(age), number)
        for by_age in counts.values()
        for age, number in by_age.items()
        if int(age) != schema.MISSING
    ]
    ages = np.sort([age for age, _ in by_age_of_all])
    numbers = np.zeros(len(ages), np.int64)
    for age, number in by_age_of_all:
        numbers[np.searchsorted(ages, age)] += number
    cumulative = np.cumsum(numbers)
    median = 0.0  # Not used if no example has an age.
    if len(ages):
        median = float(ages[np.searchsorted(cumulative, cumulative[-1] / 2)])
    totals = [sum(counts.get(name, {}).values()) for name in class_names]
    gender = int(np.argmax(totals))
    columns = label_columns(labels)
    predicts: dict[str, Any] = {}
    if "label_age" in columns:
        columns["age"] = np.full(len(columns["label_age"]), median)
        predicts["age"] = median
    if "label_gender" in columns:
        columns["gender"] = np.full(len(columns["label_gender"]), float(gender))
        predicts["gender"] = class_names[gender]
    result: dict[str, Any] = {}
    for part in columns_by_label(columns).values():
        result = {**_overall_metrics(part), **result}
    result["examples"] = len(next(iter(columns.values()), ()))
    return {**result, "predicts": predicts}


def age_group_name(low: int, high: int) -> str:
    """Name of an age group in metrics: ``under 20``, ``20-24``, ``50 and over``."""
    if low == AGE_GROUPS[0][0]:
        return f"under {high + 1}"
    return f"{low} and over" if high == AGE_GROUPS[-1][1] else f"{low}-{high}"


def label_columns(predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels, and the predictions that have one, as flat columns for metrics."""
    columns = {}
    for name in _LABELS:
        for column in (name, f"label_{name}"):
            if column in predictions and f"label_{name}" in predictions:
                values = np.asarray(predictions[column], np.float64).reshape(-1)
                columns[column] = values
    return columns


def _chosen_rows(
    columns: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of labels and predictions, of some examples only."""
    return {name: values[rows] for name, values in columns.items()}


def _missing_rows(columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """For each label with a prediction, the rows that lack the label."""
    return [
        np.flatnonzero(columns[f"label_{name}"] < 0)
        for name in _LABELS
        if name in columns
    ]


def columns_by_label(
    columns: Mapping[str, np.ndarray],
) -> dict[str, dict[str, np.ndarray]]:
    """The predictions for metrics of each label: of the rows that have it.

    There is one part for all labels if all rows have all of them.
    """
    if not any(len(rows) for rows in _missing_rows(columns)):
        return {"": dict(columns)}
    parts = {}
    for name in _LABELS:
        if name in columns:
            # The other label stays, without its prediction, because groups need it.
            kept = {n: v for n, v in columns.items() if n == name or n[:6] == "label_"}
            parts[name] = _chosen_rows(kept, columns[f"label_{name}"] >= 0)
    return parts


def _joined_metrics(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of two labels by group; ``examples`` is the larger number of both."""
    joined = {name: dict(value) for name, value in one.items()}
    for name, value in other.items():
        mine = joined.setdefault(name, {})
        most = max(mine.get("examples", 0), value["examples"])
        mine.update(value, examples=most)
    return joined


def _overall_metrics(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of predictions over all examples."""
    number = len(next(iter(columns.values()), ()))
    if not number:
        return {"examples": 0}
    counts = np.ones(number)
    values = CountedMetrics(columns).metrics(counts)
    return {
        "examples": number,
        **{name: None if np.isnan(v) else float(v) for name, v in values.items()},
    }


class CountedMetrics:
    """Metrics of resampled examples, from how often each example was drawn."""

    def __init__(self, predictions: Mapping[str, np.ndarray]) -> None:
        columns = label_columns(predictions)
        self.number = len(next(iter(columns.values()), ()))
        self._age = self._gender = None
        if "age" in columns:
            error = columns["age"] - columns["label_age"]
            # float32 rounds, and an error of exactly 5 years must count.
            near = np.abs(error) <= CS_YEARS + 1e-6
            self._age = np.stack([np.abs(error), error**2, near, error])
        if "gender" in columns:
            label = columns["label_gender"] > 0
            right = (columns["gender"] >= 0.5) == label
            self._gender = np.stack([right, right & ~label, right & label, ~label])
            self._gender = self._gender.astype(np.float64)
            order = np.argsort(columns["gender"], kind="stable")
            score = columns["gender"][order]
            # Where each run of equal scores starts: ties count half in the AUC.
            self._runs = np.flatnonzero(np.diff(score, prepend=-np.inf))
            self._order, self._is_one = order, label[order].astype(np.float64)

    def metrics(self, counts: np.ndarray) -> dict[str, float]:
        """Metrics of predictions, example i taken ``counts[i]`` times; or NaN."""
        total = counts.sum()
        result = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if self._gender is not None:
                right, zeros_right, ones_right, zeros = self._gender @ counts
                result["accuracy"] = right / total
                recalls = (zeros_right / zeros, ones_right / (total - zeros))
                result["balanced_accuracy"] = sum(recalls) / 2
                result["auc"] = self._auc(counts)
            if self._age is not None:
                absolute, square, near, error = self._age @ counts / total
                result.update(mae=absolute, rmse=np.sqrt(square), cs5=near, bias=error)
        return result

    def _auc(self, counts: np.ndarray) -> float:
        """The metric AUC: pairs of a one and a zero in which the one has more."""
        sorted_counts = counts[self._order]
        ones = np.add.reduceat(sorted_counts * self._is_one, self._runs)
        zeros = np.add.reduceat(sorted_counts * (1 - self._is_one), self._runs)
        below = np.cumsum(zeros) - zeros
        pairs = ones.sum() * zeros.sum()
        return float(ones @ (below + zeros / 2) / pairs)
