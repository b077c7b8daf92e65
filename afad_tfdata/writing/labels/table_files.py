"""Tables in files of every form, such as label files, as rows of texts.

The form is found by the first bytes of the file and, for JSON, by its name::

    CSV, TSV and text with ; or |     any encoding, any line ends, .gz too
    .jsonl, .ndjson, .json            an object in each line, or a table of pandas
    .parquet                          by pyarrow or pandas
    .xlsx                             the first sheet with a value, by openpyxl

Spreadsheets choose the encoding and the separator of a text by the language of the
machine.  Therefore both are found out from the content.
"""

from __future__ import annotations

import codecs
import collections
import csv
import gzip
import importlib
import io
import json
import logging
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from afad_tfdata.common import errors, files
from afad_tfdata.writing.labels import header_columns

_PARQUET, _ZIP, _GZIP = b"PAR1", b"PK\x03\x04", b"\x1f\x8b"
# First bytes of forms that look like a table of one strange column.
_OTHER_FORMS = {
    b"\xd0\xcf\x11\xe0": "a spreadsheet of Excel 97 or an encrypted one",
    b"MATLAB 5.0": "a file of MATLAB (IMDB-WIKI's are read by --source=imdb_wiki)",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "a database of SQLite",
    b"ARROW1": "a Feather file",
    b"\x93NUMPY": "an array of NumPy",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
}
# A larger file is not a table of labels: it would fill the memory.
_MAX_BYTES = 1 << 30
_SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 comes first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 4096
_log = logging.getLogger(__name__)


class Table(NamedTuple):
    """A table that was read from a file.

    Attributes:
      name: What errors call it: the flag with the path.
      header: Names of the columns, as they are spelt.
      rows: Number of each row, as an editor or a spreadsheet counts it, or a text that
        says where the row comes from; and its cells.
      encoding: Encoding of a text; ``utf-8`` for the other forms.
    """

    name: str
    header: list[str]
    rows: Sequence[tuple[int | str, list[str]]]
    encoding: str


def read(path: str, *, flag: str, known: Sequence[str] = ()) -> Table:
    """Reads a table from a file in any of these forms.

    Args:
      path: A local or remote file.
      flag: The flag that named it, for errors.
      known: Columns by which the separator is found; without them those of label files.

    Raises:
      UsageError: The file cannot be read, or needs a library that is not installed.
    """
    name = f"--{flag}={path}"
    content = _file_content(path, name)
    suffix = path.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if content.startswith(_PARQUET):
            return _parquet_table(content, name)
        if content.startswith(_ZIP):
            return _excel_table(content, name)
        for start, what in _OTHER_FORMS.items():
            if content.startswith(start):
                raise errors.UsageError(
                    f"{name} is {what}, which is not read: save it as .csv or .xlsx"
                )
        decoded, encoding = _decode_text(content)
        if suffix in ("jsonl", "ndjson", "json"):
            return _json_table(decoded, name, lines=suffix != "json")
    except errors.AfadError:
        raise
    # The libraries raise errors of many types, and JSON that is nested thousands deep
    # raises RecursionError.
    except Exception as error:
        raise errors.UsageError(
            f"cannot read {name}: {errors.one_line(error) or type(error).__name__}"
        ) from error
    wanted = set(known)

    def num_known(cells: Sequence[str]) -> int:
        """The number of known columns that a row names, if it is the header."""
        if not wanted:
            return header_columns.num_known_columns(cells)
        return len(wanted & {cell.strip() for cell in cells})

    found = _text_rows(decoded, num_known, name=name)
    header = found[0][1] if found else []
    return Table(name, header, found[1:], encoding)


def _file_content(path: str, name: str) -> bytes:
    """The bytes of the file of a table, decompressed."""
    try:
        content = files.read_bytes(path)
        if content.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as f:
                content = f.read(_MAX_BYTES + 1)
    except errors.AfadError:
        raise
    except EOFError as error:
        raise errors.UsageError(f"cannot read {name}: it is cut short") from error
    except (Exception, zlib.error) as error:  # Each remote store has its own errors.
        reason = getattr(error, "strerror", None) or errors.one_line(error)
        raise errors.UsageError(f"cannot read {name}: {reason}") from error
    if len(content) > _MAX_BYTES:
        raise errors.UsageError(
            f"cannot read {name}: it has more than {_MAX_BYTES >> 30} GiB, so it is not"
            " a table of labels"
        )
    return content


