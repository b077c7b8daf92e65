"""The table of the GPU check: rows with verdicts, and how they are printed.

A part of the check yields rows::

    yield check_table.at_most("waiting for input", 0.004, 0.01, "{:.1%}")
    yield check_table.fact("card", "NVIDIA H100")
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

MET, MISSED = "met", "missed"
NOT_APPLICABLE, NO_TARGET = "not applicable", "no target"
_MARKS = {
    MET: "ok  ",
    MISSED: "MISS",
    NOT_APPLICABLE: "n/a ",
}
_WIDTH = 88
_INDENT = 5


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table of the GPU check.

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
    """A row of the GPU check's table without a target."""
    return Row(name, measured, figures=figures)


def holds(
    name: str, is_true: bool, *, target: str, measured: str, why: str = ""
) -> Row:
    """A row of the GPU check's table for something that is either true or false.

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
    """A row of the GPU check's table for a number that must not exceed a limit.

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
    """A row of the GPU check's table for what cannot be tried here."""
    return Row(name, "", target, NOT_APPLICABLE, why)


def failed(why: str, *, measured: str = "it failed") -> Row:
    """A row of the GPU check's table for a part that did not come to its end."""
    return Row("the part itself", measured, "ends without an error", MISSED, why)


def table_text(found: Sequence[Row]) -> str:
    """The table of the GPU check for a terminal, with the number of each verdict."""
    lines = []
    part = ""
    for row in found:
        if row.part != part:
            part = row.part
            lines.append(part)
        line = f"{row.name}: {row.measured or 'not measured'}"
        line += f" (target: {row.target})" if row.target else ""
        line += f" -> {row.why}" if row.why else ""
        wrapped = textwrap.wrap(line, _WIDTH - _INDENT, break_long_words=False)
        lines.append(f"{_MARKS.get(row.verdict, '    '):<{_INDENT}}{wrapped[0]}")
        lines += [" " * (_INDENT + 2) + more for more in wrapped[1:]]
    return "\n".join([*lines, count_verdicts(found)])


def count_verdicts(found: Sequence[Row]) -> str:
    """How many rows of the GPU check's table are met, missed or not applicable."""
    verdicts = [row.verdict for row in found]
    return (
        f"{verdicts.count(MET)} targets met,"
        f" {verdicts.count(MISSED)} missed,"
        f" {verdicts.count(NOT_APPLICABLE)} not applicable"
    )


def markdown_page(found: Sequence[Row], facts: dict[str, Any]) -> str:
    """The table of the GPU check in Markdown, for a README.

    Args:
      found: The rows.
      facts: ``date``, ``seconds``, ``gpus``, ``tensorflow``, ``driver`` and
        ``afad_tfdata``.
    """
    cards = [gpu["card"] for gpu in facts["gpus"]]
    kinds = [f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards)]
    where = ", ".join(kinds) or "the CPU, small sizes: the times mean nothing"
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    lines = [
        "# GPU check",
        "",
        f"{facts['date']}: {where}{driver}, TensorFlow {facts['tensorflow']},"
        f" afad-tfdata {facts['afad_tfdata']}. `afad-gpu-check` took"
        f" {facts['seconds']} s: {count_verdicts(found)}.",
        "",
        "| part | what | measured | target | verdict |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        verdict = row.verdict + (f": {row.why}" if row.why else "")
        cells = (row.part, row.name, row.measured, row.target, verdict)
        lines.append("| " + " | ".join(map(_cell_text, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell_text(content: str) -> str:
    """Text for a cell of the GPU check's Markdown table, which it cannot end early."""
    return " ".join(content.replace("|", "\\|").split())
