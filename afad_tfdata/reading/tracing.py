"""How Python functions become the graphs of an input pipeline's transformations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from afad_tfdata.common.lazy_imports import tf

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def eagerly(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """The function, run as if it were called outside of every ``tf.function``.

    A program may build its data set in a ``tf.function`` or in ``interleave``, where
    AutoGraph would rewrite the code that reads indexes, and operations would have no
    values.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        def run() -> _Result:
            with tf.init_scope():
                result = function(*args, **kwargs)
            _keep_with_graphs(result)
            return result

        return without_autograph(run)()

    return call


def _keep_with_graphs(value: Any) -> None:
    """Keeps an object for as long as the graphs that are being traced.

    TensorFlow keeps only the tensor of a data set there, not the object, to which the
    Python functions in it belong.
    """
    if tf.executing_eagerly():
        return
    graph = tf.compat.v1.get_default_graph()
    # Graphs of functions have the graph around them; the last one is the process's.
    while outer := getattr(graph, "outer_graph", None):
        graph.add_to_collection("afad_tfdata", value)
        graph = outer


def without_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as ``tf.data`` is to trace it: as it is, without AutoGraph.

    AutoGraph rewrites Python's ``if`` and ``for`` over tensors.  The functions here
    have none, and rewriting them takes longer than the first batch.
    """
    return tf.autograph.experimental.do_not_convert(function)