def _decode_text(content: bytes) -> tuple[str, str]:
    """Decodes a table in text: UTF-8, UTF-16, UTF-32 by their form, else Windows-1252.

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


def _text_rows(
    text: str, num_known: Callable[[Sequence[str]], int], *, name: str
) -> list[tuple[int, list[str]]]:
    """The rows of a table in text, the header first, without empty rows.

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
    separators: Sequence[str] = _SEPARATORS
    if first.startswith("sep=") and len(first) == 5:  # A line that Excel understands.
        separators, skipped = (first[4],), 1
        text = text.split("\n", 1)[1] if "\n" in text else ""
    elif first == "sep=":  # `strip` removed a tabulator.
        separators, skipped = ("\t",), 1
        text = text.split("\n", 1)[1] if "\n" in text else ""
    headers = {mark: _header_row(text, mark) for mark in separators}
    # If several separators give equally many known columns, the one with more columns
    # is taken, and then the more common one.
    best = max(separators, key=lambda m: (num_known(headers[m]), len(headers[m])))
    if num_known(headers[best]) < 2:
        _refuse_spaces(text, num_known, name)
    return _csv_rows(text, best, skipped, name)


def _refuse_spaces(
    text: str, num_known: Callable[[Sequence[str]], int], name: str
) -> None:
    """Refuses a table with spaces between the cells, as R's ``write.table`` has.

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


def _header_row(text: str, separator: str) -> list[str]:
    """The header of a table in text, as this separator divides it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return next((row for row in reader if any(map(str.strip, row))), [])
    except csv.Error:
        return []


def _csv_rows(
    text: str, separator: str, skipped: int, name: str
) -> list[tuple[int, list[str]]]:
    """The rows of a table in text, with the number of each."""
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


def _json_table(decoded: str, name: str, *, lines: bool) -> Table:
    """A table in JSON lines, or in one value of a form that pandas writes."""
    if not lines:
        try:
            value = _strict_json(decoded.strip())
        except _RepeatedNameError:
            raise
        except ValueError:
            pass  # A file of lines is often called .json.
        else:
            if isinstance(value, dict) and _is_row_object(value):
                value = [value]
            return _table_of_json_value(value, name)
    objects: list[tuple[int, Any]] = []
    for number, line in enumerate(decoded.split("\n"), 1):
        if not line.strip():
            continue
        try:
            objects.append((number, _strict_json(line)))
        except ValueError as error:
            raise errors.UsageError(
                f"{name}, row {number} is not JSON: {errors.one_line(error)}"
            ) from error
    return _table_of_objects(objects, name)


class _RepeatedNameError(ValueError):
    """An object has one name twice."""


def _strict_json(text: str) -> Any:
    """A JSON value of a table; `json` alone would keep the last of two equal names."""
    return json.loads(text, object_pairs_hook=_object_of_pairs)


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of a table; an error if it has a name twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        ((repeated, _),) = counts.most_common(1)
        raise _RepeatedNameError(f"an object has the name {repeated!r} twice")
    return value


def _is_row_object(value: dict[str, Any]) -> bool:
    """Whether a JSON object is one row of a table."""
    return not any(isinstance(cell, (dict, list)) for cell in value.values())


def _table_of_json_value(value: Any, name: str) -> Table:
    """The table that one JSON value contains."""
    if isinstance(value, dict) and {"columns", "data"} <= set(value):
        header = [str(cell) for cell in value["columns"]]
        return _table_of_rows(header, value["data"], name)
    if isinstance(value, dict) and {"schema", "data"} <= set(value):
        value = value["data"]
    if not isinstance(value, dict):
        return _table_of_objects(list(enumerate(value, 1)), name)
    parts = list(value.values())
    if all(isinstance(part, dict) for part in parts):
        if header_columns.num_known_columns(list(value)):
            # The table by column: each column is an object with a value for each row.
            keys = list(dict.fromkeys(key for part in parts for key in part))
            rows = [[part.get(key) for part in parts] for key in keys]
            return _table_of_rows(list(value), rows, name)
        # The table by row: the name of a row is its image, if no column names one.
        header = list(dict.fromkeys(key for part in parts for key in part))
        unnamed = not header_columns.has_path_column(header)
        first = ["path"] if unnamed else []
        rows = [
            [*([key] if unnamed else []), *(part.get(cell) for cell in header)]
            for key, part in value.items()
        ]
        return _table_of_rows([*first, *header], rows, name)
    if any(not isinstance(part, list) for part in parts):
        raise errors.UsageError(
            f"{name} has columns of different forms: expected a list for each column,"
            " or an object for each"
        )
    return _table_of_columns(list(value), parts, name)


