"""The order of examples: a function of (seed, epoch, position) and of nothing else.

The stream of training examples is one endless sequence of positions::

    position = step * global_batch_size + position in the global batch
    epoch    = position // n
    record   = permutation of [0, n) under (seed, epoch), at position % n

Nothing is remembered between batches.  A stream can therefore start at any step.  Any
number of readers can each compute their own share of the positions.  A batch that spans
two epochs drops nothing.

The permutation is a block cipher over the record numbers (Simon, applied again until
the result is inside [0, n)): TensorFlow's ``RandomIndexShuffle``.  With its default of
four rounds, the orders of different epochs are visibly alike at the size of this data
set (correlations of 0.4 to 0.6); with eight rounds, they cannot be told from chance.

The blocks of that cipher have at least 16 bits.  For a small n, it would have to be
applied very often.  Balanced sampling permutes many small groups, and therefore uses a
shuffle that fits any n: swap-or-not (Hoang, Morris, Rogaway: An Enciphering Scheme
Based on a Card Shuffle, CRYPTO 2012).

The order for a seed is an interface, because a training that one version started can
be continued by another.  Every constant here is part of that interface.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afad_tfdata.common import splitmix64
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import order_numpy

# Fewer rounds leave correlations between epochs; see above.
ROUNDS = 8
# With this many rounds, swap-or-not gives all permutations of four equally often.
_SWAP_ROUNDS = 48
# Each purpose has its own stream of keys, so that the draws for one say nothing about
# those for another.  The members of group g use the stream `_MEMBERS` + g, so that
# `_MEMBERS` must be the largest of these numbers.
_RECORDS, _GROUPS, _MEMBERS = 0, 1, 2


# Compared by identity: dataclass equality would compare arrays, and comparing two
# arrays gives an array, which is neither true nor false.
@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which record is at which position of the endless stream.

    Attributes:
      num_examples: Records in the split, 1 or more.
      seed: Any 64-bit integer.
      groups: For balanced sampling: int64 arrays of record numbers, none empty.  Every
        ``len(groups)`` positions contain one record of each group, in an order that is
        drawn for these positions.  Each group's records appear in one permutation
        after another.  Empty for the plain order.
    """

    num_examples: int
    seed: int
    groups: tuple[np.ndarray, ...] = ()

    def records(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns the record numbers at positions of the stream.

        Args:
          positions: int64 of any shape, 0 or more.

        Returns:
          int64 of that shape, in ``[0, num_examples)``.
        """
        positions = tf.convert_to_tensor(positions, tf.int64)
        flat = tf.reshape(positions, [-1])
        if self.groups:
            found = self._balanced(flat)
        else:
            epoch, place = _divide(flat, self.num_examples)
            found = _permute(place, self.num_examples, self.seed, _RECORDS, epoch)
        found = tf.reshape(found, tf.shape(positions))
        # The reshape loses the static shape, which batches take from this tensor.
        return tf.ensure_shape(found, positions.shape)

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Computes `records` by numpy, for programs that do not use TensorFlow.

        Args:
          positions: int64 ``[n]``, 0 or more.

        Returns:
          int64 ``[n]``.
        """
        if not self.groups:
            epoch, place = np.divmod(positions, self.num_examples)
            return order_numpy.permute(
                place, self.num_examples, self.seed, _RECORDS, epoch, ROUNDS
            )
        # This is the computation of `_balanced`, in numpy.
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = np.divmod(positions, len(sizes))
        group = order_numpy.swap_or_not(
            place, len(sizes), self.seed, _GROUPS, round_, _SWAP_ROUNDS
        )
        epoch, place = np.divmod(round_, sizes[group])
        member = order_numpy.swap_or_not(
            place, sizes[group], self.seed, group + _MEMBERS, epoch, _SWAP_ROUNDS
        )
        return np.concatenate(self.groups)[starts[group] + member]

    def _balanced(self, positions: tf.Tensor) -> tf.Tensor:
        """Record numbers at positions of the balanced stream."""
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = _divide(positions, len(sizes))
        group = _swap_or_not(place, len(sizes), self.seed, _GROUPS, round_)
        size = tf.gather(sizes, group)
        # Each round visits each group once, so the number of the round is also the
        # number of earlier visits to any group.
        epoch, place = _divide(round_, size)
        member = _swap_or_not(place, size, self.seed, group + _MEMBERS, epoch)
        # The constant is made outside the function that is being traced.  Inside it, a
        # long array would be serialized and parsed with each data set's graph.
        with tf.init_scope():
            members = tf.constant(np.concatenate(self.groups))
        return tf.gather(members, tf.gather(starts, group) + member)


def groups_of(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Groups record numbers by label value; both are in ascending order.

    Args:
      labels: Integers ``[n]``.
    """
    values = np.unique(labels)
    return tuple(np.flatnonzero(labels == v).astype(np.int64) for v in values)


def permutation(size: int, seed: int, stream: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns a whole permutation: int64 ``[size]``.

    Args:
      size: 1 or more.
      seed: Any 64-bit integer.
      stream: What the permutation is for; negative numbers are free for other modules.
      epoch: int64 ``[]``.
    """
    epochs = tf.fill([size], tf.cast(epoch, tf.int64))
    return _permute(tf.range(size, dtype=tf.int64), size, seed, stream, epochs)


def permutation_keys(seed: int, stream: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Returns keys of permutations: uint32 ``[n, 3]``, mixed from all arguments.

    Args:
      seed: Any 64-bit integer.
      stream: int64 ``[]`` or ``[n]``: what the permutation is for.
      epoch: int64 ``[n]``.
    """
    first = _key(seed, stream, epoch)
    second = splitmix64.mix(first + splitmix64.word(splitmix64.GAMMA))
    # RandomIndexShuffle takes three words; the third must not repeat the first two.
    words = (first, tf.bitwise.right_shift(first, tf.constant(32, tf.uint64)), second)
    return tf.stack([tf.cast(w & 0xFFFFFFFF, tf.uint32) for w in words], axis=-1)


def _key(seed: int, stream: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Returns uint64 ``[n]``, mixed from all of the arguments."""
    gamma = splitmix64.word(splitmix64.GAMMA)
    if isinstance(stream, int):
        # Fewer operations, which a process prepares when it first calls them.
        key = splitmix64.word(order_numpy.stream_key(seed, stream))
    else:
        key = splitmix64.mix(splitmix64.word(seed) + gamma)
        stream = tf.cast(tf.convert_to_tensor(stream, tf.int64), tf.uint64)
        key = splitmix64.mix(key + stream * gamma)
    return splitmix64.mix(key + (tf.cast(epoch, tf.uint64) + 1) * gamma)


def _permute(
    place: tf.Tensor, size: int, seed: int, stream: int, epoch: tf.Tensor
) -> tf.Tensor:
    """Returns where permutations of [0, size) move each `place`: int64 ``[n]``."""
    return tf.raw_ops.RandomIndexShuffle(
        index=place,
        seed=permutation_keys(seed, stream, epoch),
        max_index=tf.convert_to_tensor(size, tf.int64) - 1,  # Inclusive.
        rounds=ROUNDS,
    )


def _swap_or_not(
    place: tf.Tensor,
    size: int | tf.Tensor,
    seed: int,
    stream: int | tf.Tensor,
    epoch: tf.Tensor,
) -> tf.Tensor:
    """Permutes like `_permute`, for small sizes; each place may have its own size."""
    key = _key(seed, stream, epoch)
    gamma = splitmix64.word(splitmix64.GAMMA)
    size = tf.convert_to_tensor(size, tf.int64)

    def swap(i: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Each round pairs the places.  Both places of a pair compute the same bit,
        # which says whether they are swapped.
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


def _divide(positions: tf.Tensor, size: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Quotient and remainder."""
    size = tf.convert_to_tensor(size, tf.int64)
    return positions // size, positions % size
