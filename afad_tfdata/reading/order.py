"""The order of examples: a function of (seed, epoch, position) and of nothing else.

The stream of training examples is one endless sequence of positions::

    position = step * global_batch_size + position in the global batch
    epoch    = position // n
    record   = permutation of [0, n) under (seed, epoch), at position % n

Nothing is remembered between batches.  A stream can therefore start at any step, takes
no memory, and mixes the whole split.  Any number of readers can each compute their own
share of the positions.  A batch that spans two epochs drops nothing.

The permutation is a block cipher over the record numbers: TensorFlow's
``RandomIndexShuffle``.  The cipher is Simon (Beaulieu et al., "The SIMON and SPECK
Families of Lightweight Block Ciphers", 2013, section 3) over words of 8 bits or more,
applied again until the result is inside [0, n).  With its default of four rounds, the
orders of different epochs are visibly alike at the size of this data set (correlations
of 0.4 to 0.6); with eight rounds, they cannot be told from chance.

The blocks of the cipher have at least 16 bits, so that for a small n it has to be
applied very often.  Balanced sampling permutes many small groups, and therefore uses a
shuffle that fits any n: swap-or-not (Hoang, Morris, Rogaway: An Enciphering Scheme
Based on a Card Shuffle, CRYPTO 2012).

Numpy computes the same numbers for programs that do not use TensorFlow, and for the
first batches of a pipeline.

The order for a seed is an interface, because a training that one version started can
be continued by another.  Every constant here is part of that interface.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common import errors, splitmix64
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import function_tracing, record_index, replica_batches

# Fewer rounds leave correlations between epochs; see above.
ROUNDS = 8
# With this many rounds, swap-or-not gives all permutations of four equally often.
_SWAP_ROUNDS = 48
# Each purpose has its own stream of keys, so that the draws for one say nothing about
# those for another.  The members of group g use the stream `_MEMBERS` + g, so that
# `_MEMBERS` must be the largest of these numbers.
_RECORDS, _GROUPS, _MEMBERS = 0, 1, 2
# The two constants of Simon's key schedule.  The second is not extended to words of
# more than 32 bits.
_SIMON_SEQUENCE, _SIMON_CONSTANT = 0x7369F885192C0EF5, 0xFFFFFFFC
_SMALLEST_BLOCK = 16
# Below this size, few of the 65,536 results of the smallest block are in range.
_TABLE_BELOW = 1 << 14
# For so few places, following a list place by place is faster than operations on
# arrays, which get shorter and shorter.
_LIST_BELOW = 2048
# How many positions are looked up together.  The number is large enough that the cost
# of calling the operations is negligible, and small enough that a batch does not wait.
_LOOKED_UP = 8192
# How many are looked up before the pipeline is built, which waits for them.
_LOOKED_UP_FIRST = 1024
# For fewer records, TensorFlow's operation is faster, although it is prepared first:
# numpy takes long for the many epochs of a small split.
_TENSORFLOW_BELOW = 2048
# Larger than the number of any batch, and so small that sums do not overflow.
_ENDLESS = 1 << 62


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
            found = self._balanced_records(flat)
        else:
            epoch, place = _epoch_and_place(flat, self.num_examples)
            found = _permute(place, self.num_examples, self.seed, _RECORDS, epoch)
        found = tf.reshape(found, tf.shape(positions))
        # The reshape loses the static shape, which batches take from this tensor.
        return tf.ensure_shape(found, positions.shape)

    def records_by_numpy(self, positions: np.ndarray) -> np.ndarray:
        """Computes `records` by numpy, for programs that do not use TensorFlow.

        Args:
          positions: int64 ``[n]``, 0 or more.

        Returns:
          int64 ``[n]``.
        """
        if not self.groups:
            epoch, place = np.divmod(positions, self.num_examples)
            return _permute_by_numpy(
                place, self.num_examples, self.seed, _RECORDS, epoch
            )
        # This is the computation of `_balanced_records`, in numpy.
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = np.divmod(positions, len(sizes))
        group = _swap_or_not_by_numpy(place, len(sizes), self.seed, _GROUPS, round_)
        epoch, place = np.divmod(round_, sizes[group])
        member = _swap_or_not_by_numpy(
            place, sizes[group], self.seed, group + _MEMBERS, epoch
        )
        return np.concatenate(self.groups)[starts[group] + member]

    def _balanced_records(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns the record numbers at positions of the balanced stream."""
        sizes = np.array([len(group) for group in self.groups], np.int64)
        starts = np.cumsum(sizes) - sizes
        round_, place = _epoch_and_place(positions, len(sizes))
        group = _swap_or_not(place, len(sizes), self.seed, _GROUPS, round_)
        size = tf.gather(sizes, group)
        # Each round visits each group once, so the number of the round is also the
        # number of earlier visits to any group.
        epoch, place = _epoch_and_place(round_, size)
        member = _swap_or_not(place, size, self.seed, group + _MEMBERS, epoch)
        # The constant is made outside the function that is being traced.  Inside it, a
        # long array would be serialized and parsed with each data set's graph.
        with tf.init_scope():
            members = tf.constant(np.concatenate(self.groups))
        return tf.gather(members, tf.gather(starts, group) + member)


