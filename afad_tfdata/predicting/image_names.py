"""The images to predict: what the files, folders and patterns of a caller name."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable

from afad_tfdata.common import errors, files

_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# Images that are not read.  In a folder, each gets a line that says so, and is not left
# out without a word.
_OTHER_IMAGES = (
    *(".gif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".jxl"),
)


def expand_names(paths: Iterable[str], lines: Iterable[str] | None = None) -> list[str]:
    """The images to predict, in the order given; folders and globs are sorted.

    Args:
      paths: Files, folders, globs, or ``-``.  A file that is named is used whatever
        its name ends in.  A remote path names one file.
      lines: Read instead of ``-``, one path per line; default: standard input.

    Raises:
      UsageError: Nothing is named, or a folder or glob contains no image.
    """
    names: list[str] = []
    for path in map(files.local_path, paths):
        if path == "-":
            stream = sys.stdin if lines is None else lines
            names += [n for line in stream if (n := line.strip())]
        elif os.path.isdir(path):
            names += _images_below(path)
        elif files.is_remote(path):
            names.append(path)  # A "?" or "*" in it belongs to the name.
        # A file that exists may have a "[" or "*" in its name.
        elif glob.has_magic(path) and not os.path.exists(path):
            found = sorted(glob.glob(path, recursive=True))
            if not found:
                raise errors.UsageError(f"no file matches {path}")
            for name in found:
                names += _images_below(name) if os.path.isdir(name) else [name]
        else:
            names.append(path)
    if not names:
        raise errors.UsageError(
            "no image is named: give files, folders, globs, or - for names on standard"
            " input"
        )
    return names


def _images_below(directory: str) -> list[str]:
    """Paths of the images in a folder and its folders, those behind links included.

    Args:
      directory: The folder.

    Returns:
      Sorted by folder and name: images, also of formats that are not read, and folders
      that cannot be listed, so that each of them gets an error of its own.

    Raises:
      UsageError: There is none.
    """
    names: list[str] = []
    listed: set[str] = set()

    def keep(error: OSError) -> None:
        names.append(os.fsdecode(error.filename))  # Opening it fails, by its name.

    for folder, folders, found in os.walk(directory, onerror=keep, followlinks=True):
        if (real := os.path.realpath(folder)) in listed:
            folders.clear()  # A link leads back here.
            continue
        listed.add(real)
        # In place: os.walk then skips hidden folders and goes in this order.
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        names += [
            os.path.join(folder, name)
            for name in sorted(found)
            if name.lower().endswith(_EXTENSIONS + _OTHER_IMAGES)
            and not name.startswith(".")
        ]
    if not names:
        raise errors.UsageError(
            f"{directory} and its folders contain no {', '.join(_EXTENSIONS)} file"
        )
    return names