def _table_of_objects(objects: Sequence[tuple[int, Any]], name: str) -> Table:
    """A table of one JSON object for each row."""
    header: dict[str, None] = {}
    for number, value in objects:
        if not isinstance(value, dict):
            raise errors.UsageError(
                f"{name}, row {number}: expected an object such as"
                f' {{"path": "a.jpg", "age": 25, "gender": "female"}}, found'
                f" {json.dumps(value)[:40]}"
            )
        header.update(dict.fromkeys(value))
    rows = [
        (number, [cell_text(value.get(key)) for key in header])
        for number, value in objects
    ]
    return Table(name, list(header), rows, "utf-8")


def _parquet_table(content: bytes, name: str) -> Table:
    """The table in a Parquet file."""
    source = io.BytesIO(content)
    library = _table_library(("pyarrow.parquet", "pandas"), name, "pyarrow")
    if library.__name__ == "pandas":
        frame = library.read_parquet(source)
        names = [str(key) for key in frame.columns]
        values = [frame.iloc[:, i].tolist() for i in range(len(names))]
    else:
        table = library.read_table(source)
        # Columns are read by position, because two of them may have one name.
        names = [str(key) for key in table.column_names]
        values = [column.to_pylist() for column in table.columns]
    return _table_of_columns(names, values, name)


def _table_of_columns(header: list[str], values: list[list[Any]], name: str) -> Table:
    """A table from its columns, each a list of values."""
    lengths = sorted({len(column) for column in values})
    if len(lengths) > 1:
        raise errors.UsageError(
            f"{name} has columns of different lengths, {lengths[0]} and {lengths[-1]}"
        )
    return _table_of_rows(header, zip(*values, strict=True), name)


def _table_of_rows(
    header: list[str], values: Iterable[Iterable[Any]], name: str
) -> Table:
    """A table from its rows of values."""
    rows = [[cell_text(cell) for cell in row] for row in values]
    return Table(name, header, list(enumerate(rows, 1)), "utf-8")


def _excel_table(content: bytes, name: str) -> Table:
    """The table in an Excel file: its first sheet with a value."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = archive.namelist()
    if "xl/workbook.xml" not in inside:
        what = "a spreadsheet of another program" if "mimetype" in inside else "a .zip"
        raise errors.UsageError(
            f"{name} is {what}, not .xlsx: save it as .csv or .xlsx"
        )
    library = _table_library(("openpyxl",), name, "openpyxl")
    book = library.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    found: list[tuple[int, list[str]]] = []
    read, others = "", []
    for sheet in book.worksheets:
        rows = _rows_with_values(sheet)
        if not found:
            found, read = list(rows), sheet.title
        elif next(rows, None):
            others.append(sheet.title)
    if not found:
        return Table(name, [], [], "utf-8")
    if others:
        _log.warning(
            "%s: only the sheet %s is read, and not %s: save the others as files of"
            " their own",
            *(name, read, ", ".join(others)),
        )
    header = found[0][1]
    empty = [
        i
        for i in range(len(header))
        if not any(cell.strip() for _, row in found[1:] for cell in row[i : i + 1])
    ]
    if empty:
        _refuse_formulas(library, content, read, header, empty, name)
    return Table(name, header, found[1:], "utf-8")


def _rows_with_values(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row of an Excel sheet that has a value."""
    # Programs store a wrong size of the sheet; what is beyond it would not be read.
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [cell_text(cell) for cell in row]
        if any(map(str.strip, cells)):
            yield number, cells


def _refuse_formulas(
    library: Any,
    content: bytes,
    title: str,
    header: Sequence[str],
    empty: Collection[int],
    name: str,
) -> None:
    """Refuses formulas of an Excel sheet that have no stored result."""
    book = library.load_workbook(io.BytesIO(content), read_only=True)
    sheet = book[title]
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        for i in empty:
            if i < len(row) and str(row[i]).startswith("="):
                raise errors.UsageError(
                    f"{name}, row {number}, column {header[i].strip()}: a formula"
                    " without a result: open the file in a spreadsheet program and save"
                    " it"
                )


def _table_library(names: Iterable[str], name: str, advice: str) -> Any:
    """The first of these libraries for tables that is installed."""
    for module in names:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise errors.UsageError(
        f"{name} needs {advice}, which is not installed: pip install {advice}, or save"
        " the table as .csv"
    )


def cell_text(value: Any) -> str:
    """The cell of a typed table as the text that a CSV would have."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value)
