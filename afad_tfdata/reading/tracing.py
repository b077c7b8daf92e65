"""How Python functions become the graphs of an input pipeline's transformations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from afad_tfdata.common.lazy_imports import tf


def without_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as ``tf.data`` is to trace it: as it is, without AutoGraph.

    AutoGraph rewrites Python's ``if`` and ``for`` over tensors.  The functions here
    have none, and rewriting them takes longer than the first batch.
    """
    return tf.autograph.experimental.do_not_convert(function)
