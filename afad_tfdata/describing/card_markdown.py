"""Markdown that shows any text exactly as it is.

Names, paths and labels come from users.  `text` escapes them, so that none of their
characters starts a tag, a link, a table cell or emphasis, or breaks the line::

    card_markdown.table(["class", "images"], [["<b>", "12"]])
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors

# Characters with a meaning within a line, in CommonMark or in GitHub's tables and
# mathematics.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
# What starts a list or a heading at the beginning of a line.
_FIRST = re.compile(r"^(\s*)([-+=]|\d+(?=[.)](?:\s|$)))")


def text(value: object) -> str:
    r"""Text in a card's Markdown, with all its characters; "unknown" for None and "".

    A character that cannot be printed is shown by its code, such as ``\x1b``.
    """
    return _FIRST.sub(_escape_first, _inline_text(value))


def _inline_text(value: object) -> str:
    """As `text`, for a place where no list or heading can start."""
    if value is None or value == "":
        return "unknown"
    shown = errors.printable(" ".join(str(value).split()))
    return _SPECIAL.sub(r"\\\1", shown)


def _escape_first(match: re.Match[str]) -> str:
    """Escapes in Markdown what would begin a list or a heading."""
    # Digits cannot be escaped, but the point or bracket after them can.
    return match[1] + (f"{match[2]}\\" if match[2].isdigit() else f"\\{match[2]}")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped here, numbers aligned to the right.

    Args:
      head: Names of the columns.
      rows: Cells as text or numbers, as many in each row as in `head`.
    """
    cells = [list(row) for row in rows]
    right = [
        bool(cells) and all(isinstance(row[i], int | float) for row in cells)
        for i in range(len(head))
    ]
    lines = [
        _table_row([_inline_text(name) for name in head]),
        _table_row(["---:" if is_number else "---" for is_number in right]),
    ]
    lines += [_table_row([_inline_text(number(cell)) for cell in row]) for row in cells]
    return "\n".join(lines)


def number(value: object) -> object:
    """A number as a card shows it: 12,345 or 0.9312; other values unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def items(values: Iterable[str]) -> str:
    """A Markdown list; the values are Markdown already."""
    return "\n".join(f"- {value}" for value in values)


def code(content: str, language: str = "") -> str:
    """A Markdown block of code, whatever it contains."""
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"


def header(values: Mapping[str, Any]) -> str:
    """The YAML block at the top of a card, without values that are None or empty.

    The values are written as JSON, because every JSON value is also YAML.
    """
    lines = [
        f"{name}: {json.dumps(_printable_value(value), ensure_ascii=False)}"
        for name, value in values.items()
        if value not in (None, "", [], {})
    ]
    return "\n".join(["---", *lines, "---"])


def _printable_value(value: Any) -> Any:
    """A value of a card's YAML header without unprintable characters."""
    if isinstance(value, str):
        return errors.printable(value)
    if isinstance(value, Mapping):
        return {k: _printable_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_printable_value(v) for v in value]
    return value


def _table_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
