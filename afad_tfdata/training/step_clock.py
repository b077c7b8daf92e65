"""How long steps wait for input, measured without making anything wait.

A step waits for input from the time when the step before is done until its batch is
there.  The two times are taken by operations on which no operation of a GPU depends.  A
GPU can therefore get the operations of a step before the steps before are done.

On a CPU, the operations of a step begin `after` the time of its batch was taken.  With
a single processor core, one thread does both.  Without an order, it would read the
clock after the step, and the whole step would count as waiting.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common.lazy_imports import tf


def times_of_steps(count: tf.Tensor) -> tf.TensorArray:
    """A place for the time of each of `count` steps."""
    return tf.TensorArray(tf.float64, size=count, element_shape=[])


def time_of(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The time at which tensors of a step are there.

    Args:
      tensors: Of a step in a loop; at least one.

    Returns:
      float64 ``[]``, in seconds.
    """
    # A loop begins a step when all operations with side effects of the step before have
    # ended, and TensorFlow counts reading the clock as one.  Inside of a stateless call
    # it does not count, so that the next step begins without waiting for these tensors.
    (result,) = tf.raw_ops.PartitionedCall(
        args=list(tensors), Tout=[tf.float64], f=_clock_function(_tensor_forms(tensors))
    )
    result.set_shape([])
    return result


def after(time: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """The tensor itself, for operations that begin after a time of `time_of`."""
    with tf.control_dependencies([time]):
        return tf.identity(tensor)


def seconds_waited(began: tf.Tensor, came: tf.Tensor, done: tf.Tensor) -> tf.Tensor:
    """The seconds in which steps waited for input, summed up.

    Args:
      began: float64 ``[]``, when the first step began.
      came: float64 ``[steps]``, when the batch of each step was there.
      done: float64 ``[steps]``, when each step was done.

    Returns:
      float64 ``[]``.
    """
    free = tf.concat([began[tf.newaxis], done[:-1]], axis=0)
    return tf.reduce_sum(tf.maximum(came - free, 0.0))


def _tensor_forms(tensors: Sequence[tf.Tensor]) -> tuple[tuple[Any, Any], ...]:
    """Dtypes and shapes of tensors, for the clock."""
    return tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)


@functools.cache
def _clock_function(forms: tuple[tuple[Any, Any], ...]) -> Any:
    """The clock: a function of tensors of these dtypes and shapes to the time."""

    @tf.function(
        input_signature=[tf.TensorSpec(shape, dtype) for dtype, shape in forms],
        autograph=False,
    )
    def clock(*tensors: tf.Tensor) -> tf.Tensor:
        """The time at which the tensors are there."""
        with tf.control_dependencies(tensors):
            return tf.timestamp()

    # Traced outside the graph that calls it.
    with tf.init_scope():
        return clock.get_concrete_function()
