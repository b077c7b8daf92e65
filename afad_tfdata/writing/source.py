"""Where images come from: a tree filed as AGE/GENDER/IMAGE, and what a scan returns.

A scan lists every file once, in the order of the keys.  It opens no image, because the
names of the folders give the labels (`labels.scan` reads them from a file).  Files that
were never meant to be images (hidden files, ``Thumbs.db``, ``README*``, lists of
labels) are skipped and counted.  Every other file that cannot be used is rejected by
name.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from afad_tfdata.common import errors, options
from afad_tfdata.storage import sharding
from afad_tfdata.writing import tree_walk

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
# Reasons that several scans give.
NOT_AN_IMAGE = "not named .jpg, .jpeg, .jpe, .jfif or .png"
LISTED_LINK = "a link to a folder that is listed already"
MAX_AGE = 150  # Years; a larger number cannot be the age of a person.
_SKIPPED = re.compile(
    r"(thumbs\.db|desktop\.ini|readme.*|afad-.*\.txt)\Z", re.IGNORECASE | re.DOTALL
)
# What pandas and R read as a cell without a value, in lower case.
_NO_VALUE = frozenset(
    ("na", "nan", "-nan", "n/a", "<na>", "null", "none")
    + ("#n/a", "#n/a n/a", "#na", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)
_FRACTION = re.compile(r"[0-9]{1,9}\.[0-9]*[1-9][0-9]*")
_ZERO_FRACTION = re.compile(r"(?<=[0-9])\.0*\Z")
# Number of folders in a key: that of the age and, in it, that of the gender.
_FOLDERS = 2


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
    """What a scan found.

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
        """Number of all files: usable, rejected, left out and skipped."""
        used = len(self.items) + len(self.rejected) + len(self.left_out)
        return used + self.skipped


def with_face_keys(items: Iterable[Item]) -> list[Item]:
    """Gives each face of an image with several faces a key of its own.

    Args:
      items: Their keys are the paths of their images.

    Returns:
      The items, sorted by key.
    """
    listed = list(items)
    counts = collections.Counter(item.key for item in listed)
    for position, item in enumerate(listed):
        # A path that looks like such a key gets a box, too, so that it can be removed.
        several = counts[item.key] > 1 or sharding.image_path(item.key) != item.key
        if item.box is not None and several:
            key = sharding.face_key(item.key, item.box)
            listed[position] = item._replace(key=key)
    return sorted(listed)


