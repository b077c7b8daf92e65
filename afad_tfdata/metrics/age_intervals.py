"""Age intervals with a stated coverage: split conformal prediction.

::

    groups = {"male": rows}
    interval = age_intervals.fit_half_widths(age, label, coverage=0.9, groups=groups)
    low, high = age_intervals.bounds(interval, 27.3, group="male")
    age_intervals.measure_coverage(interval, age, label, groupings={"gender": groups})

The half width is the ``ceil((n + 1) * coverage)``-th smallest of the n absolute errors
on examples that the model was not trained on.  For any model and any distribution of
its errors, it covers the age of a new example with at least the stated probability, if
the new example comes from the same source (Lei et al., 2018, Distribution-free
predictive inference for regression, section 2.2).  Each predicted gender has a half
width of its own, so that the coverage also holds for each (Vovk, 2012, Conditional
validity of inductive conformal predictors).  If the age head gives a spread, there is a
second, scaled form: the spread times a factor, which is wide where the model is unsure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors

# Years: a head that is sure of one age still errs by parts of a year.
SMALLEST_SPREAD = 0.25


def examples_needed(coverage: float) -> int:
    """The smallest number of examples that an age interval can be fitted to."""
    number = max(1, math.floor(coverage / (1 - coverage)) - 1)
    while _conformal_rank(number, coverage) > number:
        number += 1
    return number


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The smallest half width of an age interval with a coverage, from scores.

    It is the ``ceil((n + 1) * coverage)``-th smallest score.

    Args:
      scores: ``[n]``, at least `examples_needed`.
      coverage: Between 0 and 1.
    """
    rank = _conformal_rank(len(scores), coverage)
    return float(np.sort(scores)[rank - 1])


def fit_half_widths(
    age: np.ndarray,
    label_age: np.ndarray,
    *,
    coverage: float,
    groups: Mapping[str, np.ndarray] | None = None,
    spread: np.ndarray | None = None,
    what: str = "the validation split",
) -> dict[str, Any]:
    """Half widths of age intervals from examples that the model was not trained on.

    Args:
      age: Predicted years ``[n]``.
      label_age: True years ``[n]``; examples whose label is NaN do not count.
      coverage: Share of new examples whose true age is to be in the interval.
      groups: Bools ``[n]`` by predicted group.  A group with fewer examples than
        `examples_needed` gets the half width of all.
      spread: Years ``[n]``: the standard deviation of the age head's distribution.
      what: The examples, for the message.

    Returns:
      JSON values: ``coverage``, ``examples``, ``half_width`` in years and, for each
      group, ``by_group``: ``examples`` and ``half_width``; with a spread also
      ``scaled``, in which ``half_width`` is a factor of the spread.

    Raises:
      UsageError: There are too few examples for the coverage.
    """
    age, label = np.asarray(age, np.float64), np.asarray(label_age, np.float64)
    known = np.isfinite(age) & np.isfinite(label)
    needed = examples_needed(coverage)
    if known.sum() < needed:
        raise errors.UsageError(
            f"--interval_coverage={coverage:g} needs at least {needed} examples with"
            f" an age in {what}; it has {int(known.sum())}"
        )
    error = np.abs(age - label)
    rows = {n: np.asarray(r) & known for n, r in (groups or {}).items()}
    result = {"coverage": coverage, **_half_widths(error, known, rows, coverage)}
    if spread is not None:
        score = error / np.maximum(spread, SMALLEST_SPREAD)
        result["scaled"] = _half_widths(score, known, rows, coverage)
    return result


def fit_columns(
    columns: Mapping[str, np.ndarray], names: Sequence[str], *, coverage: float
) -> dict[str, Any]:
    """Half widths of age intervals from columns of the validation split, by gender.

    Args:
      columns: ``age``, ``label_age`` and, where they are known, ``gender`` and
        ``age_spread``, as `replica_predictor.Predictor.run` returns them.
      names: Names of the gender labels 0 and 1 in the columns; empty if not known.
      coverage: As for `fit_half_widths`.

    Raises:
      UsageError: There are too few examples for the coverage.
    """
    predicted = predicted_names(columns, names)
    return fit_half_widths(
        columns["age"],
        columns["label_age"],
        coverage=coverage,
        groups={n: predicted == n for n in names} if predicted is not None else {},
        spread=columns.get("age_spread"),
    )


