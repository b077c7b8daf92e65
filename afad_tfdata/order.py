"""The order of examples: a function of (seed, epoch, position) and of nothing else.

The stream of training examples is one endless counter::

    c      = step * global_batch_size + position in the global batch
    epoch  = c // n
    record = permutation of [0, n) under (seed, epoch), at c % n

Nothing is remembered between batches.  A stream starts at any step by starting to
count there, any number of readers count their own share, and a batch that straddles
two epochs drops nothing.

The permutation is a block cipher over the record numbers (Simon, walked until it falls
inside [0, n)), TensorFlow's ``RandomIndexShuffle``.  Its four default rounds leave
epochs visibly alike at the size of this data set (correlations of 0.4 to 0.6); eight
leave none that can be told from chance.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from afad_tfdata._lazy import tf

ROUNDS = 8
# Increment and multipliers of SplitMix64 (Steele, Lea, Flood: Fast Splittable
# Pseudorandom Number Generators, OOPSLA 2014; the variant of S. Vigna).
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
# Streams of keys, so that what is drawn for one purpose tells nothing of another.
_RECORDS, _GROUPS, _MEMBERS = 0, 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which record stands at which position of the endless stream.

    Attributes:
      num_examples: Records in the split, 1 or more.
      seed: Any 64-bit integer.
      groups: For balanced sampling: int64 arrays of record numbers, none empty.  Every
        ``len(groups)`` positions hold each group once, in an order of their own, and
        each group's members follow one another in permutations of their own.  Empty
        for the plain order.
    """

    num_examples: int
    seed: int
    groups: tuple[np.ndarray, ...] = ()

    def records(self, counters: Any) -> Any:
        """Record numbers of positions in the stream.

        Args:
          counters: int64 ``[n]``, 0 or more.

        Returns:
          int64 ``[n]`` in ``[0, num_examples)``.
        """
        counters = tf.convert_to_tensor(counters, tf.int64)
        if self.groups:
            return self._balanced(counters)
        epoch, place = _divide(counters, self.num_examples)
        return _permute(place, self.num_examples, self.seed, _RECORDS, epoch)

    def _balanced(self, counters: Any) -> Any:
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = _divide(counters, len(sizes))
        group = _permute(place, len(sizes), self.seed, _GROUPS, round_)
        size = tf.gather(sizes, group)
        # Each round visits each group once, so that the round counts its visits.
        epoch, place = _divide(round_, size)
        member = _permute(place, size, self.seed, group + _MEMBERS, epoch)
        return tf.gather(np.concatenate(self.groups), tf.gather(starts, group) + member)


def groups_of(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Record numbers by label value, in ascending order of both.

    Args:
      labels: Integers ``[n]``.
    """
    values = np.unique(labels)
    return tuple(np.flatnonzero(labels == v).astype(np.int64) for v in values)


def permutation(size: int, seed: int, stream: int, epoch: Any) -> Any:
    """A whole permutation: int64 ``[size]``.

    Args:
      size: 1 or more.
      seed: Any 64-bit integer.
      stream: What it is for; negative numbers are free for others than this module.
      epoch: int64 ``[]``.
    """
    epochs = tf.fill([size], tf.cast(epoch, tf.int64))
    return _permute(tf.range(size, dtype=tf.int64), size, seed, stream, epochs)


def permutation_keys(seed: int, stream: Any, epoch: Any) -> Any:
    """Keys of permutations: uint32 ``[n, 3]``, mixed from all of the arguments.

    Args:
      seed: Any 64-bit integer.
      stream: int64 ``[]`` or ``[n]``: what the permutation is for.
      epoch: int64 ``[n]``.
    """
    gamma = tf.constant(_GAMMA, tf.uint64)
    key = _mix(tf.constant(seed & 0xFFFFFFFFFFFFFFFF, tf.uint64) + gamma)
    stream = tf.cast(tf.convert_to_tensor(stream, tf.int64), tf.uint64)
    key = _mix(key + stream * gamma)
    first = _mix(key + (tf.cast(epoch, tf.uint64) + 1) * gamma)
    second = _mix(first + gamma)
    words = (first, tf.bitwise.right_shift(first, tf.constant(32, tf.uint64)), second)
    return tf.stack([tf.cast(w & 0xFFFFFFFF, tf.uint32) for w in words], axis=-1)


def _permute(place: Any, size: Any, seed: int, stream: Any, epoch: Any) -> Any:
    """Images of `place` under permutations of [0, size)."""
    return tf.raw_ops.RandomIndexShuffle(
        index=place,
        seed=permutation_keys(seed, stream, epoch),
        max_index=tf.convert_to_tensor(size, tf.int64) - 1,  # Inclusive.
        rounds=ROUNDS,
    )


def _divide(counters: Any, size: Any) -> tuple[Any, Any]:
    size = tf.convert_to_tensor(size, tf.int64)
    return counters // size, counters % size


def _mix(value: Any) -> Any:
    """SplitMix64's finaliser: every bit of the result hangs on every bit of `value`."""
    for shift, factor in _MIX:
        value ^= tf.bitwise.right_shift(value, tf.constant(shift, tf.uint64))
        value *= tf.constant(factor, tf.uint64)
    return value ^ tf.bitwise.right_shift(value, tf.constant(31, tf.uint64))
