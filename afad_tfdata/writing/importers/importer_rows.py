"""What an importer returns: the rows of a published data set, and what it leaves out.

An importer (`importer_choice.Importer`) opens no image.  `label_scan` reads the cells
of its rows as it reads those of a label file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

from afad_tfdata.common import errors
from afad_tfdata.writing import source
from afad_tfdata.writing.labels import table_files

HEADER = ["path", "age", "gender", "split", "group"]


@dataclasses.dataclass
class ImportedRows:
    """The rows of a published data set, and its images without a row.

    Attributes:
      rows: Where each row comes from, for messages, and its cells in the order of
        `HEADER`.
      left_out: Images that the data set itself marks as unusable, with the reason.
      misnamed: Images whose names do not contain the labels, with the reason.
      skipped: Number of files whose names say that they are not images.
      absent: Lists of the data set that are not there.
      has_ranges: Whether the ages of the data set are ranges of years.
    """

    rows: list[tuple[int | str, list[str]]] = dataclasses.field(default_factory=list)
    left_out: list[source.Rejection] = dataclasses.field(default_factory=list)
    misnamed: list[source.Rejection] = dataclasses.field(default_factory=list)
    skipped: int = 0
    absent: list[str] = dataclasses.field(default_factory=list)
    has_ranges: bool = False

    def add(
        self,
        where: int | str,
        path: str,
        *,
        age: str = "",
        gender: str = "",
        split: str = "",
        group: str = "",
    ) -> None:
        """Adds a row of a published data set; a cell without a value is empty."""
        self.rows.append((where, [path, age, gender, split, group]))

    def leave_out(self, path: str, reason: str) -> None:
        """Adds an image of a published data set that is left out, with the reason."""
        self.left_out.append(source.Rejection(path, reason))


def read_rows(
    path: str, wanted: Sequence[str]
) -> Iterator[tuple[int | str, dict[str, str]]]:
    """Yields the rows of a published data set's table, as cells by column name.

    Args:
      path: A file that `table_files.read` reads.
      wanted: Columns that it must have.

    Raises:
      UsageError: It cannot be read, or lacks a column.
    """
    found = table_files.read(path, flag="data_dir", known=wanted)
    header = [name.strip() for name in found.header]
    if missing := [name for name in wanted if name not in header]:
        raise errors.UsageError(
            f"{found.name} has no column {', '.join(missing)}, which the published"
            " data set has: fetch the file again"
        )
    for number, cells in found.rows:
        padded = [cell.strip() for cell in cells] + [""] * len(header)
        yield number, dict(zip(header, padded, strict=False))


def folder_with(root: str, names: Iterable[str]) -> str | None:
    """The folder of a published data set that has all these entries: the root or below.

    Args:
      root: The folder.
      names: Files or folders.

    Returns:
      Its path relative to the root, ending with ``/`` or empty; None if there is none.
    """
    wanted = list(names)
    try:
        inside = sorted(e.name for e in os.scandir(root) if e.is_dir())
    except OSError:
        return None
    for folder in ("", *(f"{name}/" for name in inside)):
        if all(os.path.exists(os.path.join(root, folder, name)) for name in wanted):
            return folder
    return None
