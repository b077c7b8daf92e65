"""Computes the same record numbers as `order`, by numpy and without TensorFlow.

``RandomIndexShuffle`` is the block cipher Simon (Beaulieu et al., "The SIMON and SPECK
Families of Lightweight Block Ciphers", 2013, section 3) over words of 8 bits or more,
applied again until the result is in range.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from afad_tfdata.common import splitmix64

_ALL_BITS = (1 << 64) - 1
# The two constants of Simon's key schedule.  The second is not extended to words of
# more than 32 bits.
_SEQUENCE, _CONSTANT = 0x7369F885192C0EF5, 0xFFFFFFFC
_SMALLEST_BLOCK = 16
# Below this size, few of the 65,536 results of the smallest block are in range.
_RARE = 1 << 14
# For so few places, following a list place by place is faster than arrays, which get
# shorter and shorter.
_FEW = 2048


def permute(
    place: np.ndarray, size: int, seed: int, stream: int, epoch: np.ndarray, rounds: int
) -> np.ndarray:
    """Returns where permutations of [0, size) move each place.

    Args:
      place: int64 ``[n]``.
      size: 1 or more.
      seed: Any 64-bit integer.
      stream: What the permutation is for.
      epoch: int64 ``[n]``.
      rounds: Rounds of the cipher.

    Returns:
      int64 ``[n]``.
    """
    moved = np.empty(len(place), np.int64)
    for one in np.unique(epoch):
        here = epoch == one
        first = int(key(seed, stream, np.array([one]))[0])
        second = _mix_integer(first + splitmix64.GAMMA)
        words = [first & 0xFFFFFFFF, first >> 32, second & 0xFFFFFFFF]
        moved[here] = _encrypt(place[here], words, size - 1, rounds)
    return moved


def swap_or_not(
    place: np.ndarray,
    size: np.ndarray | int,
    seed: int,
    stream: np.ndarray | int,
    epoch: np.ndarray,
    rounds: int,
) -> np.ndarray:
    """Permutes like `permute`, for small sizes; each place may have its own size."""
    start = key(seed, stream, epoch)
    gamma = np.uint64(splitmix64.GAMMA)
    place = np.array(place, np.int64)
    for number in range(1, rounds + 1):
        round_key = _mix(start + np.uint64(number * splitmix64.GAMMA & _ALL_BITS))
        partner = ((round_key >> np.uint64(1)).astype(np.int64) - place) % size
        pair = np.maximum(place, partner).astype(np.uint64)
        bit = _mix(round_key + (pair + np.uint64(1)) * gamma) & np.uint64(1)
        place = np.where(bit == 1, partner, place)
    return place


def stream_key(seed: int, stream: int) -> int:
    """Returns the part of `key` that does not depend on the epoch."""
    mixed = _mix_integer(seed + splitmix64.GAMMA)
    return _mix_integer(mixed + stream * splitmix64.GAMMA)


def key(seed: int, stream: np.ndarray | int, epoch: np.ndarray) -> np.ndarray:
    """Returns the keys of permutations: uint64 ``[n]``, mixed from all arguments."""
    gamma = np.uint64(splitmix64.GAMMA)
    mixed = np.uint64(_mix_integer(seed + splitmix64.GAMMA))
    streams = np.atleast_1d(np.asarray(stream, np.int64)).astype(np.uint64)
    epochs = np.asarray(epoch, np.int64).astype(np.uint64)
    return _mix(_mix(mixed + streams * gamma) + (epochs + np.uint64(1)) * gamma)


def _mix_integer(value: int) -> int:
    """SplitMix64's mixer for one integer."""
    return int(_mix(np.array([value & _ALL_BITS], np.uint64))[0])


def _mix(value: np.ndarray) -> np.ndarray:
    """Computes `splitmix64.mix`; numpy's arrays wrap around without a warning."""
    for shift, factor in splitmix64.ROUNDS:
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(splitmix64.LAST_SHIFT))


def _encrypt(
    place: np.ndarray, words: list[int], largest: int, rounds: int
) -> np.ndarray:
    """The block cipher that permutes record numbers."""
    bits = math.ceil(math.log2(largest)) if largest else 0
    width = max(bits + bits % 2, _SMALLEST_BLOCK) // 2
    # Short words are faster, and few data sets need long ones.
    kind = np.uint32 if width <= 16 else np.uint64
    keys = [kind(k) for k in _round_keys(words, width, rounds)]
    half, mask = kind(width), kind((1 << width) - 1)

    def rotated(x: np.ndarray, by: int) -> np.ndarray:
        return (x << kind(by) | x >> kind(width - by)) & mask

    def mixed(x: np.ndarray) -> np.ndarray:
        return rotated(x, 1) & rotated(x, 8) ^ rotated(x, 2)

    def encrypted(values: np.ndarray) -> np.ndarray:
        left, right = values >> half & mask, values & mask
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = left ^ mixed(right) ^ first
            right = right ^ mixed(left) ^ second
        return left << half | right

    step, values = encrypted, place.astype(kind)
    if largest < _RARE:
        # The cipher may be applied up to 65,536 times to a place.  A table makes each
        # time one operation.
        table = encrypted(np.arange(1 << _SMALLEST_BLOCK, dtype=kind))
        if largest < _FEW:
            places, inverse = np.unique(place, return_inverse=True)
            follow = table.tolist()
            return np.array(
                [_follow(follow, first, largest) for first in places.tolist()], np.int64
            )[inverse]
        # numpy takes signed integers as indices.
        step, values = functools.partial(np.take, table.astype(np.int64)), place
    found = values.copy()
    todo = np.arange(len(values))
    while len(todo):
        values = step(values)
        done = values <= kind(largest)
        found[todo[done]] = values[done]
        todo, values = todo[~done], values[~done]
    return found.astype(np.int64)


def _follow(table: list[int], value: int, largest: int) -> int:
    """Applies a permutation again until the number is a record's."""
    value = table[value]
    while value > largest:
        value = table[value]
    return value


def _round_keys(words: list[int], width: int, rounds: int) -> list[int]:
    """Keys for the rounds of the block cipher."""
    mask = (1 << width) - 1

    def rotated(x: int, by: int) -> int:
        return (x >> by | x << (width - by)) & mask

    keys, sequence = [word & mask for word in words], _SEQUENCE & mask
    while len(keys) < rounds:
        last = rotated(keys[-1], 3) ^ rotated(keys[-1], 4)
        keys.append(_CONSTANT & mask ^ sequence & 1 ^ keys[-3] ^ last)
        sequence >>= 1
    return keys
