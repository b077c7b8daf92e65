"""Lists a tree of folders of ages, in which images are filed as AGE/GENDER/IMAGE.

The names of the folders give the labels, so that no image is opened.  `archive_members`
lists the files of an archive by the same rules.
"""

from __future__ import annotations

import functools
import os
import re

from afad_tfdata.common import errors
from afad_tfdata.writing import source, tree_walk

_FRACTION = re.compile(r"[0-9]{1,9}\.[0-9]*[1-9][0-9]*")
_ZERO_FRACTION = re.compile(r"(?<=[0-9])\.0*\Z")
# Number of folders in a key: that of the age and, in it, that of the gender.
_FOLDERS = 2


def scan(
    root: str, gender_codes: dict[str, int], *, follow_links: bool = False
) -> source.Listing:
    """Lists the images of a tree of folders AGE/GENDER/IMAGE, with their labels.

    The result does not depend on the order in which the file system names files.

    Args:
      root: The folder.
      gender_codes: From `gender_codes.parse`.
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
    listing = source.Listing(root, [], [], 0)

    def reject_unlisted(folder: str, error: OSError) -> None:
        """Rejects a folder of the tree that cannot be listed."""
        rejection = source.Rejection(folder, f"cannot be listed: {error.strerror}")
        listing.rejected.append(rejection)
        if _may_have_images(folder, gender_codes):
            listing.unlisted.append(rejection)

    def reject_again(folder: str) -> None:
        """Rejects a folder inside a linked one that is listed already."""
        reason = "in a linked folder, and listed already"
        listing.rejected.append(source.Rejection(folder, reason))

    walk = tree_walk.TreeWalk(root, unlisted=reject_unlisted, again=reject_again)
    for entry, key in walk.below(""):
        _add_entry(listing, entry, key, gender_codes)
    while walk.links:
        key = walk.next_link()
        if not walk.is_new(key):
            listing.rejected.append(source.Rejection(key, source.LISTED_LINK))
        elif follow_links:
            for entry, inner in walk.below(key):
                _add_entry(listing, entry, inner, gender_codes)
        else:
            _reject_linked(listing, walk, key, gender_codes)
    listing.items.sort()
    listing.rejected.sort()
    return listing


def _add_entry(
    listing: source.Listing, entry: os.DirEntry, key: str, gender_codes: dict[str, int]
) -> None:
    """Adds a file of the tree of AGE/GENDER/IMAGE to the listing."""
    try:
        size = entry.stat().st_size if entry.is_file() else None
    except OSError:  # The entry is, for example, a loop of links.
        size = None
    add_file(listing, key, gender_codes, size)


def _reject_linked(
    listing: source.Listing,
    walk: tree_walk.TreeWalk,
    link: str,
    gender_codes: dict[str, int],
) -> None:
    """Rejects each file in a linked folder of the tree that is not followed."""
    count = 0
    # The link may lead to a whole disk, so only the depth of images is searched.
    for _, key in walk.below(link, depth=_FOLDERS):
        if not source.is_skipped(key):
            count += 1
            reason = "in a linked folder, which --follow_links would list"
            _add_rejected(listing, source.Rejection(key, reason), gender_codes)
    if not count:
        reason = "a link to a folder: only --follow_links follows it"
        listing.rejected.append(source.Rejection(link, reason))


def _add_rejected(
    listing: source.Listing, rejection: source.Rejection, gender_codes: dict[str, int]
) -> None:
    """Adds a rejected file of the tree, with its gender if its path contains it."""
    listing.rejected.append(rejection)
    parts = rejection.path.split("/")
    if len(parts) == _FOLDERS + 1:
        listing.lost.append((gender_codes.get(parts[1]), None))


def add_file(
    listing: source.Listing,
    key: str,
    gender_codes: dict[str, int],
    num_bytes: int | None,
) -> None:
    """Adds a file filed as AGE/GENDER/IMAGE to the listing; others are rejected.

    Args:
      listing: The listing so far.
      key: Path below the root.
      gender_codes: From `gender_codes.parse`.
      num_bytes: Size of the file; None if the name does not lead to a file.
    """
    if source.is_skipped(key):
        listing.skipped += 1
        return
    item = _item_of_key(key, gender_codes, num_bytes)
    if isinstance(item, source.Item):
        listing.items.append(item)
    else:
        _add_rejected(listing, item, gender_codes)


def is_age(name: str) -> bool:
    """Whether the name of a folder is an age."""
    return isinstance(_age_of_name(name), int)


def may_be_image(key: str, gender_codes: dict[str, int]) -> bool:
    """Whether a key is filed as AGE/GENDER/IMAGE."""
    return isinstance(_item_of_key(key, gender_codes, 0), source.Item)


def _may_have_images(folder: str, gender_codes: dict[str, int]) -> bool:
    """Whether a folder is AGE or AGE/GENDER, so that images may be in it."""
    parts = folder.split("/")
    return (
        len(parts) <= _FOLDERS
        and isinstance(_age_of_name(parts[0]), int)
        and (len(parts) == 1 or parts[1] in gender_codes)
    )


def _item_of_key(
    key: str, gender_codes: dict[str, int], num_bytes: int | None
) -> source.Item | source.Rejection:
    """The image that a path AGE/GENDER/IMAGE names, or why it names none."""
    if not key.lower().endswith(source.EXTENSIONS):
        return source.Rejection(key, source.NOT_AN_IMAGE)
    parts = key.split("/")
    if len(parts) != 3:
        return source.Rejection(key, "not filed as AGE/GENDER/IMAGE")
    age = _age_of_name(parts[0])
    if isinstance(age, str):
        return source.Rejection(key, age)
    if parts[1] not in gender_codes:
        return source.Rejection(
            key, f"folder {parts[1]!r} is not one of --gender_codes"
        )
    if num_bytes is None:
        return source.Rejection(key, "not a file: a broken link or a device")
    return source.Item(key, age, gender_codes[parts[1]], num_bytes)


@functools.lru_cache(4096)
def _age_of_name(text: str) -> int | str:
    """The age that the name of a folder says, or why it says none.

    The result is cached, because few texts occur for very many images.
    """
    if _FRACTION.fullmatch(text):
        return f"age {text[:20]!r} is not a whole number of years"
    # Programs that store ages as floating-point numbers write "25.0".
    text = _ZERO_FRACTION.sub("", text)
    # The length matters, because Python refuses to convert thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return f"age {text[:20]!r} is not a number"
    if int(text) > source.MAX_AGE:
        return f"age {text} is not the age of a person"
    return int(text)
