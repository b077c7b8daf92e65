"""Where images come from: a tree filed as AGE/GENDER/IMAGE, or a CSV of labels.

A scan lists every file once, in the order of the keys, and opens none: the name of a
file decides its labels.  Files that were never meant to be images (hidden files,
``Thumbs.db``, ``README*``, lists of labels) are skipped and counted; every other file
that cannot be used is rejected by name.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.storage import sharding

EXTENSIONS = (".jpg", ".jpeg", ".png")
MAX_AGE = 150  # Years; a larger number is no age of a person but a mistake.
_SKIPPED = re.compile(
    r"(thumbs\.db|desktop\.ini|readme.*|afad-.*\.txt)\Z", re.IGNORECASE | re.DOTALL
)
_CSV_COLUMNS = ("path", "age", "gender")


class Item(NamedTuple):
    """One image of the source.

    Attributes:
      key: Path relative to the root, with forward slashes.
      age: Years.
      gender: 0 or 1.
      num_bytes: Size of the file.
      split: From a CSV or a split file; None if the hash of the key decides.
    """

    key: str
    age: int
    gender: int
    num_bytes: int
    split: str | None = None


class Rejection(NamedTuple):
    """A file that was found and is not used.

    Attributes:
      path: Relative path.
      reason: Why.
    """

    path: str
    reason: str


@dataclasses.dataclass
class Listing:
    """What a scan found.

    Attributes:
      root: Directory that the keys are relative to.
      items: Images that may be usable, sorted by key.
      rejected: Files that cannot be used, sorted by path.
      skipped: Number of files whose names say that they are not images; the manifest
        calls it ``passed_over``.
      parts: Files of the archive that contains the images; empty for a folder.
      prefix: What precedes every key in the archive.
    """

    root: str
    items: list[Item]
    rejected: list[Rejection]
    skipped: int
    parts: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def found(self) -> int:
        """Number of all files, however they were classified."""
        return len(self.items) + len(self.rejected) + self.skipped


def parse_gender_codes(text: str) -> dict[str, int]:
    """Parses ``111:male,112:female`` to ``{"111": 0, "112": 1}``.

    Labels are numbered in the order of the text; several codes may share a name.

    Raises:
      UsageError: The text is not of that form or does not name two classes.
    """
    codes: dict[str, int] = {}
    names: list[str] = []
    for part in text.split(","):
        code, colon, name = (piece.strip() for piece in part.partition(":"))
        if not (code and colon and name) or code in codes:
            raise _gender_codes_error(text)
        if name not in names:
            names.append(name)
        codes[code] = names.index(name)
    if len(names) != 2:
        raise _gender_codes_error(text)
    return codes


def class_names(text: str) -> tuple[str, str]:
    """The two class names of a ``--gender_codes`` text, in label order."""
    parse_gender_codes(text)
    names = list(dict.fromkeys(p.partition(":")[2].strip() for p in text.split(",")))
    return names[0], names[1]


def scan_tree(root: str, gender_codes: dict[str, int]) -> Listing:
    """Lists a tree of ``AGE/GENDER/IMAGE``.

    Links to directories are not followed.  The result does not depend on the order in
    which the file system names files.

    Raises:
      UsageError: The root is not a directory.
    """
    if not os.path.isdir(root):
        raise errors.UsageError(
            f"--data_dir={root} is not a directory: name the folder that holds"
            " AGE/GENDER/IMAGE"
        )
    listing = Listing(root, [], [], 0)
    for entry, key in _walk(root, listing.rejected):
        try:
            size = entry.stat().st_size if entry.is_file() else None
        except OSError:  # For example a loop of links.
            size = None
        add_file(listing, key, gender_codes, size)
    listing.items.sort()
    listing.rejected.sort()
    return listing


def add_file(
    listing: Listing, key: str, gender_codes: dict[str, int], num_bytes: int | None
) -> None:
    """Adds one file to a listing: as an item, as rejected or as skipped.

    Args:
      listing: The listing so far.
      key: Path below the root.
      gender_codes: From `parse_gender_codes`.
      num_bytes: Size of the file; None if the name does not lead to a file.
    """
    if _is_skipped(key):
        listing.skipped += 1
        return
    item = _tree_item(key, gender_codes, num_bytes)
    if isinstance(item, Item):
        listing.items.append(item)
    else:
        listing.rejected.append(item)


def scan_csv(path: str, root: str, gender_codes: dict[str, int]) -> Listing:
    """Lists the images that a CSV names.

    Args:
      path: The CSV.  Its header names the columns ``path``, ``age``, ``gender`` and,
        optionally, ``split``.
      root: Directory that the paths are relative to.
      gender_codes: From `parse_gender_codes`; the column ``gender`` has these codes.

    Raises:
      UsageError: The file cannot be read or lacks a column.
    """
    items: dict[str, Item] = {}
    rejected: list[Rejection] = []
    try:
        # Spreadsheets begin a CSV with a byte order mark, which "-sig" removes.
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            missing = [c for c in _CSV_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise errors.UsageError(
                    f"--labels_csv={path} has no column {', '.join(missing)}; its first"
                    " line must name path, age, gender and, optionally, split"
                )
            for row in reader:
                item = _csv_item(row, root, gender_codes)
                if isinstance(item, Item) and item.key in items:
                    item = Rejection(item.key, "named twice in the CSV")
                if isinstance(item, Item):
                    items[item.key] = item
                else:
                    rejected.append(item)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UsageError(
            f"cannot read --labels_csv={path}: {errors.one_line(error)}"
        ) from error
    return Listing(root, sorted(items.values()), sorted(rejected), 0)


def _walk(root: str, rejected: list[Rejection]) -> Iterator[tuple[os.DirEntry, str]]:
    """Yields every file with its key; links to folders are not followed."""
    # A list and no recursion: folders may be nested deeper than Python recurses.
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(root, below)))
        except OSError as error:
            if not below:
                raise errors.UsageError(
                    f"cannot list {root}: {error.strerror}"
                ) from error
            rejected.append(Rejection(below, f"cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            key = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(key)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                reason = "a link to a folder: links are not followed"
                rejected.append(Rejection(key, reason))
            else:
                yield entry, key


def _is_skipped(key: str) -> bool:
    """Whether a name says that this is not an image, or the folder is hidden."""
    if "/." in key or key.startswith("."):
        return True
    return _SKIPPED.match(key, key.rfind("/") + 1) is not None


def _tree_item(
    key: str, gender_codes: dict[str, int], num_bytes: int | None
) -> Item | Rejection:
    if not key.lower().endswith(EXTENSIONS):
        return Rejection(key, "not named .jpg, .jpeg or .png")
    parts = key.split("/")
    if len(parts) != 3:
        return Rejection(key, "not filed as AGE/GENDER/IMAGE")
    age = _age(parts[0])
    if isinstance(age, str):
        return Rejection(key, age)
    if parts[1] not in gender_codes:
        return Rejection(key, f"folder {parts[1]!r} is not one of --gender_codes")
    if num_bytes is None:
        return Rejection(key, "not a file: a broken link or a device")
    return Item(key, age, gender_codes[parts[1]], num_bytes)


def _csv_item(
    row: dict[str, str | None], root: str, gender_codes: dict[str, int]
) -> Item | Rejection:
    key = (row["path"] or "").strip().replace(os.sep, "/")
    key = key.removeprefix("./")
    if not key or key.startswith("/") or ".." in key.split("/"):
        return Rejection(key or "(empty)", "not a path below --data_dir")
    age = _age((row["age"] or "").strip())
    if isinstance(age, str):
        return Rejection(key, age)
    gender = gender_codes.get((row["gender"] or "").strip())
    if gender is None:
        return Rejection(key, f"gender {row['gender']!r} is not one of --gender_codes")
    split = (row.get("split") or "").strip() or None
    if split is not None and split not in sharding.SPLITS:
        return Rejection(
            key, f"split {split!r} is none of {', '.join(sharding.SPLITS)}"
        )
    path = os.path.join(root, key)
    try:
        if not os.path.isfile(path):
            return Rejection(key, "no such file")
        return Item(key, age, gender, os.path.getsize(path), split)
    except OSError as error:
        return Rejection(key, f"cannot be read: {error.strerror}")


@functools.lru_cache(4096)
def _age(text: str) -> int | str:
    """The age, or the reason why the text is not an age.

    Cached, since few texts occur for very many images.
    """
    # The length too: Python refuses to convert texts of thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return f"age {text[:20]!r} is not a number"
    if int(text) > MAX_AGE:
        return f"age {text} is not the age of a person"
    return int(text)


def _gender_codes_error(text: str) -> errors.UsageError:
    return errors.UsageError(
        "--gender_codes takes CODE:NAME pairs of two classes, such as"
        f" 111:male,112:female; got {text!r}"
    )
