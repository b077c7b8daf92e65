"""Where a record goes: names of shards, keys, splits and places.  Pure arithmetic.

Everything here is a function of the key and the seed and of nothing else, so that one
file more or less moves no other::

    key    = relative path with forward slashes            15/111/1032-0.jpg
    photo  = key's photo id, or the key itself             1032
    split  = hash(seed, "split", photo or key) against the fractions
    place  = hash(seed, "place", key), a 64-bit number: its share of 2**64 is the
             shard, and records lie in a shard in the order of it
"""

from __future__ import annotations

import hashlib
import re

SPLITS = ("train", "validation", "test")

_PHOTO = re.compile(r"(?:^|/)(\d+)-\d+\.[A-Za-z]+$")
_TWO_64 = 1 << 64


def photo_id(key: str) -> str | None:
    """The photo id of an AFAD path ``.../<photo>-<face>.jpg``; None for other names."""
    match = _PHOTO.search(key)
    return match.group(1) if match else None


def group_key(key: str, split_by: str) -> str:
    """What a split decision hangs on: the photo (where there is one) or the key."""
    photo = photo_id(key) if split_by == "photo" else None
    return key if photo is None else f"photo:{photo}"


def salted_hash(seed: int, salt: str, key: str) -> int:
    """A 64-bit hash of a key, independent for each seed and salt (BLAKE2b)."""
    digest = hashlib.blake2b(
        key.encode("utf-8", "surrogateescape"),
        digest_size=8,
        key=f"{salt}:{seed}".encode(),
    )
    return int.from_bytes(digest.digest(), "big")


def split_of(
    group: str, *, seed: int, test_fraction: float, validation_fraction: float
) -> str:
    """The split of a photo or key.

    Args:
      group: From `group_key`.
      seed: The data set's seed.
      test_fraction: Share of everything that goes to ``test``.
      validation_fraction: Share of what is left that goes to ``validation``.

    Returns:
      One of `SPLITS`.
    """
    share = salted_hash(seed, "split", group) / _TWO_64
    if share < test_fraction:
        return "test"
    if share < test_fraction + (1 - test_fraction) * validation_fraction:
        return "validation"
    return "train"


def place_of(key: str, *, seed: int) -> int:
    """A key's place in its split, uniform in [0, 2**64)."""
    return salted_hash(seed, "place", key)


def shard_of(place: int, num_shards: int) -> int:
    """The shard that a place falls into: equal ranges of [0, 2**64), in order."""
    return place * num_shards >> 64


def shard_name(name: str, split: str, shard: int, num_shards: int, format: str) -> str:
    """File name of a shard.

    Args:
      name: The data set's name, ``afad``.
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
