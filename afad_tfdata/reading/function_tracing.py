"""Controls how Python functions become graphs of an input pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from afad_tfdata.common.lazy_imports import tf

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def eagerly(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Makes a function run as if it were called outside every ``tf.function``.

    A program may build its data set in a ``tf.function`` or in ``interleave``.  There,
    AutoGraph would rewrite the code that reads indexes, and tensors would have no
    values.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        """Calls the function outside every ``tf.function``."""

        def run() -> _Result:
            """Calls the function, and keeps its result with the graphs that use it."""
            with tf.init_scope():
                result = function(*args, **kwargs)
            _keep_with_graphs(result)
            return result

        return without_autograph(run)()

    return call


def _keep_with_graphs(value: Any) -> None:
    """Keeps an object for as long as the graphs that are being traced.

    In a graph, TensorFlow keeps only the tensor of a data set.  The Python functions of
    the data set belong to its object, which would be deleted.
    """
    if tf.executing_eagerly():
        return
    graph = tf.compat.v1.get_default_graph()
    # The graph of a function refers to the graph around it.  The outermost graph is
    # that of the process.
    while outer := getattr(graph, "outer_graph", None):
        graph.add_to_collection("afad_tfdata", value)
        graph = outer


def without_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``tf.data`` trace a function without AutoGraph.

    AutoGraph rewrites Python's ``if`` and ``for`` over tensors.  The functions of this
    package have none, and rewriting them takes longer than the first batch.
    """
    return tf.autograph.experimental.do_not_convert(function)
