"""What a program may have set up around a call that trains, evaluates or freezes."""

from __future__ import annotations

import importlib

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.common.lazy_imports import keras, tf

# With a coarser one, Keras would round the learning rate and the state of optimizers.
_FLOATX = ("float32", "float64")


def require(*, outside_of_scopes: bool = True) -> None:
    """Refuses to begin where TensorFlow does not execute eagerly or a scope is active.

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
    if _is_tape_recording():
        raise errors.UsageError(
            "a tf.GradientTape is active, which would record the whole call: make this"
            " call outside of it"
        )
    # `lazy_imports` checks this only once, and a program may change it later.
    lazy_imports.check_keras_image_format()
    if (used := keras.config.floatx()) not in _FLOATX:
        raise errors.UsageError(
            f"Keras' floatx is {used!r}, with which learning rates would be rounded:"
            " call keras.config.set_floatx('float32') (or change keras.json); the field"
            " precision of the configuration says in which format a network computes"
        )


def _is_tape_recording() -> bool:
    """Whether a ``GradientTape`` records what this thread computes eagerly."""
    # TensorFlow has no public function that says so.
    try:
        record = importlib.import_module("tensorflow.python.eager.record")
        return bool(record.could_possibly_record())
    except (ImportError, AttributeError):  # Another version of TensorFlow.
        return False
