"""Streams the record numbers of a pipeline's training batches.

The shuffle is a permutation that is computed position by position.  It mixes the whole
split, takes no memory, and can begin at any step without computing earlier ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import function_tracing, order, order_numpy, replica_batches

# How many positions are looked up together.  The number is large enough that the cost
# of calling the operations is negligible, and small enough that the first batch comes
# at once.
_LOOKED_UP = 8192
# Larger than the number of any batch, and so small that sums do not overflow.
_ENDLESS = 1 << 62


def of_batches(
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    start_step: int,
    announce: Callable[[tf.Tensor], None] | None = None,
) -> tf.data.Dataset:
    """Returns the endless stream of a pipeline's batches of record numbers.

    Args:
      shuffle: Says which record is at which position.
      slices: Says which positions are this pipeline's.
      start_step: First global step.
      announce: Called with the first batch of record numbers, if it is known already.

    Returns:
      A data set of elements int64 ``[per_replica_batch_size]``.
    """
    first = start_step * slices.num_local_replicas
    if not tf.executing_eagerly():
        # While a graph is being built, nothing can be computed or kept.
        return _stream(shuffle, slices, first)
    # Starting the stream takes longer than reading a batch.  The first batches are
    # therefore looked up here, and the stream starts when they are used up.
    many = _num_looked_up(slices)
    # The cache's key cannot contain the members of groups.
    make = _make if shuffle.groups else _kept
    found = make(_first_numbers, shuffle, slices, first)
    if announce is not None:
        announce(found[0])
    rest = make(_stream, shuffle, slices, first + many)
    return tf.data.Dataset.from_tensor_slices(found).concatenate(rest)


def _num_looked_up(slices: replica_batches.ReplicaBatches) -> int:
    """Returns how many batches are looked up together."""
    # Each call of an operation costs microseconds, for one batch as for many, and a
    # batch must take only a few hundred.
    return max(1, _LOOKED_UP // slices.per_replica_batch_size)


def _first_numbers(
    shuffle: order.Order, slices: replica_batches.ReplicaBatches, first: int
) -> tf.Tensor:
    """Computes `_look_up` in the fastest way for a process that has just started."""
    if shuffle.num_examples < order_numpy.SMALL and not shuffle.groups:
        # numpy takes long for the many epochs of a small split.
        return _look_up(shuffle, slices, tf.constant(first, tf.int64))
    # TensorFlow would first prepare each of its fifty operations.
    positions = slices.numpy_positions(first + np.arange(_num_looked_up(slices)))
    found = shuffle.numbers(positions.reshape(-1)).reshape(positions.shape)
    return tf.constant(found)


def _look_up(
    shuffle: order.Order, slices: replica_batches.ReplicaBatches, batch: tf.Tensor
) -> tf.Tensor:
    """Returns record numbers from a batch on: int64 [many, per_replica_batch_size]."""
    batches = batch + tf.range(_num_looked_up(slices), dtype=tf.int64)
    return shuffle.records(slices.positions(batches))


def _stream(
    shuffle: order.Order, slices: replica_batches.ReplicaBatches, first: int
) -> tf.data.Dataset:
    """The endless stream of record numbers, from one step on."""
    # This map turns numbers of batches into numbers of records.
    numbers = tf.data.Dataset.range(first, _ENDLESS, _num_looked_up(slices))
    # The range never ends, but `repeat` tells tf.data that the stream is infinite.
    numbers = numbers.repeat()
    records = numbers.map(
        function_tracing.without_autograph(functools.partial(_look_up, shuffle, slices))
    )
    return records.unbatch()


def _make(
    function: Callable[..., Any],
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    first: int,
) -> Any:
    """Calls a function that makes a data set of record numbers."""
    return function(shuffle, slices, first)


def _kept(
    function: Callable[..., Any],
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    first: int,
) -> Any:
    """Calls the function once for each order; its graph is kept."""
    return _cached(function, shuffle.num_examples, shuffle.seed, slices, first)


# Cached, because tracing the stream takes most of the time of a second pipeline.
@functools.lru_cache(32)
def _cached(
    function: Callable[..., Any],
    num_examples: int,
    seed: int,
    slices: replica_batches.ReplicaBatches,
    first: int,
) -> Any:
    """Calls a function by values that can be compared, for `_kept`."""
    return function(order.Order(num_examples, seed), slices, first)
