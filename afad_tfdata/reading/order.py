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

That cipher's blocks have at least 16 bits, so that it walks for long where [0, n) is
small.  Balanced sampling permutes many small groups and uses a shuffle that needs no
walking: swap-or-not (Hoang, Morris, Rogaway: An Enciphering Scheme Based on a Card
Shuffle, CRYPTO 2012).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from afad_tfdata.common import splitmix64
from afad_tfdata.common.lazy import tf

ROUNDS = 8
# Of swap-or-not: enough that all permutations of four come up equally often.
_SWAP_ROUNDS = 48
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
          counters: int64 of any shape, 0 or more.

        Returns:
          int64 of that shape, in ``[0, num_examples)``.
        """
        counters = tf.convert_to_tensor(counters, tf.int64)
        flat = tf.reshape(counters, [-1])
        if self.groups:
            found = self._balanced(flat)
        else:
            epoch, place = _divide(flat, self.num_examples)
            found = _permute(place, self.num_examples, self.seed, _RECORDS, epoch)
        return tf.reshape(found, tf.shape(counters))

    def _balanced(self, counters: Any) -> Any:
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = _divide(counters, len(sizes))
        group = _swap_or_not(place, len(sizes), self.seed, _GROUPS, round_)
        size = tf.gather(sizes, group)
        # Each round visits each group once, so that the round counts its visits.
        epoch, place = _divide(round_, size)
        member = _swap_or_not(place, size, self.seed, group + _MEMBERS, epoch)
        # Outside of the function that is being traced: within, a long array would be
        # written out and read in again with its graph.
        with tf.init_scope():
            members = tf.constant(np.concatenate(self.groups))
        return tf.gather(members, tf.gather(starts, group) + member)


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
    first = _key(seed, stream, epoch)
    second = splitmix64.mix(first + splitmix64.word(splitmix64.GAMMA))
    words = (first, tf.bitwise.right_shift(first, tf.constant(32, tf.uint64)), second)
    return tf.stack([tf.cast(w & 0xFFFFFFFF, tf.uint32) for w in words], axis=-1)


def _key(seed: int, stream: Any, epoch: Any) -> Any:
    """uint64 ``[n]``, mixed from all of the arguments."""
    gamma = splitmix64.word(splitmix64.GAMMA)
    key = splitmix64.mix(splitmix64.word(seed) + gamma)
    stream = tf.cast(tf.convert_to_tensor(stream, tf.int64), tf.uint64)
    key = splitmix64.mix(key + stream * gamma)
    return splitmix64.mix(key + (tf.cast(epoch, tf.uint64) + 1) * gamma)


def _permute(place: Any, size: Any, seed: int, stream: Any, epoch: Any) -> Any:
    """Images of `place` under permutations of [0, size)."""
    return tf.raw_ops.RandomIndexShuffle(
        index=place,
        seed=permutation_keys(seed, stream, epoch),
        max_index=tf.convert_to_tensor(size, tf.int64) - 1,  # Inclusive.
        rounds=ROUNDS,
    )


def _swap_or_not(place: Any, size: Any, seed: int, stream: Any, epoch: Any) -> Any:
    """As `_permute`, for small sizes."""
    key = _key(seed, stream, epoch)
    gamma = splitmix64.word(splitmix64.GAMMA)
    size = tf.convert_to_tensor(size, tf.int64)

    def swap(i: Any, place: Any) -> Any:
        # Each round pairs the places up, and swaps a pair or not by a bit that both
        # of its members find.
        round_key = splitmix64.mix(key + tf.cast(i, tf.uint64) * gamma)
        half = tf.bitwise.right_shift(round_key, tf.constant(1, tf.uint64))
        partner = (tf.cast(half, tf.int64) - place) % size
        pair = tf.cast(tf.maximum(place, partner), tf.uint64)
        bit = splitmix64.mix(round_key + (pair + 1) * gamma) & 1
        return i + 1, tf.where(tf.equal(bit, 1), partner, place)

    start = (tf.constant(1, tf.int64), tf.convert_to_tensor(place, tf.int64))
    return tf.while_loop(
        lambda i, _: i <= _SWAP_ROUNDS, swap, start, parallel_iterations=1
    )[1]


def _divide(counters: Any, size: Any) -> tuple[Any, Any]:
    size = tf.convert_to_tensor(size, tf.int64)
    return counters // size, counters % size
