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
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from afad_tfdata.common import errors
from afad_tfdata.writing import source, tree_walk
from afad_tfdata.writing.labels import file_formats

HEADER = ["path", "age", "gender", "split", "group"]
# This many names are enough to see what a folder contains.
_SAMPLE = 400
# A link may lead to a whole disk, in which nothing is looked for.
_LINK_DEPTH = 3


class Importer(Protocol):
    """A module of this folder."""

    CODES: str
    LAYOUT: str

    def fits(self, root: str) -> bool:
        """Whether a folder looks like the data set."""

    def read(self, root: str, *, follow_links: bool = False) -> Found:
        """Lists the data set.

        Args:
          root: The folder.
          follow_links: Whether to list what is in linked folders.  The paths of a list
            lead through links in any case.

        Raises:
          UsageError: A list or a folder cannot be read.
        """


@dataclasses.dataclass
class Found:
    """What an importer found.

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
        """Adds a row; a cell without a value is empty."""
        self.rows.append((where, [path, age, gender, split, group]))

    def leave_out(self, path: str, reason: str) -> None:
        """Adds an image that is not written."""
        self.left_out.append(source.Rejection(path, reason))


def names_fit(root: str, pattern: re.Pattern[str]) -> bool:
    """Whether most images below a folder have names of this form."""
    images = itertools.islice(filter(_is_image, _samples(root)), _SAMPLE)
    names = [key.rpartition("/")[2] for key in images]
    return 2 * sum(bool(pattern.match(name)) for name in names) > len(names)


def by_name(
    root: str,
    pattern: re.Pattern[str],
    layout: str,
    add: Callable[[Found, str, re.Match], None],
    *,
    follow_links: bool,
) -> Found:
    """Lists a data set whose labels are in the names of the images.

    Args:
      root: The folder.
      pattern: Matches the name of an image.
      layout: What the names should be, for the reason of a name that does not match.
      add: Adds the row of an image: gets the result, the key and the match.
      follow_links: Whether to list what is in linked folders.

    Raises:
      UsageError: A folder cannot be listed, or is linked without ``follow_links``.
    """
    found = Found()
    for key in sorted(_all_files(root, found, follow_links)):
        if source.is_skipped(key):
            found.skipped += 1
        elif not _is_image(key):
            found.leave_out(key, source.NOT_AN_IMAGE)
        elif match := pattern.match(key.rpartition("/")[2]):
            add(found, key, match)
        else:
            reason = f"its name has no labels; expected {layout}"
            found.misnamed.append(source.Rejection(key, reason))
    return found


def _is_image(key: str) -> bool:
    """Whether a file of a published data set is an image."""
    return not source.is_skipped(key) and key.lower().endswith(source.EXTENSIONS)


def _samples(root: str) -> Iterator[str]:
    """Keys of files below a folder, those in linked folders last."""

    def ignore(*_: object) -> None:
        """`by_name` reports it, if the data set is read at all."""

    walk = tree_walk.Walk(root, unlisted=ignore, again=ignore)
    yield from (key for _, key in walk.below(""))
    while walk.links:
        link = walk.next_link()
        if walk.is_new(link):
            yield from (key for _, key in walk.below(link, depth=_LINK_DEPTH))


def _all_files(root: str, found: Found, follow_links: bool) -> Iterator[str]:
    """Keys of all files below a folder."""

    def refuse(folder: str, error: OSError) -> None:
        if not source.is_skipped(f"{folder}/"):
            raise errors.UsageError(
                f"--data_dir={root}: the folder {folder} cannot be listed"
                f" ({error.strerror}): make it readable, or move it elsewhere"
            ) from error

    def leave_out(folder: str) -> None:
        found.leave_out(folder, source.LISTED_LINK)

    walk = tree_walk.Walk(root, unlisted=refuse, again=leave_out)
    yield from (key for _, key in walk.below(""))
    while walk.links:
        link = walk.next_link()
        if source.is_skipped(f"{link}/"):
            continue
        if not walk.is_new(link):
            leave_out(link)
        elif follow_links:
            yield from (key for _, key in walk.below(link))
        else:
            raise errors.UsageError(
                f"--data_dir={root}: the folder {link} is a link, which --follow_links"
                " follows: add that flag, or remove the link"
            )


def read_rows(
    path: str, wanted: Sequence[str]
) -> Iterator[tuple[int | str, dict[str, str]]]:
    """Yields the rows of a table of a data set, as cells by the name of their column.

    Args:
      path: A file that `file_formats.read` reads.
      wanted: Columns that it must have.

    Raises:
      UsageError: It cannot be read, or lacks a column.
    """
    found = file_formats.read(path, flag="data_dir", known=wanted)
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
