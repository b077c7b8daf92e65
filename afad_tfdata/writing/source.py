"""What a scan of the source returns: its images, and the files that are not used.

There are three scans: `age_folders.scan` of a tree, `archive_members.scan` of an
archive, and `label_scan` of a label file or a published data set.  A scan lists every
file once, in the order of the keys, and opens no image.  Files that were never meant to
be images (hidden files, ``Thumbs.db``, ``README*``, lists of labels) are skipped and
counted.  Every other file that cannot be used is rejected by name.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable
from typing import NamedTuple

from afad_tfdata.storage import image_keys

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# Reasons that several scans give.
NOT_AN_IMAGE = "not named .jpg, .jpeg, .jpe, .jfif or .png"
LISTED_LINK = "a link to a folder that is listed already"
MAX_AGE = 150  # Years; a larger number cannot be the age of a person.
_SKIPPED = re.compile(
    r"(thumbs\.db|desktop\.ini|readme.*|afad-.*\.txt)\Z", re.IGNORECASE | re.DOTALL
)


class Item(NamedTuple):
    """One image of the source.

    Attributes:
      key: Path relative to the root, with forward slashes.
      age: Years; -1 for an image without this label.
      gender: 0 or 1; -1 for an image without this label.
      num_bytes: Size of the file.
      split: From a label file or a protocol; None if a hash decides the split.
      group: What all images of one person, photo or video share; None if unknown.
      box: ``x1, y1, x2, y2`` of the face in pixels of the upright image; None for the
        whole image.
    """

    key: str
    age: int
    gender: int
    num_bytes: int
    split: str | None = None
    group: str | None = None
    box: tuple[float, float, float, float] | None = None


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
    """What a scan of the source found.

    Attributes:
      root: Directory that the keys are relative to.
      items: Images that may be usable, sorted by key.
      rejected: Files that cannot be used, sorted by path.
      lost: Gender and split of the rejected files; each is None if it is not known.
      unlisted: Folders that should contain images and cannot be listed.
      skipped: Number of files whose names say that they are not images; the manifest
        calls it ``passed_over``.
      parts: Files of the archive that contains the images; empty for a folder.
      prefix: What precedes every key in the archive.
      first_fault: The first row of a label file that cannot be used: file, row, column
        and reason; empty if there is none.
      left_out: Files that could be read and are not wanted, sorted by path; a limit on
        unusable files does not count them.
    """

    root: str
    items: list[Item]
    rejected: list[Rejection]
    skipped: int
    parts: tuple[str, ...] = ()
    prefix: str = ""
    lost: list[tuple[int | None, str | None]] = dataclasses.field(default_factory=list)
    unlisted: list[Rejection] = dataclasses.field(default_factory=list)
    first_fault: str = ""
    left_out: list[Rejection] = dataclasses.field(default_factory=list)

    @property
    def found(self) -> int:
        """Number of all files of the source: usable, rejected, left out and skipped."""
        used = len(self.items) + len(self.rejected) + len(self.left_out)
        return used + self.skipped


def with_face_keys(items: Iterable[Item]) -> list[Item]:
    """Gives each face of an image of the source with several faces its own key.

    Args:
      items: Their keys are the paths of their images.

    Returns:
      The items, sorted by key.
    """
    listed = list(items)
    counts = collections.Counter(item.key for item in listed)
    for position, item in enumerate(listed):
        # A path that looks like such a key gets a box, too, so that it can be removed.
        several = counts[item.key] > 1 or image_keys.image_path(item.key) != item.key
        if item.box is not None and several:
            key = image_keys.face_key(item.key, item.box)
            listed[position] = item._replace(key=key)
    return sorted(listed)


def is_skipped(key: str) -> bool:
    """Whether a file of the source is hidden, or its name says that it is no image."""
    if "/." in key or key.startswith((".", "__MACOSX/")) or "/__MACOSX/" in key:
        return True
    return _SKIPPED.match(key, key.rfind("/") + 1) is not None
