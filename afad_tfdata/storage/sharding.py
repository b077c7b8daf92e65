"""Where a record goes: its split, its place and its shard, by hashes of its key.

Everything here depends only on the key and the seed, so that adding or removing a file
does not move any other file::

    key    = relative path with forward slashes            15/111/1032-0.jpg
    photo  = key's photo id, or the key itself             1032
    split  = hash(seed, "split", photo or key) against the fractions
    place  = hash(seed, "place", key), a 64-bit number: place / 2**64 decides the
             shard, and a shard's records are in ascending order of their places
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")

# A float64: the rounding of a 64-bit hash moves a share by 2**-53 at most.
_TWO_64 = 2.0**64


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
    """The splits that hashes of groups give to photos or keys.

    Args:
      groups: From `image_keys.group_key`.
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
    """The folds of k-fold cross-validation that hashes of groups give: uint64 ``[n]``.

    Args:
      groups: From `image_keys.group_key`; equal ones get the same part.
      seed: That of the training.
      num_folds: Number of parts.
    """
    return shards_of(salted_hashes(seed, "fold", groups), num_folds)


def places_of(keys: Iterable[str], *, seed: int) -> np.ndarray:
    """The places of keys in their splits: uint64 ``[n]``, uniform in [0, 2**64)."""
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