def predicted_names(
    columns: Mapping[str, np.ndarray], names: Sequence[str]
) -> np.ndarray | None:
    """The predicted class names, on which age intervals depend; None for no gender."""
    if "gender" not in columns or not names:
        return None
    return np.array(names)[(columns["gender"] >= 0.5).astype(int)]


def half_width(
    interval: Mapping[str, Any], group: str | None = None, spread: float | None = None
) -> float:
    """Years from the predicted age to each end of its interval.

    Args:
      interval: From `fit_half_widths`.
      group: The predicted group; None takes the half width of all.
      spread: Years; None takes the form that needs none.
    """
    if spread is not None and "scaled" in interval:
        factor = half_width(interval["scaled"], group)
        return factor * max(spread, SMALLEST_SPREAD)
    own = interval["by_group"].get(group, interval)
    return float(own["half_width"])


def bounds(
    interval: Mapping[str, Any],
    age: float,
    group: str | None = None,
    spread: float | None = None,
) -> tuple[float, float]:
    """The lowest and the highest age of an age interval, in years from 0 up."""
    half = half_width(interval, group, spread)
    return max(0.0, age - half), max(0.0, age + half)


def whole_years(low: float, high: float) -> tuple[int, int]:
    """The first and last whole age in an age interval; the nearest if it has none."""
    first, last = math.ceil(low), math.floor(high)
    return (first, last) if first <= last else (round(low), round(high))


def measure_coverage(
    interval: Mapping[str, Any],
    age: np.ndarray,
    label_age: np.ndarray,
    *,
    predicted: Sequence[str | None] | None = None,
    spread: np.ndarray | None = None,
    groupings: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """The coverage of age intervals on other examples.

    Args:
      interval: From `fit_half_widths`.
      age: Predicted years ``[n]``.
      label_age: True years ``[n]``; examples whose label is NaN do not count.
      predicted: The predicted group of each example.
      spread: Years ``[n]``, for the scaled form.
      groupings: Bools ``[n]`` of true labels, by grouping and by group.

    Returns:
      JSON values: ``examples``, ``coverage`` and ``mean_width`` in years over all
      examples, and the same by group in ``by_...``.  None where there is no example.
    """
    age, label = np.asarray(age, np.float64), np.asarray(label_age, np.float64)
    known = np.isfinite(age) & np.isfinite(label)
    names = [None] * len(age) if predicted is None else predicted
    spreads = [None] * len(age) if spread is None else spread.tolist()
    halves = np.array(
        [half_width(interval, n, s) for n, s in zip(names, spreads, strict=True)]
    ).reshape(-1)
    low, high = np.maximum(age - halves, 0), np.maximum(age + halves, 0)
    inside = (low <= label) & (label <= high)

    def of(rows: np.ndarray) -> dict[str, Any]:
        """The coverage and width of the age intervals of some rows."""
        number = int(rows.sum())
        return {
            "examples": number,
            "coverage": float(inside[rows].mean()) if number else None,
            "mean_width": float((high - low)[rows].mean()) if number else None,
        }

    return {
        **of(known),
        **{
            f"by_{grouping}": {n: of(np.asarray(r) & known) for n, r in by_name.items()}
            for grouping, by_name in (groupings or {}).items()
        },
    }


def _half_widths(
    scores: np.ndarray,
    known: np.ndarray,
    groups: Mapping[str, np.ndarray],
    coverage: float,
) -> dict[str, Any]:
    """Half widths of age intervals, over all and by group."""
    needed = examples_needed(coverage)
    return {
        "examples": int(known.sum()),
        "half_width": conformal_quantile(scores[known], coverage),
        "by_group": {
            name: {
                "examples": int(rows.sum()),
                "half_width": conformal_quantile(scores[rows], coverage),
            }
            for name, rows in groups.items()
            if rows.sum() >= needed
        },
    }


def _conformal_rank(number: int, coverage: float) -> int:
    """Which of the sorted errors an age interval with a coverage ends at."""
    # The product may be rounded up: (9 + 1) * 0.9 must have the rank 9, not 10.
    return math.ceil((number + 1) * coverage - 1e-9)