def of_training(index: record_index.RecordIndex, seed: int, balance: str) -> Order:
    """Returns the order in which a split's records appear in training.

    Args:
      index: The split's records.
      seed: As `InputConfig.seed`.
      balance: As `InputConfig.balance`.

    Raises:
      UsageError: The records do not have the label that `balance` names.
    """
    if balance == "none":
        return Order(len(index), seed)
    if balance not in index.labels:
        raise errors.UsageError(
            f"--balance={balance} needs that label, which the data set lacks"
        )
    return Order(len(index), seed, groups_by_label(index.entries[balance]))


def groups_by_label(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Groups record numbers by label, for an order that draws all labels equally.

    Args:
      labels: Integers ``[n]``.
    """
    values = np.unique(labels)
    return tuple(np.flatnonzero(labels == v).astype(np.int64) for v in values)


def stream_batches(
    shuffle: Order,
    slices: replica_batches.ReplicaBatches,
    start_step: int,
    announce: Callable[[np.ndarray], None] | None = None,
) -> tf.data.Dataset:
    """Returns an order as the endless stream of a pipeline's batches of record numbers.

    Args:
      shuffle: Says which record is at which position.
      slices: Says which positions are this pipeline's.
      start_step: First global step.
      announce: Called with the first batches of record numbers, int64
        ``[n, per_replica_batch_size]``, before the stream is built, if possible.

    Returns:
      A data set of elements int64 ``[per_replica_batch_size]``.
    """
    first = start_step * slices.num_local_replicas
    later = max(1, _LOOKED_UP // slices.per_replica_batch_size)
    if not tf.executing_eagerly():
        # While a graph is being built, nothing can be computed or kept.
        return _later_numbers(shuffle, slices, first, later)
    # Starting the stream takes longer than reading a batch.  The first batches are
    # therefore looked up here, and the stream starts when they are used up.
    many = max(1, _LOOKED_UP_FIRST // slices.per_replica_batch_size)
    found = _stream_part(_first_numbers, shuffle, slices, first, many)
    if announce is not None:
        announce(found)
    rest = _stream_part(_later_numbers, shuffle, slices, first + many, later)
    return tf.data.Dataset.from_tensor_slices(found).concatenate(rest)


def _first_numbers(
    shuffle: Order, slices: replica_batches.ReplicaBatches, first: int, many: int
) -> np.ndarray:
    """Computes the first record numbers of an order without waiting for TensorFlow.

    Returns:
      int64 ``[many, per_replica_batch_size]``.
    """
    positions = slices.numpy_positions(first + np.arange(many))
    if shuffle.num_examples < _TENSORFLOW_BELOW and not shuffle.groups:
        return shuffle.records(tf.constant(positions)).numpy()
    # TensorFlow would first prepare each of its fifty operations.
    return shuffle.records_by_numpy(positions.reshape(-1)).reshape(positions.shape)


def _later_numbers(
    shuffle: Order, slices: replica_batches.ReplicaBatches, first: int, many: int
) -> tf.data.Dataset:
    """Returns the record numbers of an order from a batch on, `many` batches at once.

    Each call of an operation costs microseconds, for one batch as for many, and a batch
    must take only a few hundred.
    """

    def look_up(batch: tf.Tensor) -> tf.Tensor:
        """Looks up the record numbers of several batches."""
        batches = batch + tf.range(many, dtype=tf.int64)
        return shuffle.records(slices.positions(batches))

    # This map turns numbers of batches into numbers of records.
    numbers = tf.data.Dataset.range(first, _ENDLESS, many)
    # The range never ends, but `repeat` tells tf.data that the stream is infinite.
    return numbers.repeat().map(function_tracing.without_autograph(look_up)).unbatch()


def _stream_part(
    function: Callable[..., Any],
    shuffle: Order,
    slices: replica_batches.ReplicaBatches,
    first: int,
    many: int,
) -> Any:
    """Makes a part of the stream of an order, or takes the one that was kept."""
    if shuffle.groups:
        # The cache's key cannot contain the members of groups.
        return function(shuffle, slices, first, many)
    return _kept_stream_part(
        function, shuffle.num_examples, shuffle.seed, slices, first, many
    )


# Cached, because tracing the stream takes most of the time of a second pipeline.
@functools.lru_cache(32)
def _kept_stream_part(
    function: Callable[..., Any],
    num_examples: int,
    seed: int,
    slices: replica_batches.ReplicaBatches,
    first: int,
    many: int,
) -> Any:
    """Makes a part of the stream of an order, by values that a cache can compare."""
    return function(Order(num_examples, seed), slices, first, many)


def permutation(size: int, seed: int, stream: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns a whole permutation of [0, size) for an epoch: int64 ``[size]``.

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
    first = _mixed_keys(seed, stream, epoch)
    second = splitmix64.mix(first + splitmix64.word(splitmix64.GAMMA))
    # RandomIndexShuffle takes three words; the third must not repeat the first two.
    words = (first, tf.bitwise.right_shift(first, tf.constant(32, tf.uint64)), second)
    return tf.stack([tf.cast(w & 0xFFFFFFFF, tf.uint32) for w in words], axis=-1)


def _mixed_keys(seed: int, stream: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Mixes seed, stream and epoch to keys of an order's permutations: uint64."""
    gamma = splitmix64.word(splitmix64.GAMMA)
    if isinstance(stream, int):
        # Fewer operations, which a process prepares when it first calls them.
        key = splitmix64.word(_stream_key(seed, stream))
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
    key = _mixed_keys(seed, stream, epoch)
    gamma = splitmix64.word(splitmix64.GAMMA)
    size = tf.convert_to_tensor(size, tf.int64)

    def swap(i: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs a round of swap-or-not, which swaps about half of the places."""
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


def _epoch_and_place(
    positions: tf.Tensor, size: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Divides positions of the stream into epoch and place in the epoch."""
    size = tf.convert_to_tensor(size, tf.int64)
    return positions // size, positions % size


def _permute_by_numpy(
    place: np.ndarray, size: int, seed: int, stream: int, epoch: np.ndarray
) -> np.ndarray:
    """Computes by numpy where permutations of [0, size) move each place.

    Args:
      place: int64 ``[n]``.
      size: 1 or more.
      seed: Any 64-bit integer.
      stream: What the permutation is for.
      epoch: int64 ``[n]``.

    Returns:
      int64 ``[n]``.
    """
    moved = np.empty(len(place), np.int64)
    for one in np.unique(epoch):
        here = epoch == one
        first = int(_mixed_keys_by_numpy(seed, stream, np.array([one]))[0])
        second = splitmix64.mix_integer(first + splitmix64.GAMMA)
        words = [first & 0xFFFFFFFF, first >> 32, second & 0xFFFFFFFF]
        moved[here] = _encrypt_places(place[here], words, size - 1)
    return moved


def _swap_or_not_by_numpy(
    place: np.ndarray,
    size: np.ndarray | int,
    seed: int,
    stream: np.ndarray | int,
    epoch: np.ndarray,
) -> np.ndarray:
    """Permutes like `_permute_by_numpy`, for small sizes, by swap-or-not."""
    start = _mixed_keys_by_numpy(seed, stream, epoch)
    gamma = np.uint64(splitmix64.GAMMA)
    place = np.array(place, np.int64)
    for number in range(1, _SWAP_ROUNDS + 1):
        round_key = splitmix64.mix_by_numpy(
            start + np.uint64(number * splitmix64.GAMMA & splitmix64.ALL_BITS)
        )
        partner = ((round_key >> np.uint64(1)).astype(np.int64) - place) % size
        pair = np.maximum(place, partner).astype(np.uint64)
        bit = splitmix64.mix_by_numpy(
            round_key + (pair + np.uint64(1)) * gamma
        ) & np.uint64(1)
        place = np.where(bit == 1, partner, place)
    return place


def _stream_key(seed: int, stream: int) -> int:
    """Returns the part of a permutation's key that is the same in all epochs."""
    mixed = splitmix64.mix_integer(seed + splitmix64.GAMMA)
    return splitmix64.mix_integer(mixed + stream * splitmix64.GAMMA)


def _mixed_keys_by_numpy(
    seed: int, stream: np.ndarray | int, epoch: np.ndarray
) -> np.ndarray:
    """Computes keys of permutations by numpy: uint64 ``[n]``."""
    gamma = np.uint64(splitmix64.GAMMA)
    mixed = np.uint64(splitmix64.mix_integer(seed + splitmix64.GAMMA))
    streams = np.atleast_1d(np.asarray(stream, np.int64)).astype(np.uint64)
    epochs = np.asarray(epoch, np.int64).astype(np.uint64)
    return splitmix64.mix_by_numpy(
        splitmix64.mix_by_numpy(mixed + streams * gamma)
        + (epochs + np.uint64(1)) * gamma
    )


def _encrypt_places(place: np.ndarray, words: list[int], largest: int) -> np.ndarray:
    """Permutes places by the block cipher Simon, as ``RandomIndexShuffle`` does."""
    bits = math.ceil(math.log2(largest)) if largest else 0
    width = max(bits + bits % 2, _SMALLEST_BLOCK) // 2
    # Short words are faster, and few data sets need long ones.
    kind = np.uint32 if width <= 16 else np.uint64
    keys = [kind(k) for k in _cipher_round_keys(words, width)]
    half, mask = kind(width), kind((1 << width) - 1)

    def rotated(x: np.ndarray, by: int) -> np.ndarray:
        """Rotates words of the cipher to the left."""
        return (x << kind(by) | x >> kind(width - by)) & mask

    def mixed(x: np.ndarray) -> np.ndarray:
        """Mixes half a block, as each round of Simon does."""
        return rotated(x, 1) & rotated(x, 8) ^ rotated(x, 2)

    def encrypted(values: np.ndarray) -> np.ndarray:
        """Encrypts blocks by all rounds of Simon."""
        left, right = values >> half & mask, values & mask
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = left ^ mixed(right) ^ first
            right = right ^ mixed(left) ^ second
        return left << half | right

    step, values = encrypted, place.astype(kind)
    if largest < _TABLE_BELOW:
        # The cipher may be applied up to 65,536 times to a place.  A table makes each
        # time one operation.
        table = encrypted(np.arange(1 << _SMALLEST_BLOCK, dtype=kind))
        if largest < _LIST_BELOW:
            places, inverse = np.unique(place, return_inverse=True)
            follow = table.tolist()
            return np.array(
                [_follow_table(follow, first, largest) for first in places.tolist()],
                np.int64,
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


def _follow_table(table: list[int], value: int, largest: int) -> int:
    """Applies the order's permutation in a table until the number is a record's."""
    value = table[value]
    while value > largest:
        value = table[value]
    return value


def _cipher_round_keys(words: list[int], width: int) -> list[int]:
    """Returns the keys of Simon's rounds, from the words of a permutation's key."""
    mask = (1 << width) - 1

    def rotated(x: int, by: int) -> int:
        """Rotates a word of the cipher's key to the right."""
        return (x >> by | x << (width - by)) & mask

    keys, sequence = [word & mask for word in words], _SIMON_SEQUENCE & mask
    while len(keys) < ROUNDS:
        last = rotated(keys[-1], 3) ^ rotated(keys[-1], 4)
        keys.append(_SIMON_CONSTANT & mask ^ sequence & 1 ^ keys[-3] ^ last)
        sequence >>= 1
    return keys
