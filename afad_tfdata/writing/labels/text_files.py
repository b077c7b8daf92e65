"""The text of a label file: its encoding, its separator and its rows.

Spreadsheets choose encoding and separator by the language of the machine.  Therefore
both are found out from the content::

    text.decode(content)            # "path;age", "utf-16"
    text.rows(lines, count, ...)    # [(1, ["path", "age"]), (2, ["a.jpg", "25"])]
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence

from afad_tfdata.common import errors

SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 comes first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 4096


def decode(content: bytes) -> tuple[str, str]:
    """Decodes a file: UTF-8, UTF-16 and UTF-32 by their form, else Windows-1252.

    Args:
      content: The whole file.

    Returns:
      The text and the name of its encoding.

    Raises:
      UnicodeDecodeError: A mark promises an encoding that the bytes do not have.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding), encoding
    # In UTF-16 without a mark every second byte of a name such as "path" is 0.
    sample = content[:_SAMPLE_BYTES]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) // 4 and min(even, odd) * 8 < max(even, odd):
        encoding = "utf-16-le" if odd > even else "utf-16-be"
        return content.decode(encoding), encoding
    for encoding in ("utf-8", "cp1252"):
        try:
            return content.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1"), "latin-1"  # It decodes every byte.


def rows(
    text: str, num_known: Callable[[Sequence[str]], int], *, name: str
) -> list[tuple[int, list[str]]]:
    """Splits a text into rows of cells, the header first, without empty rows.

    Args:
      text: The file.
      num_known: How many cells of a header are columns that the caller knows.  The
        separator that gives most of them is the file's separator.
      name: What errors call the file.

    Returns:
      The number of each row, from 1, and its cells.  An empty row has a number, too, so
      that the numbers are those of a spreadsheet or an editor.

    Raises:
      UsageError: A quote is not closed, a row cannot be read, or spaces are between the
        cells.
    """
    skipped = 0
    first = text.split("\n", 1)[0].strip().strip('"').lower()
    separators: Sequence[str] = SEPARATORS
    if first.startswith("sep=") and len(first) == 5:  # A line that Excel understands.
        separators, skipped = (first[4],), 1
        text = text.split("\n", 1)[1] if "\n" in text else ""
    elif first == "sep=":  # `strip` removed a tabulator.
        separators, skipped = ("\t",), 1
        text = text.split("\n", 1)[1] if "\n" in text else ""
    headers = {mark: _header(text, mark) for mark in separators}
    # If several separators give equally many known columns, the one with more columns
    # is taken, and then the more common one.
    best = max(separators, key=lambda m: (num_known(headers[m]), len(headers[m])))
    if num_known(headers[best]) < 2:
        _refuse_spaces(text, num_known, name)
    return _rows(text, best, skipped, name)


def _refuse_spaces(
    text: str, num_known: Callable[[Sequence[str]], int], name: str
) -> None:
    """Refuses cells that spaces separate, as in R's ``write.table``.

    They are not read, because a path may contain spaces.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    cells = [cell.strip('"') for cell in re.findall(r'"[^"]*"|[^\s"]+', first)]
    if num_known(cells) >= 2:
        raise errors.UsageError(
            f"{name} has spaces between its cells, and a path may have spaces, too:"
            " write the table with commas, such as by R's write.csv(labels,"
            " row.names=FALSE) or pandas' to_csv(index=False)"
        )


def _header(text: str, separator: str) -> list[str]:
    """The first row that is not empty, as this separator divides it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return next((row for row in reader if any(map(str.strip, row))), [])
    except csv.Error:
        return []


def _rows(
    text: str, separator: str, skipped: int, name: str
) -> list[tuple[int, list[str]]]:
    """The cells of a label file's text, with the number of each row."""
    # A strict reader refuses a quote that is not closed.  Another one would take the
    # rest of the file for one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: list[tuple[int, list[str]]] = []
    number = skipped + 1
    try:
        for row in reader:
            if any(map(str.strip, row)):
                found.append((number, row))
            number = skipped + reader.line_num + 1
    except csv.Error as error:
        raise errors.UsageError(
            f"{name}, row {number} cannot be read ({errors.one_line(error)}): a quote"
            " must be closed, and a quote inside quotes is written twice"
        ) from error
    return found
