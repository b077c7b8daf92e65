"""The images to predict: what the files, folders and patterns of a caller name."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable

from afad_tfdata.common import errors, files
from afad_tfdata.writing import tree_walk

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

    Real folders are read before linked ones, so that an image that can be reached by
    both has its real name.

    Args:
      directory: The folder.

    Returns:
      Sorted by folder and name: images, also of formats that are not read, folders that
      cannot be listed, and links to folders that contain the folder, so that each of
      them gets an error of its own.

    Raises:
      UsageError: There is none.
    """
    keys: list[str] = []

    def keep(folder: str, _: OSError) -> None:
        """Keeps a folder that cannot be listed: opening it fails, by its name."""
        keys.append(f"{folder}/")

    def ignore(_: str) -> None:
        """Ignores a second name of a folder, whose images are predicted already."""

    walk = tree_walk.TreeWalk(directory, unlisted=keep, again=ignore, hidden=False)
    try:
        keys += [key for _, key in walk.below("") if _is_image(key)]
    except errors.UsageError:
        return [directory]  # It cannot be listed: opening it fails, by its name.
    while walk.links:
        link = walk.next_link()
        if not walk.is_new(link):
            continue
        if tree_walk.leads_up(os.path.join(directory, link), directory):
            keys.append(f"{link}/")
        else:
            keys += [key for _, key in walk.below(link) if _is_image(key)]
    if not keys:
        raise errors.UsageError(
            f"{directory} and its folders contain no {', '.join(_EXTENSIONS)} file"
        )
    # The images of a folder come before those of the folders in it.
    keys.sort(key=_folder_and_name)
    return [os.path.join(directory, key.rstrip("/")) for key in keys]


def _folder_and_name(key: str) -> tuple[list[str], str]:
    """What the images in a folder are sorted by."""
    folder, _, name = key.rpartition("/")
    return ([part for part in folder.split("/") if part], name)


def _is_image(key: str) -> bool:
    """Whether a file in a folder is an image, perhaps of a format that is not read."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and name.lower().endswith(
        _EXTENSIONS + _OTHER_IMAGES
    )
