"""Decisions about age: error rates at thresholds, challenge ages, gaps between groups.

::

    result = age_decisions.measure(
        age, label_age, thresholds=(18, 21), groups={"gender": {"male": rows}})
    result["thresholds"]["18"]["false_positive_rate"]
    result["challenge"]["18"]["challenge_age"]

The definitions are those of NIST IR 8525, Face Analysis Technology Evaluation: Age
Estimation and Verification (2024).  A person younger than the legal age whose estimated
age is at or above the challenge age is accepted by mistake, which is a *false
positive*.  A person at or above the legal age whose estimated age is below the
challenge age is turned away by mistake, or asked for a document, which is a *false
negative*.  Each rate is a share of the people on one side of the legal age, so that
it does not depend on the number of people on the other side.  At a plain threshold the
legal age and the challenge age are equal.  NIST's *Challenge 25* has a challenge age of
25 years.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.metrics import group_errors

SOURCE = "NIST IR 8525, Face Analysis Technology Evaluation: Age Estimation (2024)"
DEFINITION = {
    "false_positive_rate": "share of the people younger than the legal age whose"
    " estimated age is at or above the threshold",
    "false_negative_rate": "share of the people at or above the legal age whose"
    " estimated age is below the threshold",
    "challenge_age": "lowest threshold, not below the legal age, in steps of 0.1 years,"
    " whose false positive rate is below the limit",
    "bias": "mean of estimated age minus age, in years",
}
# The share of people under the legal age that a challenge age may accept.
LIMIT = 0.01
# A two-sided 95 % interval, as a share and in standard deviations of a normal.
_LEVEL = 0.95
_DEVIATIONS = 1.959963984540054
_STEPS_PER_YEAR = 10  # Of challenge ages.
# Years; above it, as an untrained model may estimate, a step is lost in rounding.
_LARGEST_STEP = 1e6
_CURVE_YEARS = 15  # Above the legal age; the curve goes further if it has to.
_LONGEST_CURVE_YEARS = 60


def measure(
    age: np.ndarray,
    label_age: np.ndarray,
    *,
    thresholds: Sequence[int],
    groups: Mapping[str, Mapping[str, np.ndarray]],
    samples: int = 1000,
    seed: int = 1,
) -> dict[str, Any]:
    """Measures decisions about age: error rates, challenge ages, errors by group.

    Args:
      age: Estimated years ``[n]``.
      label_age: True years ``[n]``.  Examples whose age or label is not a finite number
        do not count.
      thresholds: Years; each is a threshold and a legal age with a challenge age.
      groups: Bools ``[n]`` by grouping and by group, such as ``{"gender": {"male":
        rows}}``.  The rates are also given by ``gender``, if it is there.
      samples: Number of resampled data sets for the intervals of MAE and bias; 0 means
        that they have none.
      seed: Seed of the resampling.

    Returns:
      JSON values.  ``definition``, ``source``, ``examples``; ``thresholds``:
      `error_rates` and ``by_gender`` by threshold; ``challenge``: `challenge_age` and
      ``by_gender`` by legal age; ``groups``: ``examples``, ``mae`` and ``bias`` in
      years with their ``intervals``, by grouping and by group; and ``largest_gap``: by
      grouping, the two groups between which MAE and bias differ most.  None where a
      value is not defined, with a ``note`` that says why.
    """
    age = np.asarray(age, np.float64).reshape(-1)
    label = np.asarray(label_age, np.float64).reshape(-1)
    known = np.isfinite(age) & np.isfinite(label)
    age, label = age[known], label[known]
    groups = {
        grouping: {name: np.asarray(rows)[known] for name, rows in by_name.items()}
        for grouping, by_name in groups.items()
    }
    by_gender = groups.get("gender", {})
    result: dict[str, Any] = {
        "definition": DEFINITION,
        "source": SOURCE,
        "examples": len(age),
        "thresholds": {},
        "challenge": {},
        "groups": {},
        "largest_gap": {},
    }
    for years in thresholds:
        result["thresholds"][str(years)] = {
            **error_rates(age, label, years),
            "by_gender": {
                name: error_rates(age[rows], label[rows], years)
                for name, rows in by_gender.items()
            },
        }
        result["challenge"][str(years)] = {
            **challenge_age(age, label, years),
            "curve": challenge_curve(age, label, years),
            "by_gender": {
                name: challenge_age(age[rows], label[rows], years)
                for name, rows in by_gender.items()
            },
        }
    errors = age - label
    for grouping, by_name in groups.items():
        found = group_errors.errors_by_group(
            errors, by_name, samples=samples, seed=seed
        )
        result["groups"][grouping] = {name: row for name, (row, _) in found.items()}
        result["largest_gap"][grouping] = group_errors.largest_gap(found)
    return result


def error_rates(
    age: np.ndarray, label: np.ndarray, threshold: float, legal_age: float | None = None
) -> dict[str, Any]:
    """Error rates of decisions at an age threshold, with Wilson's intervals (1927).

    Args:
      age: Estimated years ``[n]``.
      label: True years ``[n]``.
      threshold: Years from which on an estimated age is accepted.
      legal_age: Years from which on a person is to be accepted; default: the threshold.

    Returns:
      ``younger`` and ``older``: how many people are under the legal age, and how many
      are not; ``false_positives`` and ``false_negatives``, numbers of people; their
      rates, shares of ``younger`` and of ``older``; ``intervals`` of the rates; and
      ``note`` if one of the rates is not defined, and None.
    """
    legal_age = threshold if legal_age is None else legal_age
    is_younger = label < legal_age
    younger = int(is_younger.sum())
    older = len(label) - younger
    accepted = age >= threshold
    positives = int((is_younger & accepted).sum())
    negatives = int((~is_younger & ~accepted).sum())
    result: dict[str, Any] = {
        "younger": younger,
        "older": older,
        "false_positives": positives,
        "false_negatives": negatives,
        "false_positive_rate": positives / younger if younger else None,
        "false_negative_rate": negatives / older if older else None,
        "intervals": {
            "false_positive_rate": wilson_interval(positives, younger),
            "false_negative_rate": wilson_interval(negatives, older),
        },
    }
    missing = [f"younger than {legal_age:g}"] if not younger else []
    missing += [f"{legal_age:g} or older"] if not older else []
    if missing:
        result["note"] = f"no example is {' or '.join(missing)}"
    return result


def challenge_age(
    age: np.ndarray, label: np.ndarray, legal_age: int, limit: float = LIMIT
) -> dict[str, Any]:
    """The lowest challenge age that accepts few enough people under the legal age.

    Args:
      age: Estimated years ``[n]``.
      label: True years ``[n]``.
      legal_age: Years.
      limit: The false positive rate must be below it.

    Returns:
      ``legal_age``, ``limit``, ``challenge_age`` in years, and `error_rates` at it.
      ``interval`` is the 95 % interval of the challenge age over samples of people,
      from the order statistics of the estimated ages, which holds for any distribution.
      Its upper end is None if there are too few people for one; from 368 people under
      the legal age on there is one, for a limit of 1 %.  ``note`` says what is missing.
    """
    estimates = np.sort(age[label < legal_age])[::-1]
    number = len(estimates)
    result: dict[str, Any] = {"legal_age": legal_age, "limit": limit}
    if not number:
        empty = {"challenge_age": None, "interval": None}
        return {**result, **empty, **error_rates(age, label, legal_age)}
    allowed = int((np.arange(number + 1) / number < limit).sum()) - 1
    found = _step_above(estimates[allowed], legal_age)
    result["challenge_age"] = found
    at_most = _binomial_cdf(number, limit)
    tail = (1 - _LEVEL) / 2
    # Entry k is the chance that at most k estimates are above the true challenge age;
    # below, that at least k are, for k = 0 ... number + 1.
    at_least = np.concatenate([[1.0], 1 - at_most])
    lowest = int(np.argmax(at_least <= tail))
    highest = int((at_most <= tail).sum())
    low = _step_above(estimates[lowest - 1], legal_age) if lowest <= number else None
    high = _step_above(estimates[highest - 1], legal_age) if highest else None
    result["interval"] = [float(legal_age) if low is None else low, high]
    result.update(error_rates(age, label, found, legal_age))
    if high is None:
        result["note"] = (
            f"{number} people under {legal_age} are too few for an upper end of the"
            " interval: even a higher challenge age may accept more than the limit"
        )
    return result


def challenge_curve(
    age: np.ndarray, label: np.ndarray, legal_age: int
) -> dict[str, list[Any]]:
    """Both error rates at each challenge age from the legal age up, by half a year.

    Returns:
      Lists of equal length: ``challenge_age`` in years, ``false_positive_rate`` and
      ``false_negative_rate``, with None where a rate is not defined.
    """
    estimates = age[label < legal_age]
    last = float(np.max(estimates)) + 1 if len(estimates) else legal_age
    years = min(max(last - legal_age, _CURVE_YEARS), _LONGEST_CURVE_YEARS)
    steps = [legal_age + i / 2 for i in range(2 * math.ceil(years) + 1)]
    rows = [error_rates(age, label, step, legal_age) for step in steps]
    names = ("false_positive_rate", "false_negative_rate")
    return {
        "challenge_age": [float(step) for step in steps],
        **{name: [row[name] for row in rows] for name in names},
    }


def wilson_interval(successes: int, number: int) -> list[float] | None:
    """The 95 % score interval of an error rate (Wilson, 1927); None for no decisions.

    Unlike a bootstrap, it has a width where no or every example is a success.
    """
    if not number:
        return None
    share, square = successes / number, _DEVIATIONS**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    half = _DEVIATIONS * math.sqrt(
        share * (1 - share) / number + square / (4 * number**2)
    )
    half /= 1 + square / number
    # Rounding may put an end on the wrong side of the share, or of 0 or 1.
    return [max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))]


def _step_above(estimate: float, legal_age: float) -> float:
    """The lowest challenge age above an estimated age, not below the legal age."""
    if estimate < legal_age:
        return float(legal_age)
    if estimate > _LARGEST_STEP:
        return math.nextafter(estimate, math.inf)
    step = math.floor(estimate * _STEPS_PER_YEAR)
    # A loop, because the product may be rounded up or down.
    while step / _STEPS_PER_YEAR <= estimate:
        step += 1
    return step / _STEPS_PER_YEAR


def _binomial_cdf(number: int, share: float) -> np.ndarray:
    """Chances of at most 0 ... `number` wrong decisions, for a challenge age."""
    counts = np.arange(1, number + 1)
    # In logarithms: factorials of thousands have no float.
    ratios = np.log((number - counts + 1) / counts) + math.log(share / (1 - share))
    logs = np.concatenate([[0.0], np.cumsum(ratios)]) + number * math.log1p(-share)
    return np.minimum(np.cumsum(np.exp(logs)), 1.0)