def parse_gender_codes(text: str) -> dict[str, int]:
    """Parses ``111:male,112:female`` to ``{"111": 0, "112": 1}``.

    Labels are numbered in the order of the text; several codes may share a name.

    Raises:
      UsageError: The text is not of that form, does not name two classes, or a name
        would not be read back as a name.
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
    for name in names:
        _check_class_name(name)
    return codes


def _check_class_name(name: str) -> None:
    """Refuses a class name that tables and JSON files could not give back.

    Raises:
      UsageError: Programs read it as a cell without a value, or it is no Unicode text.
    """
    if name.lower() in _NO_VALUE:
        raise errors.UsageError(
            f"--gender_codes names a class {name!r}, which pandas and R read in a table"
            " of the labels as no value: give the class another name"
        )
    options.check_utf8(name, "--gender_codes")


def class_names(text: str) -> tuple[str, str]:
    """The two class names of a ``--gender_codes`` text, in label order."""
    parse_gender_codes(text)
    names = list(dict.fromkeys(p.partition(":")[2].strip() for p in text.split(",")))
    return names[0], names[1]


def scan_tree(
    root: str, gender_codes: dict[str, int], *, follow_links: bool = False
) -> Listing:
    """Lists a tree of ``AGE/GENDER/IMAGE``.

    The result does not depend on the order in which the file system names files.

    Args:
      root: The folder.
      gender_codes: From `parse_gender_codes`.
      follow_links: Whether to list the files in linked folders.  If not, each of these
        files is rejected.  No folder is listed twice, so that loops end.

    Raises:
      UsageError: The root is not a directory.
    """
    if not os.path.isdir(root):
        raise errors.UsageError(
            f"--data_dir={root} is not a directory: name the folder that contains"
            " AGE/GENDER/IMAGE"
        )
    listing = Listing(root, [], [], 0)

    def reject_unlisted(folder: str, error: OSError) -> None:
        rejection = Rejection(folder, f"cannot be listed: {error.strerror}")
        listing.rejected.append(rejection)
        if _may_have_images(folder, gender_codes):
            listing.unlisted.append(rejection)

    def reject_again(folder: str) -> None:
        reason = "in a linked folder, and listed already"
        listing.rejected.append(Rejection(folder, reason))

    walk = tree_walk.Walk(root, unlisted=reject_unlisted, again=reject_again)
    for entry, key in walk.below(""):
        _add_entry(listing, entry, key, gender_codes)
    while walk.links:
        key = walk.next_link()
        if not walk.is_new(key):
            listing.rejected.append(Rejection(key, LISTED_LINK))
        elif follow_links:
            for entry, inner in walk.below(key):
                _add_entry(listing, entry, inner, gender_codes)
        else:
            _reject_linked(listing, walk, key, gender_codes)
    listing.items.sort()
    listing.rejected.sort()
    return listing


def _add_entry(
    listing: Listing, entry: os.DirEntry, key: str, gender_codes: dict[str, int]
) -> None:
    """Adds a file of the tree to the listing."""
    try:
        size = entry.stat().st_size if entry.is_file() else None
    except OSError:  # The entry is, for example, a loop of links.
        size = None
    add_file(listing, key, gender_codes, size)


def _reject_linked(
    listing: Listing, walk: tree_walk.Walk, link: str, gender_codes: dict[str, int]
) -> None:
    """Rejects each file in a linked folder that is not followed."""
    count = 0
    # The link may lead to a whole disk, so only the depth of images is searched.
    for _, key in walk.below(link, depth=_FOLDERS):
        if not is_skipped(key):
            count += 1
            reason = "in a linked folder, which --follow_links would list"
            _reject(listing, Rejection(key, reason), gender_codes)
    if not count:
        reason = "a link to a folder: only --follow_links follows it"
        listing.rejected.append(Rejection(link, reason))


def _reject(
    listing: Listing, rejection: Rejection, gender_codes: dict[str, int]
) -> None:
    """Adds a rejected file, with its gender if the path contains it."""
    listing.rejected.append(rejection)
    parts = rejection.path.split("/")
    if len(parts) == _FOLDERS + 1:
        listing.lost.append((gender_codes.get(parts[1]), None))


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
    if is_skipped(key):
        listing.skipped += 1
        return
    item = _tree_item(key, gender_codes, num_bytes)
    if isinstance(item, Item):
        listing.items.append(item)
    else:
        _reject(listing, item, gender_codes)


def is_skipped(key: str) -> bool:
    """Whether a file's name says that it is not an image, or a folder is hidden."""
    if "/." in key or key.startswith((".", "__MACOSX/")) or "/__MACOSX/" in key:
        return True
    return _SKIPPED.match(key, key.rfind("/") + 1) is not None


def is_age(name: str) -> bool:
    """Whether a folder's name is an age."""
    return isinstance(_age(name), int)


def may_be_image(key: str, gender_codes: dict[str, int]) -> bool:
    """Whether a key is AGE/GENDER/IMAGE."""
    return isinstance(_tree_item(key, gender_codes, 0), Item)


def _may_have_images(folder: str, gender_codes: dict[str, int]) -> bool:
    """Whether a folder is named by an age, or by a gender in such a folder."""
    parts = folder.split("/")
    return (
        len(parts) <= _FOLDERS
        and isinstance(_age(parts[0]), int)
        and (len(parts) == 1 or parts[1] in gender_codes)
    )


def _tree_item(
    key: str, gender_codes: dict[str, int], num_bytes: int | None
) -> Item | Rejection:
    """The image that a path AGE/GENDER/IMAGE names, or why it names none."""
    if not key.lower().endswith(EXTENSIONS):
        return Rejection(key, NOT_AN_IMAGE)
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


@functools.lru_cache(4096)
def _age(text: str) -> int | str:
    """The age, or the reason why the text is not an age.

    The result is cached, because few texts occur for very many images.
    """
    if _FRACTION.fullmatch(text):
        return f"age {text[:20]!r} is not a whole number of years"
    # Programs that store ages as floating-point numbers write "25.0".
    text = _ZERO_FRACTION.sub("", text)
    # The length matters, because Python refuses to convert thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return f"age {text[:20]!r} is not a number"
    if int(text) > MAX_AGE:
        return f"age {text} is not the age of a person"
    return int(text)


def _gender_codes_error(text: str) -> errors.UsageError:
    """The error of a wrong ``--gender_codes``."""
    return errors.UsageError(
        "--gender_codes takes CODE:NAME pairs of two classes, such as"
        f" 111:male,112:female; got {text!r}"
    )
