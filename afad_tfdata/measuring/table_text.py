"""The table as text for a terminal, and as a page in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from afad_tfdata.measuring import row_verdicts

_MARKS = {
    row_verdicts.MET: "ok  ",
    row_verdicts.MISSED: "MISS",
    row_verdicts.NOT_APPLICABLE: "n/a ",
}
_WIDTH = 88
_INDENT = 5


def text(found: Sequence[row_verdicts.Row]) -> str:
    """The rows by part, each with its target, and the number of each verdict."""
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
    return "\n".join([*lines, counts(found)])


def counts(found: Sequence[row_verdicts.Row]) -> str:
    """The number of targets with each verdict."""
    verdicts = [row.verdict for row in found]
    return (
        f"{verdicts.count(row_verdicts.MET)} targets met,"
        f" {verdicts.count(row_verdicts.MISSED)} missed,"
        f" {verdicts.count(row_verdicts.NOT_APPLICABLE)} not applicable"
    )


def page(found: Sequence[row_verdicts.Row], facts: dict[str, Any]) -> str:
    """The table in Markdown, for a README.

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
        f" {facts['seconds']} s: {counts(found)}.",
        "",
        "| part | what | measured | target | verdict |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        verdict = row.verdict + (f": {row.why}" if row.why else "")
        cells = (row.part, row.name, row.measured, row.target, verdict)
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell(content: str) -> str:
    """Text that cannot end a cell."""
    return " ".join(content.replace("|", "\\|").split())
