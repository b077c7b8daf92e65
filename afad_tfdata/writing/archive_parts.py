"""The files of an archive: their names, their order, and their bytes as one stream.

An archive may be in parts, such as ``AFAD-Full.tar.xzaa``, ``AFAD-Full.tar.xzab``, ...
"""

from __future__ import annotations

import bisect
import hashlib
import io
import os
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from afad_tfdata.common import errors
from afad_tfdata.images import image_header
from afad_tfdata.writing import age_folders

# The known names, for errors.
_KNOWN_NAMES = (
    ".tar, .tar.xz, .tar.gz, .tar.bz2 or .zip, or parts such as .tar.xzaa, .tar.xz.00"
)
_ENDING = r"\.(?:tar(?:\.(?:xz|gz|bz2))?|txz|tgz|tbz2?|zip)"
_WHOLE = re.compile(rf".+{_ENDING}", re.IGNORECASE)
# Names with the part's number after the ending, as the command split writes them.
_BEHIND = re.compile(
    rf"(?P<stem>.+?{_ENDING})(?P<dash>[._-]?(?:part[._-]?)?)(?P<number>[a-z]{{2,4}}|\d{{1,5}})",
    re.IGNORECASE,
)
# Names with the part's number before the ending.
_BEFORE = re.compile(
    rf"(?P<stem>.+?)(?P<dash>[._-]part[._-]?)(?P<number>\d{{1,5}})(?P<ending>{_ENDING})",
    re.IGNORECASE,
)


def find(path: str) -> list[str]:
    """Finds the parts of an archive, which may be one file.

    Args:
      path: A folder with one archive, the archive itself, or one of its parts.

    Returns:
      Their paths in order; empty if there is no archive, or if the folder has a
      subfolder named by an age.  Such a folder is read as a tree, whatever else is in
      it.

    Raises:
      UsageError: A part is missing, or there are several archives.
      DataError: A part is a Git LFS pointer.
    """
    directory, only = path, ""
    if os.path.isfile(path):
        directory, only = os.path.split(os.path.abspath(path))
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    if not only and any(_is_folder_of_age(directory, name) for name in names):
        return []
    archives = group_by_archive(names)
    if only:
        archives = {stem: found for stem, found in archives.items() if only in found}
        if not archives:
            raise errors.UsageError(
                f"--data_dir={path} is a file, but its name is not that of an archive:"
                f" {_KNOWN_NAMES}"
            )
    if len(archives) > 1:
        raise errors.UsageError(
            f"--data_dir={directory} has several archives ({', '.join(archives)}):"
            " name the one to write, such as"
            f" --data_dir={os.path.join(directory, min(archives))}"
        )
    for stem, found in archives.items():
        if stem in found:
            if len(found) > 1 and only != stem:
                raise errors.UsageError(
                    f"--data_dir={directory} has {stem} and parts of it: put one of"
                    " the two into a folder of its own"
                )
            parts = [stem]
        else:
            parts = _parts_in_order(found, directory)
        return [_readable_part(os.path.join(directory, name)) for name in parts]
    return []


def _is_folder_of_age(directory: str, name: str) -> bool:
    """Whether an entry next to the parts of an archive is a folder of an age."""
    return age_folders.is_age(name) and os.path.isdir(os.path.join(directory, name))


