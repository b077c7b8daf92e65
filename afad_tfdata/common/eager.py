"""What a program may have set up around a call that trains, evaluates or freezes."""

from __future__ import annotations

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf


def require(*, outside_of_scopes: bool = True) -> None:
    """Refuses to begin where TensorFlow builds a graph or a scope is active.

    Args:
      outside_of_scopes: Whether the caller enters the scope of a strategy of its own.

    Raises:
      UsageError: TensorFlow does not execute eagerly here, or a scope is active.
    """
    if not tf.executing_eagerly():
        raise errors.UsageError(
            "eager execution is needed: make this call outside tf.Graph and"
            " tf.function, and without tf.compat.v1.disable_eager_execution()"
        )
    if outside_of_scopes and tf.distribute.has_strategy():
        raise errors.UsageError(
            "the scope of a tf.distribute strategy is active: make this call outside"
            " of it; the field devices of the configuration says which are used"
        )
