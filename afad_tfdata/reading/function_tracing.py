"""Controls how Python functions become graphs of an input pipeline."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from afad_tfdata.common.lazy_imports import tf

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class BatchFunction(Hashable, Protocol):
    """A function of tensors whose graph pipelines may share.

    Two functions that compare equal share one graph.  Such a function therefore refers
    to no tensor, file or reader: what differs between pipelines is an argument.
    """

    def __call__(self, *tensors: tf.Tensor) -> Any:
        """Computes an element from the parts of a batch and the further arguments."""


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


def map_by_shared_graph(
    dataset: tf.data.Dataset,
    function: BatchFunction,
    arguments: Sequence[tf.Tensor],
    num_threads: int,
    keeps: Any,
) -> tf.data.Dataset:
    """Maps a data set in order, by a graph that this process builds only once.

    Building the graph took 25 of 73 ms from a call to its first batch of HDF5.

    Args:
      dataset: Its elements are tensors, or tuples of tensors.
      function: Called with the parts of an element and `arguments`.
      arguments: Tensors that are the same for all elements.
      num_threads: Elements that are computed at the same time.
      keeps: An object that the arguments need; it is kept as long as the data set, or
        in the style of TensorFlow 1 as long as the graph.
    """
    if not tf.executing_eagerly():
        # A graph in the style of TensorFlow 1 contains its functions itself.
        mapped = dataset.map(
            without_autograph(lambda *batch: function(*batch, *arguments)),
            num_parallel_calls=num_threads,
            deterministic=True,
        )
        # An iterator that the program initializes refers to the graph alone.
        tf.compat.v1.get_default_graph().add_to_collection("afad_tfdata", keeps)
        return mapped
    elements = tf.nest.flatten(dataset.element_spec)
    specs = (*elements, *(tf.TensorSpec(a.shape, a.dtype) for a in arguments))
    graph, element_spec = _shared_graph(function, specs)
    flat = tf.nest.flatten(element_spec)
    variant = tf.raw_ops.ParallelMapDatasetV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        other_arguments=list(arguments),
        num_parallel_calls=tf.constant(num_threads, tf.int64),
        f=graph,
        output_types=[spec.dtype for spec in flat],
        output_shapes=[spec.shape for spec in flat],
        deterministic="true",
        preserve_cardinality=True,
    )
    mapped = tf.data.experimental.from_variant(variant, element_spec)
    # The variant contains the graph, but not `keeps`.  Data sets that are made of this
    # one, and their iterators, refer to it.
    mapped._afad_tfdata_keeps = keeps
    return mapped


# A limit, so that a program that reads in ever new ways does not grow.  Data sets work
# without this reference to their graph.
@functools.lru_cache(32)
def _shared_graph(
    function: BatchFunction, specs: tuple[tf.TensorSpec, ...]
) -> tuple[Any, Any]:
    """Returns the graph of a function, and the structure of what it computes."""
    graph = tf.function(function.__call__, autograph=False).get_concrete_function(
        *specs
    )
    element_spec = tf.nest.map_structure(
        tf.TensorSpec, graph.output_shapes, graph.output_dtypes
    )
    return graph, element_spec
