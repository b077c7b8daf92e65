"""Walks through a tree of files: through each folder once, and links on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from afad_tfdata.common import errors


class TreeWalk:
    """Walks through a tree, once through each folder.

    Args:
      root: The tree.
      unlisted: Called with the key of a folder that cannot be listed, and the error.
      again: Called with the key of a folder in a linked folder that is listed already.
      hidden: Whether to walk through folders whose names begin with a dot.

    Attributes:
      links: Keys of the links to folders that are not followed yet.
    """

    def __init__(
        self,
        root: str,
        *,
        unlisted: Callable[[str, OSError], None],
        again: Callable[[str], None],
        hidden: bool = True,
    ) -> None:
        self.links: set[str] = set()
        self._root, self._unlisted, self._again = root, unlisted, again
        self._hidden = hidden
        self._seen: set[tuple[int, int]] = set()

    def is_new(self, key: str) -> bool:
        """Whether a folder of the tree has not been listed under another name."""
        return self._identity(key) not in self._seen

    def next_link(self) -> str:
        """Takes the first link by name, because file systems list in any order.

        The caller follows links after all real folders.  Which of two names of a folder
        is listed then does not depend on the file system either.
        """
        key = min(self.links)
        self.links.remove(key)
        return key

    def below(
        self, start: str, *, depth: int | None = None
    ) -> Iterator[tuple[os.DirEntry, str]]:
        """Yields every file below a folder of the tree with its key, in a fixed order.

        Args:
          start: Key of the folder; empty for the root.
          depth: The most folders in the keys; None for any number.

        Raises:
          UsageError: The root cannot be listed.
        """
        # A list replaces recursion: folders may be nested deeper than Python recurses.
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            # If the link leads to a folder above, this folder is listed already.
            if start and folder != start and not self.is_new(folder):
                self._again(folder)
                continue
            self._seen.add(self._identity(folder))
            for entry in self._entries(folder):
                key = f"{folder}/{entry.name}" if folder else entry.name
                entered = self._hidden or not entry.name.startswith(".")
                if entry.is_dir(follow_symlinks=False):
                    if entered and (depth is None or key.count("/") < depth):
                        waiting.append(key)
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    if entered:
                        self.links.add(key)
                else:
                    yield entry, key

    def _entries(self, folder: str) -> list[os.DirEntry]:
        """The entries of a folder of the tree, sorted by name."""
        try:
            found = os.scandir(os.path.join(self._root, folder))
            return sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise errors.UsageError(
                    f"cannot list {self._root}: {error.strerror}"
                ) from error
            self._unlisted(folder, error)
            return []

    def _identity(self, key: str) -> tuple[int, int]:
        """Device and inode of a folder, which are the same by every path to it."""
        try:
            about = os.stat(os.path.join(self._root, key))
        except OSError:  # `_entries` cannot list it either, and reports that.
            return (-1, hash(key))
        return about.st_dev, about.st_ino


def leads_up(link: str, root: str = "") -> bool:
    """Whether a link is to a folder that contains the link's own, or the root.

    Following it would leave the tree, perhaps for the whole disk.

    Args:
      link: Path of the link.
      root: The tree; empty if only the link's own folder matters.
    """
    target = os.path.realpath(link)
    own = os.path.dirname(link) or "."
    inner = (os.path.realpath(path) for path in (own, root or own))
    return any(os.path.commonpath([target, path]) == target for path in inner)
