r"""Published data sets whose labels are in the names of the images.

_NAME = re.compile(r"(\d{1,3})_([mf])\.")               # 25_f.jpg
labels_in_names.names_fit("faces", _NAME)
labels_in_names.rows_by_name("faces", _NAME, LAYOUT, _add_row, follow_links=False)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from afad_tfdata.common import errors
from afad_tfdata.writing import source, tree_walk
from afad_tfdata.writing.importers import importer_rows

# This many names are enough to see what a folder contains.
_SAMPLE = 400
# A link may lead to a whole disk, in which nothing is looked for.
_LINK_DEPTH = 3


def names_fit(root: str, pattern: re.Pattern[str]) -> bool:
    """Whether most images below a folder have such names, which contain the labels."""
    images = itertools.islice(filter(_is_image, _sample_keys(root)), _SAMPLE)
    names = [key.rpartition("/")[2] for key in images]
    return 2 * sum(bool(pattern.match(name)) for name in names) > len(names)


def rows_by_name(
    root: str,
    pattern: re.Pattern[str],
    layout: str,
    add: Callable[[importer_rows.ImportedRows, str, re.Match], None],
    *,
    follow_links: bool,
) -> importer_rows.ImportedRows:
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
    found = importer_rows.ImportedRows()
    for key in sorted(_all_keys(root, found, follow_links)):
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
    """Whether a file is an image, whose name should have the labels."""
    return not source.is_skipped(key) and key.lower().endswith(source.EXTENSIONS)


def _sample_keys(root: str) -> Iterator[str]:
    """Keys of files below a folder, to see the form of their names; links last."""

    def ignore_unlisted(*_: object) -> None:
        """Ignores a folder that cannot be listed; `rows_by_name` reports it."""

    walk = tree_walk.TreeWalk(root, unlisted=ignore_unlisted, again=ignore_unlisted)
    yield from (key for _, key in walk.below(""))
    while walk.links:
        link = walk.next_link()
        if walk.is_new(link):
            yield from (key for _, key in walk.below(link, depth=_LINK_DEPTH))


def _all_keys(
    root: str, found: importer_rows.ImportedRows, follow_links: bool
) -> Iterator[str]:
    """Keys of all files below a folder of images whose names have the labels."""

    def refuse_unlisted(folder: str, error: OSError) -> None:
        """Refuses a folder of a published data set that cannot be listed."""
        if not source.is_skipped(f"{folder}/"):
            raise errors.UsageError(
                f"--data_dir={root}: the folder {folder} cannot be listed"
                f" ({error.strerror}): make it readable, or move it elsewhere"
            ) from error

    def leave_out(folder: str) -> None:
        """Leaves out a linked folder that is listed already."""
        found.leave_out(folder, source.LISTED_LINK)

    walk = tree_walk.TreeWalk(root, unlisted=refuse_unlisted, again=leave_out)
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
