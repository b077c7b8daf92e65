"""What every importer returns, and what several importers need.

An importer is a module with four names::

    CODES     which gender in the data set is which class, for --gender_codes
    LAYOUT    what the folder must contain, for the error of a wrong --source
    fits      whether a folder looks like that
    read      its rows: a `Found`

It opens no image.  `labels.scan` reads the cells as it reads those of a table.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from afad_tfdata.common import errors
from afad_tfdata.writing import source
from afad_tfdata.writing.labels import table

HEADER = ["path", "age", "gender", "split", "group"]
# So many names show what a folder contains.
_SAMPLE = 400


class Importer(Protocol):
    """A module of this folder."""

    CODES: str
    LAYOUT: str

    def fits(self, root: str) -> bool:
        """Whether a folder looks like the data set."""

    def read(self, root: str) -> Found:
        """Lists the data set."""


@dataclasses.dataclass
class Found:
    """What an importer found.

    Attributes:
      rows: Where each row comes from, for messages, and its cells in the order of
        `HEADER`.
      left_out: Images that the data set itself marks as unusable, with the reason.
      skipped: Number of files whose names say that they are not images.
      has_ranges: Whether the ages of the data set are ranges of years.
    """

    rows: list[tuple[int | str, list[str]]] = dataclasses.field(default_factory=list)
    left_out: list[source.Rejection] = dataclasses.field(default_factory=list)
    skipped: int = 0
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
        """Adds a row; a cell without a value is empty."""
        self.rows.append((where, [path, age, gender, split, group]))

    def leave_out(self, path: str, reason: str) -> None:
        """Adds an image that is not written."""
        self.left_out.append(source.Rejection(path, reason))


def image_keys(root: str, *, limit: int | None = None) -> Iterator[str]:
    """Yields the images below a folder, sorted within each folder.

    Args:
      root: The folder.
      limit: How many to yield; None for all.
    """
    count = 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        inner = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            key = name if inner == "." else f"{inner}/{name}"
            if source.is_skipped(key) or not name.lower().endswith(source.EXTENSIONS):
                continue
            yield key
            count += 1
            if count == limit:
                return


def names_fit(root: str, pattern: re.Pattern[str]) -> bool:
    """Whether most images below a folder have names of this form."""
    names = [key.rpartition("/")[2] for key in image_keys(root, limit=_SAMPLE)]
    return 2 * sum(bool(pattern.match(name)) for name in names) > len(names)


def by_name(
    root: str, pattern: re.Pattern[str], add: Callable[[Found, str, re.Match], None]
) -> Found:
    """Lists a data set whose labels are in the names of the images.

    Args:
      root: The folder.
      pattern: Matches the name of an image.
      add: Adds the row of an image: gets the result, the key and the match.
    """
    found = Found()
    for key in image_keys(root):
        match = pattern.match(key.rpartition("/")[2])
        if match:
            add(found, key, match)
        else:  # The row is rejected, with a reason that names the form.
            found.add("the name", key, age="of another form than the others")
    return found


def read_rows(
    path: str, wanted: Sequence[str]
) -> Iterator[tuple[int | str, dict[str, str]]]:
    """Yields the rows of a table of a data set, as cells by the name of their column.

    Args:
      path: A file that `table.read` reads.
      wanted: Columns that it must have.

    Raises:
      UsageError: It cannot be read, or lacks a column.
    """
    found = table.read(path, flag="data_dir", known=wanted)
    header = [name.strip() for name in found.header]
    if missing := [name for name in wanted if name not in header]:
        raise errors.UsageError(
            f"{found.name} has no column {', '.join(missing)}: the data set is given"
            " out with it"
        )
    for number, cells in found.rows:
        padded = [cell.strip() for cell in cells] + [""] * len(header)
        yield number, dict(zip(header, padded, strict=False))


def folder_with(root: str, names: Iterable[str]) -> str | None:
    """The folder that contains all these entries: the root or one in it.

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
