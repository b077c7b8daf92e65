"""The result of an evaluation in a few lines, for people.

::

    print(evaluation_summary.summary_text(result))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_text(result: Mapping[str, Any]) -> str:
    """The summary of an evaluation, next to the constant predictor's results."""
    constant, intervals = result["constant"], result.get("intervals", {})
    lines = [f"{result['split']}: {result['examples']:,} examples, {result['model']}"]
    for name, title in _TITLES.items():
        if result.get(name) is None:
            continue
        line = f"{title:<18}{result[name]:8.4f}"
        if name in intervals:
            low, high = intervals[name]
            line += f"  [{low:.4f}, {high:.4f}]"
        if constant.get(name) is not None:
            line += f"  constant {constant[name]:.4f}"
        lines.append(line)
    for name, row in result.get("by_gender", {}).items():
        values = ", ".join(
            f"{_TITLES[key].lower()} {row[key]:.4f}"
            for key in ("accuracy", "mae")
            if row.get(key) is not None
        )
        lines.append(f"  {name}: {row['examples']:,} examples, {values}")
    lines += _fit_lines(result)
    lines += _decision_lines(result.get("age_decisions"))
    lines.append(f"written: {' '.join(result['files'])}")
    return "\n".join(lines)


_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC",
    "mae": "MAE, years",
    "rmse": "RMSE, years",
    "cs5": "CS@5",
    "bias": "Bias, years",
}


def _decision_lines(decisions: Mapping[str, Any] | None) -> list[str]:
    """The lines of an evaluation's summary about decisions about age."""
    if decisions is None:
        return []
    lines = []
    for years, row in decisions["thresholds"].items():
        parts = [
            f"{100 * row[rate]:.1f} % of {row[side]:,} {people}"
            for rate, side, people in (
                ("false_positive_rate", "younger", "younger faces accepted"),
                ("false_negative_rate", "older", "others refused"),
            )
            if row[rate] is not None
        ]
        lines.append(f"At {years} years: {'; '.join([*parts, *_decision_note(row)])}")
    for years, row in decisions["challenge"].items():
        if row["challenge_age"] is None:
            continue  # The lines above say why.
        low, high = row["interval"]
        end = "no upper end" if high is None else f"{high:.1f}"
        lines.append(
            f"Challenge age for {years}: {row['challenge_age']:.1f} [{low:.1f}, {end}]"
            f" accepts less than {row['limit']:.0%} of {row['younger']:,} younger faces"
        )
    for grouping, gap in decisions["largest_gap"].items():
        if gap["mae"] is not None:
            lines.append(
                f"Largest gap in MAE by {grouping.replace('_', ' ')}:"
                f" {gap['mae']['years']:.2f} years, {gap['mae']['high']} above"
                f" {gap['mae']['low']}"
            )
    return lines


def _decision_note(row: Mapping[str, Any]) -> list[str]:
    """The note of a row about decisions for the summary, if it has one."""
    return [row["note"]] if "note" in row else []


def _fit_lines(result: Mapping[str, Any]) -> list[str]:
    """The lines of an evaluation's summary about what was fitted on validation.

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
