"""Which image a path in a label file names, whoever wrote the path and on which system.

The key of an image is its path relative to the root, with forward slashes.  A label
file may have it like that, with backslashes, with ``./`` in front, or absolute: below
the root, below another name of it, or on the machine that wrote the file.
"""

from __future__ import annotations

import ntpath
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence

# Longer names are refused by every file system, and `os.stat` would raise.
_MAX_LENGTH = 4096


class ImagePaths:
    """Turns the paths of a label file into keys.

    Args:
      root: Directory that the keys are relative to.
      encoding: Encoding of the label file, to find names whose bytes are not UTF-8.
    """

    def __init__(self, root: str, encoding: str = "utf-8") -> None:
        self._root = os.path.abspath(root)
        self._real = os.path.realpath(root)
        self._encoding = encoding
        # What precedes the keys in absolute paths of another machine; None until a
        # path has shown it.
        self._foreign: str | None = None

    def find(self, text: str) -> tuple[str, os.stat_result] | str:
        """The key that a path in a label file means, and the status of its file.

        Args:
          text: The cell.

        Returns:
          The key and the file's status; or, as a text, why there is no such image.
        """
        text = text.strip()
        if not text or "\0" in text or len(text) > _MAX_LENGTH:
            return "is not a path"
        reason = "no such file"
        for key in self._candidates(text):
            if key.startswith("/") or ".." in key.split("/") or not key:
                reason = "not a path below --data_dir"
                continue
            try:
                about = os.stat(f"{self._root}/{key}")
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                continue
            if not os.path.isfile(f"{self._root}/{key}"):
                reason = "a folder, not a file"
                continue
            return key, about
        return reason

    def _candidates(self, text: str) -> Iterator[str]:
        """Keys that a path in a label file may mean, the most literal first."""
        for spelt in self._spellings(text):
            yield from self._below_root(spelt)
            # A file name may contain a backslash, so the name as it is comes first.
            if "\\" in spelt:
                yield from self._below_root(spelt.replace("\\", "/"))

    def _spellings(self, text: str) -> Iterator[str]:
        """Ways in which a file system may spell a path in a label file."""
        yield text
        # Another system may store accented letters in the other Unicode form.
        for form in ("NFC", "NFD"):
            if not text.isascii() and unicodedata.normalize(form, text) != text:
                yield unicodedata.normalize(form, text)
        if not text.isascii() and not self._encoding.startswith("utf"):
            yield os.fsdecode(text.encode(self._encoding))

    def _below_root(self, path: str) -> Iterator[str]:
        """The paths below the root that a path in a label file may mean."""
        path = _plain_path(path.removeprefix("file://"))
        if not is_absolute(path):
            yield path
            return
        for root in dict.fromkeys((self._root, self._real)):
            start = root.rstrip("/") + "/"
            if path.startswith(start):
                yield path[len(start) :]
                return
        real = os.path.realpath(path)
        if real.startswith(self._real.rstrip("/") + "/") and os.path.exists(real):
            yield real[len(self._real.rstrip("/")) + 1 :]
            return
        yield from self._of_another_machine(path)
        yield path  # It is refused, with a reason.

    def _of_another_machine(self, path: str) -> Iterator[str]:
        """Ends of an absolute path in a label file, of which one may be a key.

        The first path that is found decides what all paths have in front of the key, so
        that two paths never mean the same image.
        """
        if os.path.exists(path):
            return  # It is a file of this machine, which is not below the root.
        if self._foreign is not None:
            if path.startswith(self._foreign):
                yield path[len(self._foreign) :]
            return
        for start, letter in enumerate(path):
            if letter == "/" and os.path.isfile(f"{self._root}/{path[start + 1 :]}"):
                self._foreign = path[: start + 1]
                yield path[start + 1 :]
                return


def _plain_path(path: str) -> str:
    """A path without ``//`` and ``/./``: one image must have one key."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def is_absolute(path: str) -> bool:
    """Whether a path in a label file begins at a root, a drive or a server."""
    if path.startswith("/"):
        return True
    drive, rest = ntpath.splitdrive(path)
    return bool(drive) and rest[:1] in ("/", "\\")


def common_root(paths: Sequence[str]) -> str | None:
    """The deepest folder that contains all images of a label file with absolute paths.

    Args:
      paths: The cells of the column.

    Returns:
      None if a path is relative, or if no file exists.
    """
    cleaned = [path.strip() for path in paths if path.strip()]
    if not cleaned or not all(path.startswith("/") for path in cleaned):
        return None
    folders = {posixpath.dirname(posixpath.normpath(path)) for path in cleaned}
    if not any(os.path.isfile(path) for path in cleaned):
        return None
    return posixpath.commonpath(folders)
