"""A row of the table: what was measured, what was wanted, and the verdict.

A part of the check yields rows::

    yield row_verdicts.at_most("waiting for input", 0.004, 0.01, "{:.1%}")
    yield row_verdicts.fact("card", "NVIDIA H100")
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

MET, MISSED = "met", "missed"
NOT_APPLICABLE, NO_TARGET = "not applicable", "no target"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      name: What was measured.
      measured: The result, as text; empty if there is none.
      target: What was wanted, as text; empty if nothing particular was.
      verdict: `MET`, `MISSED`, `NOT_APPLICABLE` or `NO_TARGET`.
      why: The reason for a verdict that is not `MET`, if one is known.
      figures: The numbers behind `measured`, for programs.
      part: The part of the check that the row belongs to; the process sets it.
    """

    name: str
    measured: str
    target: str = ""
    verdict: str = NO_TARGET
    why: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: str = ""


def fact(name: str, measured: str, **figures: Any) -> Row:
    """A row without a target."""
    return Row(name, measured, figures=figures)


def holds(
    name: str, is_true: bool, *, target: str, measured: str, why: str = ""
) -> Row:
    """A row for something that is either so or not.

    Args:
      name: What was tried.
      is_true: Whether the target is met.
      target: What was wanted.
      measured: What was seen.
      why: The reason, if the target is missed.
    """
    verdict = MET if is_true else MISSED
    return Row(name, measured, target, verdict, "" if is_true else why)


def at_most(
    name: str,
    value: float,
    limit: float,
    form: str,
    *,
    not_applicable: str = "",
    why: str = "",
    measured: str = "",
    **figures: Any,
) -> Row:
    """A row for a number that must not exceed a limit.

    Args:
      name: What was measured.
      value: The number; NaN misses every target.
      limit: The largest value that meets the target.
      form: How both are written, such as ``"{:.1%}"``.
      not_applicable: Why the target does not count here; empty if it does.
      why: The reason, if the target is missed and the reason is known.
      measured: What is written after the number.
      **figures: Further numbers for programs.
    """
    if not_applicable:
        verdict, reason = NOT_APPLICABLE, not_applicable
    else:
        is_met = not math.isnan(value) and value <= limit
        verdict, reason = (MET, "") if is_met else (MISSED, why)
    text = form.format(value) + (f"; {measured}" if measured else "")
    return Row(
        name,
        text,
        f"at most {form.format(limit)}",
        verdict,
        reason,
        {"value": value, "limit": limit, **figures},
    )


def not_applicable(name: str, why: str, *, target: str = "") -> Row:
    """A row for what cannot be tried here."""
    return Row(name, "", target, NOT_APPLICABLE, why)


def failed(why: str, *, measured: str = "it failed") -> Row:
    """A row for a part that did not come to its end."""
    return Row("the part itself", measured, "ends without an error", MISSED, why)
