"""Where a record goes: names of shards, keys, splits and places.  Pure arithmetic.

Everything here depends only on the key and the seed, so that adding or removing a file
does not move any other file::

    key    = relative path with forward slashes            15/111/1032-0.jpg
    photo  = key's photo id, or the key itself             1032
    split  = hash(seed, "split", photo or key) against the fractions
    place  = hash(seed, "place", key), a 64-bit number: place / 2**64 decides the
             shard, and a shard's records are in ascending order of their places
"""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")

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
# A float64: the rounding of a 64-bit hash moves a share by 2**-53 at most.
_TWO_64 = 2.0**64


def face_key(path: str, box: Sequence[float]) -> str:
    """The key of one of several faces of an image: ``photos/7.jpg#10,20,110,140``.

    Args:
      path: Of the image, relative to the root.
      box: ``x1, y1, x2, y2`` in pixels.
    """
    return f"{path}#{','.join(format(value, '.10g') for value in box)}"


def image_path(key: str) -> str:
    """The path of the image that a key belongs to: the key without its `face_key`."""
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
    """What decides the split: the group, the photo (if the key has one) or the key.

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
    """Numbers in names that look like photo ids but are not.

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
    """Whether, for most images, the images with their label are exactly one photo.

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


def salted_hashes(seed: int, salt: str, keys: Iterable[str]) -> np.ndarray:
    """64-bit hashes of keys, independent for each seed and salt (BLAKE2b).

    Args:
      seed: The data set's seed.
      salt: What the hash is for.
      keys: Paths as the file system has them, decoded by `os.fsdecode`.

    Returns:
      uint64 ``[n]``.
    """
    # Setting up the keyed hash is half of the work, so it is done once and then copied.
    start = hashlib.blake2b(digest_size=8, key=f"{salt}:{seed}".encode())
    digests = bytearray()
    for key in keys:
        digest = start.copy()
        digest.update(key.encode("utf-8", "surrogateescape"))
        digests += digest.digest()
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def splits_of(
    groups: Iterable[str],
    *,
    seed: int,
    test_fraction: float,
    validation_fraction: float,
) -> np.ndarray:
    """The splits of photos or keys.

    Args:
      groups: From `group_key`.
      seed: The data set's seed.
      test_fraction: Share of everything that goes to ``test``.
      validation_fraction: Share of what is left that goes to ``validation``.

    Returns:
      uint8 ``[n]``: positions in `SPLITS`.
    """
    share = salted_hashes(seed, "split", groups) / _TWO_64
    not_train = test_fraction + (1 - test_fraction) * validation_fraction
    train, validation, test = range(3)
    return np.where(
        share < test_fraction, test, np.where(share < not_train, validation, train)
    ).astype(np.uint8)


def folds_of(groups: Iterable[str], *, seed: int, num_folds: int) -> np.ndarray:
    """The parts of k-fold cross-validation: uint64 ``[n]``, from 0.

    Args:
      groups: From `group_key`; equal ones get the same part.
      seed: That of the training.
      num_folds: Number of parts.
    """
    return shards_of(salted_hashes(seed, "fold", groups), num_folds)


def places_of(keys: Iterable[str], *, seed: int) -> np.ndarray:
    """Places of keys in their splits: uint64 ``[n]``, uniform in [0, 2**64)."""
    return salted_hashes(seed, "place", keys)


def shards_of(places: np.ndarray, num_shards: int) -> np.ndarray:
    """The shards that places fall into: equal ranges of [0, 2**64), in order.

    Args:
      places: uint64 ``[n]``.
      num_shards: Up to 65,535.

    Returns:
      uint64 ``[n]``: ``place * num_shards >> 64``.
    """
    # The product has up to 80 bits, so each half of the place is multiplied separately.
    half = np.uint64(32)
    high, low = places >> half, places & np.uint64(0xFFFFFFFF)
    count = np.uint64(num_shards)
    return high * count + (low * count >> half) >> half


def shard_name(name: str, split: str, shard: int, num_shards: int, format: str) -> str:
    """File name of a shard.

    Args:
      name: The data set's name, such as ``afad``.
      split: One of `SPLITS`.
      shard: From 0.
      num_shards: How many the split has.
      format: ``tfrecord`` or ``hdf5``.
    """
    part = f"{shard:05d}-of-{num_shards:05d}"
    if format == "hdf5":
        return f"{name}-{split}-{part}.h5"
    return f"{name}-{split}.tfrecord-{part}"


def index_name(name: str, split: str) -> str:
    """File name of a split's index."""
    return f"{name}-{split}.index.npy"
