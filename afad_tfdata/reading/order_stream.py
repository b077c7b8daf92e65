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
from afad_tfdata.reading import function_tracing, order, replica_batches

# How many positions are looked up together.  The number is large enough that the cost
# of calling the operations is negligible, and small enough that a batch does not wait.
_LOOKED_UP = 8192
# How many are looked up before the pipeline is built, which waits for them.
_LOOKED_UP_FIRST = 1024
# For fewer records, TensorFlow's operation is faster, although it is prepared first:
# numpy takes long for the many epochs of a small split.
_SMALL = 2048
# Larger than the number of any batch, and so small that sums do not overflow.
_ENDLESS = 1 << 62


def of_batches(
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    start_step: int,
    announce: Callable[[np.ndarray], None] | None = None,
) -> tf.data.Dataset:
    """Returns the endless stream of a pipeline's batches of record numbers.

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
        return _stream(shuffle, slices, first, later)
    # Starting the stream takes longer than reading a batch.  The first batches are
    # therefore looked up here, and the stream starts when they are used up.
    many = max(1, _LOOKED_UP_FIRST // slices.per_replica_batch_size)
    # The cache's key cannot contain the members of groups.
    make = _make if shuffle.groups else _kept
    found = make(_first_numbers, shuffle, slices, first, many)
    if announce is not None:
        announce(found)
    rest = make(_stream, shuffle, slices, first + many, later)
    return tf.data.Dataset.from_tensor_slices(found).concatenate(rest)


def _first_numbers(
    shuffle: order.Order, slices: replica_batches.ReplicaBatches, first: int, many: int
) -> np.ndarray:
    """Computes record numbers in the fastest way for a process that has just started.

    Returns:
      int64 ``[many, per_replica_batch_size]``.
    """
    positions = slices.numpy_positions(first + np.arange(many))
    if shuffle.num_examples < _SMALL and not shuffle.groups:
        return shuffle.records(tf.constant(positions)).numpy()
    # TensorFlow would first prepare each of its fifty operations.
    return shuffle.numbers(positions.reshape(-1)).reshape(positions.shape)


def _stream(
    shuffle: order.Order, slices: replica_batches.ReplicaBatches, first: int, many: int
) -> tf.data.Dataset:
    """Returns the endless stream from a batch on; `many` batches are looked up at once.

    Each call of an operation costs microseconds, for one batch as for many, and a batch
    must take only a few hundred.
    """

    def look_up(batch: tf.Tensor) -> tf.Tensor:
        batches = batch + tf.range(many, dtype=tf.int64)
        return shuffle.records(slices.positions(batches))

    # This map turns numbers of batches into numbers of records.
    numbers = tf.data.Dataset.range(first, _ENDLESS, many)
    # The range never ends, but `repeat` tells tf.data that the stream is infinite.
    return numbers.repeat().map(function_tracing.without_autograph(look_up)).unbatch()


def _make(
    function: Callable[..., Any],
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    first: int,
    many: int,
) -> Any:
    """Calls a function that makes a data set of record numbers."""
    return function(shuffle, slices, first, many)


def _kept(
    function: Callable[..., Any],
    shuffle: order.Order,
    slices: replica_batches.ReplicaBatches,
    first: int,
    many: int,
) -> Any:
    """Calls the function once for each order; its graph is kept."""
    return _cached(function, shuffle.num_examples, shuffle.seed, slices, first, many)


# Cached, because tracing the stream takes most of the time of a second pipeline.
@functools.lru_cache(32)
def _cached(
    function: Callable[..., Any],
    num_examples: int,
    seed: int,
    slices: replica_batches.ReplicaBatches,
    first: int,
    many: int,
) -> Any:
    """Calls a function by values that can be compared, for `_kept`."""
    return function(order.Order(num_examples, seed), slices, first, many)
