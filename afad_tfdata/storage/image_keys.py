"""Keys of images, and what they say: the image of a face, the photo, the group.

image_keys.photo_id("15/111/1032-0.jpg")               # "1032"
image_keys.group_key("15/111/1032-0.jpg", "photo")     # "photo:1032"
image_keys.image_path("photos/7.jpg#10,20,110,140")    # "photos/7.jpg"
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Sequence

_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"
_BOX = re.compile(rf"#{_NUMBER}(?:,{_NUMBER}){{3}}\Z", re.ASCII)
_PHOTO = re.compile(r"(?:^|/)(\d+)-\d+\.[A-Za-z]+$")
# In the result of `untrusted_photos` this means every photo id.
EVERY_PHOTO = "*"
# Limit of the mean, over all faces, of the number of faces in the same photo.  In AFAD
# the mean is below 2.
_MEAN_FACES = 5
# A photo may have 8 faces in the smallest data set, 100 in the largest, and 5 % of the
# images in between.
_FEW_FACES, _MANY_FACES, _LARGEST_SHARE = 8, 100, 20


def face_key(path: str, box: Sequence[float]) -> str:
    """The key of one of several faces of an image: ``photos/7.jpg#10,20,110,140``.

    Args:
      path: Of the image, relative to the root.
      box: ``x1, y1, x2, y2`` in pixels.
    """
    return f"{path}#{','.join(format(value, '.10g') for value in box)}"


def image_path(key: str) -> str:
    """The path of the image that a key belongs to: the key without its box."""
    return _BOX.sub("", key)


def photo_id(key: str) -> str | None:
    """The photo id of an AFAD path ``.../<photo>-<face>.jpg``; None for other names."""
    match = _PHOTO.search(image_path(key))
    return match.group(1) if match else None


def group_key(
    key: str,
    split_by: str,
    untrusted: Collection[str] = (),
    group: str | None = None,
) -> str:
    """What a key is grouped by: the group, the photo (if the key has one) or the key.

    Args:
      key: Path relative to the root.
      split_by: ``photo``, ``image`` or ``group``.  With ``group``, an image without a
        group belongs to its photo.
      untrusted: From `untrusted_photos`.
      group: What the image belongs to; None or empty if unknown.
    """
    if split_by == "group" and group:
        return f"group:{group}"
    photo = None if split_by == "image" else photo_id(key)
    if photo is None or photo in untrusted or EVERY_PHOTO in untrusted:
        return image_path(key)  # All faces of an image belong together.
    return f"photo:{photo}"


def untrusted_photos(
    photos: Sequence[str | None], labels: Sequence[Sequence[object]]
) -> tuple[str, ...]:
    """Numbers in keys that look like photo ids but are not.

    Too many images share such a number, or its images are exactly those of a label.

    ``22-001.jpg``, ``22-002.jpg``, ... look like faces of one photo, but the number may
    be an age, a date or a person.  As a group they would put all faces of an age into
    one split.  Of AFAD's photos, one in a hundred has two faces or more.

    Args:
      photos: `photo_id` of each image.
      labels: Columns of labels, such as the ages and the genders of the images.

    Returns:
      The numbers, sorted; only `EVERY_PHOTO` if no number can be trusted.
    """
    sizes = collections.Counter(photo for photo in photos if photo is not None)
    if not sizes:
        return ()
    # The mean over images of the size of their group, not the mean over groups.
    mean = sum(size * size for size in sizes.values()) / sum(sizes.values())
    if mean > _MEAN_FACES or any(_are_labels(photos, column) for column in labels):
        return (EVERY_PHOTO,)
    largest = min(max(len(photos) // _LARGEST_SHARE, _FEW_FACES), _MANY_FACES)
    return tuple(sorted(photo for photo, size in sizes.items() if size > largest))


def _are_labels(photos: Sequence[str | None], labels: Sequence[object]) -> bool:
    """Whether the photo ids are labels: the images of a label are one photo, mostly.

    A label counts only if it has two images or more.  In AFAD the result is False: only
    a rare age may consist of one photo.
    """
    sizes = collections.Counter(labels)
    pairs = set(zip(labels, photos, strict=True))
    groups = collections.Counter(label for label, _ in pairs)
    without_id = {label for label, photo in pairs if photo is None}
    tied = sum(
        size
        for label, size in sizes.items()
        if size > 1 and groups[label] == 1 and label not in without_id
    )
    return 2 * tied > len(photos)
