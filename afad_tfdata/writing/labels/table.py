"""Label files of every form as one table of texts.

The form is found by the first bytes of the file and, for JSON, by its name::

    CSV, TSV and text with ; or |     any encoding, any line ends, .gz too
    .jsonl, .ndjson, .json            an object in each line, or a table of pandas
    .parquet                          by pyarrow or pandas
    .xlsx                             the first sheet, by openpyxl
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from afad_tfdata.common import errors, files
from afad_tfdata.writing.labels import columns, text

_PARQUET, _ZIP, _OLD_EXCEL, _GZIP = (
    b"PAR1",
    b"PK\x03\x04",
    b"\xd0\xcf\x11\xe0",
    b"\x1f\x8b",
)
# A larger file is not a table of labels: it would fill the memory.
_MAX_BYTES = 1 << 30


class Table(NamedTuple):
    """A table.

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
    """Reads a table.

    Args:
      path: A local or remote file.
      flag: The flag that named it, for errors.
      known: Columns by which the separator is found; without them those of label files.

    Raises:
      UsageError: The file cannot be read, or needs a library that is not installed.
    """
    name = f"--{flag}={path}"
    content = _content(path, name)
    suffix = path.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if content.startswith(_PARQUET):
            return _parquet(content, name)
        if content.startswith(_ZIP):
            return _excel(content, name)
        if content.startswith(_OLD_EXCEL):
            raise errors.UsageError(
                f"{name} is a spreadsheet of Excel 97: save it as .csv or .xlsx"
            )
        decoded, encoding = text.decode(content)
        if suffix in ("jsonl", "ndjson", "json"):
            return _json(decoded, name, lines=suffix != "json")
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
        if not wanted:
            return columns.num_known(cells)
        return len(wanted & {cell.strip() for cell in cells})

    found = text.rows(decoded, num_known, name=name)
    header = found[0][1] if found else []
    return Table(name, header, found[1:], encoding)


def _content(path: str, name: str) -> bytes:
    """The bytes of the file, decompressed."""
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


def _json(decoded: str, name: str, *, lines: bool) -> Table:
    """JSON lines, or one value in a form that pandas writes."""
    if not lines:
        stripped = decoded.strip()
        try:
            value = json.loads(stripped)
        except ValueError:
            lines = True  # A file of lines is often called .json.
        else:
            if isinstance(value, dict) and _is_one_row(value):
                value = [value]
            return _of_value(value, name)
    objects: list[tuple[int, Any]] = []
    for number, line in enumerate(decoded.split("\n"), 1):
        if not line.strip():
            continue
        try:
            objects.append((number, json.loads(line)))
        except ValueError as error:
            raise errors.UsageError(
                f"{name}, row {number} is not JSON: {errors.one_line(error)}"
            ) from error
    return _of_objects(objects, name)


def _is_one_row(value: dict[str, Any]) -> bool:
    return not any(isinstance(cell, (dict, list)) for cell in value.values())


def _of_value(value: Any, name: str) -> Table:
    """A table that one JSON value contains."""
    if isinstance(value, dict) and {"columns", "data"} <= set(value):
        header = [str(cell) for cell in value["columns"]]
        rows = [[cell_text(cell) for cell in row] for row in value["data"]]
        return Table(name, header, list(enumerate(rows, 1)), "utf-8")
    if isinstance(value, dict):  # Columns, each a list or an object by row number.
        header = list(value)
        cells = [
            list(column.values()) if isinstance(column, dict) else list(column)
            for column in value.values()
        ]
        rows = [[cell_text(cell) for cell in row] for row in zip(*cells, strict=True)]
        return Table(name, header, list(enumerate(rows, 1)), "utf-8")
    return _of_objects(list(enumerate(value, 1)), name)


def _of_objects(objects: Sequence[tuple[int, Any]], name: str) -> Table:
    """A table of one object for each row."""
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


def _parquet(content: bytes, name: str) -> Table:
    source = io.BytesIO(content)
    library = _library(("pyarrow.parquet", "pandas"), name, "pyarrow")
    if library.__name__ == "pandas":
        frame = library.read_parquet(source)
        columns_of = {str(key): frame[key].tolist() for key in frame.columns}
    else:
        table = library.read_table(source)
        # By position, because two columns may have one name.
        names = [str(key) for key in table.column_names]
        values = [column.to_pylist() for column in table.columns]
        return _of_columns(names, values, name)
    return _of_columns(list(columns_of), list(columns_of.values()), name)


def _of_columns(header: list[str], values: list[list[Any]], name: str) -> Table:
    rows = [[cell_text(cell) for cell in row] for row in zip(*values, strict=True)]
    return Table(name, header, list(enumerate(rows, 1)), "utf-8")


def _excel(content: bytes, name: str) -> Table:
    library = _library(("openpyxl",), name, "openpyxl")
    book = library.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    sheet = book.worksheets[0]
    found = [
        (number, [cell_text(cell) for cell in row])
        for number, row in enumerate(sheet.iter_rows(values_only=True), 1)
    ]
    found = [(number, row) for number, row in found if any(map(str.strip, row))]
    return Table(name, found[0][1] if found else [], found[1:], "utf-8")


def _library(names: Iterable[str], name: str, advice: str) -> Any:
    """The first of these libraries that is installed."""
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
    """A cell of a typed table as the text that a CSV would have."""
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