def _readable_part(path: str) -> str:
    """The path of a part of an archive, after a look whether it can be read.

    Raises:
      UsageError: It cannot be read.
      DataError: It is a pointer to a file that was not fetched.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(64)
    except OSError as error:
        raise errors.UsageError(f"cannot read {path}: {error.strerror}") from error
    if pointer := image_header.pointer_kind(start):
        raise errors.DataError(f"{path} is not a part of an archive but {pointer}")
    return path


def group_by_archive(names: Sequence[str]) -> dict[str, list[str]]:
    """The archives among the names of files, with the names of their parts.

    Args:
      names: File names, sorted.

    Returns:
      The files of each archive, by its name without the numbers of parts.
    """
    archives: dict[str, list[str]] = {}
    for name in names:
        if name.startswith("."):
            continue  # Such as ``._NAME``, which macOS adds.
        if match := _BEFORE.fullmatch(name):
            stem = match["stem"] + match["ending"]
        elif _WHOLE.fullmatch(name):
            stem = name
        elif match := _BEHIND.fullmatch(name):
            stem = match["stem"]
        else:
            continue
        archives.setdefault(stem, []).append(name)
    return archives


def _parts_in_order(names: Sequence[str], directory: str) -> list[str]:
    """The names of the parts of one archive in their order.

    Args:
      names: From `group_by_archive`.
      directory: Where they are, for the message.

    Raises:
      UsageError: A part is missing, or two have the same number.
    """
    by_number: dict[int, str] = {}
    for name in names:
        number = _part_number(name)
        if number in by_number:
            raise errors.UsageError(
                f"--data_dir={directory} holds {by_number[number]} and {name}, which"
                " are the same part: remove one of them"
            )
        by_number[number] = name
    # Parts in letters begin with aa, parts in digits with 0 or 1.
    first = by_number[min(by_number)]
    start = (
        1 if _part_number_match(first)["number"].isdigit() and 0 not in by_number else 0
    )
    for number in range(start, start + len(names)):
        if number not in by_number:
            raise errors.UsageError(
                f"--data_dir={directory} lacks the part {_part_name(number, first)} of"
                f" {_part_number_match(first)['stem']}: fetch it again"
            )
    return [by_number[number] for number in sorted(by_number)]


def _part_number_match(name: str) -> re.Match[str]:
    """Finds the number in the name of a part of an archive."""
    match = _BEFORE.fullmatch(name) or _BEHIND.fullmatch(name)
    if match is None:
        raise ValueError(name)  # The name does not come from `group_by_archive`.
    return match


def _part_number(name: str) -> int:
    """Position of a part of an archive: ``aa`` is 0, ``ab`` 1, ``ba`` 26."""
    text = _part_number_match(name)["number"].lower()
    if text.isdigit():
        return int(text)
    value = 0
    for letter in text:
        value = 26 * value + ord(letter) - ord("a")
    return value


def _part_name(number: int, like: str) -> str:
    """The name of the part at a position, in the form of another part's name."""
    match = _part_number_match(like)
    width = len(match["number"])
    if match["number"].isdigit():
        text = f"{number:0{width}d}"
    else:
        text = ""
        for _ in range(width):
            number, letter = divmod(number, 26)
            text = chr(ord("a") + letter) + text
    return like[: match.start("number")] + text + like[match.end("number") :]


class PartStream(io.RawIOBase):
    """The parts of an archive, one after the other, as one stream.

    Args:
      paths: The files.
      digest: A `hashlib` object to update with every byte that is read, or None.
    """

    def __init__(self, paths: Sequence[str], digest: hashlib._Hash | None) -> None:
        self._waiting = list(paths)[::-1]
        self._digest = digest
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        """True, as `io` asks of a stream; the parts are read in their order."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads the next bytes of the parts of an archive."""
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                self._file = open(self._waiting.pop(), "rb")
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                if self._digest is not None:
                    self._digest.update(memoryview(buffer)[:count])
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Closes the part of the archive that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


class SeekableParts(io.RawIOBase):
    """The parts of a ZIP archive as one file: the contents are listed at its end."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        sizes = [os.path.getsize(path) for path in paths]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._position = 0
        self._number = -1  # Of the part that is open.
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        """True: the parts of a ZIP archive are read as one file."""
        return True

    def seekable(self) -> bool:
        """True: a ZIP archive in parts is read from its end."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place in the parts of a ZIP archive."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
        self._position = offset + base.get(whence, self._starts[-1])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads bytes of the parts of a ZIP archive."""
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= len(self._paths):
            return 0
        if number != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._number, self._file = number, open(self._paths[number], "rb")
        self._file.seek(self._position - self._starts[number])
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._position += count
        return count

    def close(self) -> None:
        """Closes the part of the ZIP archive that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()
