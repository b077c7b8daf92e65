"""Turns a traced function into a graph of constants: reads its variables.

::

    constant = variables_to_constants.from_function(concrete_function)
    constant.graph, constant.feeds, constant.fetches

TensorFlow has such a function too (``convert_variables_to_constants_v2``), but under no
public name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import function_inlining, graphdef


class ConstantGraph(NamedTuple):
    """A function as a graph without state.

    Attributes:
      graph: GraphDef without variables, functions and control edges.
      feeds: Names of its placeholders, in the order of the arguments.
      fetches: Names of its outputs, in the order of the flat results; each result is
        output 0 of its node.
    """

    graph: tf.compat.v1.GraphDef
    feeds: list[str]
    fetches: list[str]


def from_function(
    function: tf.types.experimental.ConcreteFunction,
) -> ConstantGraph:
    """The graph of a concrete function, with calls inlined and variables constant.

    Args:
      function: A function that changes no state.

    Raises:
      UsageError: A graph of constants cannot express the function: it has loops or
        branches as functions, tables, or uses variables in another way than reading.
    """
    # TensorFlow appends captured tensors (variables among them) to the arguments.
    captured = list(function.captured_inputs)
    count = len(function.inputs) - len(captured)
    feeds = [t.op.name for t in function.inputs[:count]]
    holders = [t.op.name for t in function.inputs[count:]]
    graph = function_inlining.inlined(function.graph.as_graph_def())
    renames = {r: r for r in (graphdef.canonical(t.name) for t in function.outputs)}
    graph, renames = function_inlining.without_call_results(graph, renames)
    graph = _with_constants(graph, dict(zip(holders, captured, strict=True)))
    fetches = []
    for i, tensor in enumerate(function.outputs):
        # Each result gets an identity: two results may be one tensor, or output 1 of a
        # node, and neither can have a name of its own.
        name = _fresh_name(f"result_{i}", graph)
        node = graph.node.add(
            name=name, op="Identity", input=[renames[graphdef.canonical(tensor.name)]]
        )
        node.attr["T"].type = tensor.dtype.as_datatype_enum
        fetches.append(name)
    graph = graphdef.reachable(graphdef.without_control(graph), [*fetches, *feeds])
    _refuse_variables(graph, feeds)
    return ConstantGraph(graph, feeds, fetches)


def _with_constants(
    graph: tf.compat.v1.GraphDef, captured: Mapping[str, tf.Tensor]
) -> tf.compat.v1.GraphDef:
    """Replaces reads of variables, and captured tensors, by constants."""
    by_name = graphdef.nodes(graph)

    def source(reference: str) -> str:
        """Name of the variable or captured tensor behind a reference."""
        name = graphdef.split(reference)[0]
        while by_name[name].op == "Identity" and name not in captured:
            name = graphdef.split(by_name[name].input[0])[0]
        return name

    # Stored by variable and dtype, so that a variable that is read several times is
    # copied once.
    values: dict[tuple[str, int], np.ndarray] = {}
    result = graphdef.like(graph)
    for node in graph.node:
        tensor = captured.get(node.name)
        if tensor is not None and tensor.dtype != tf.resource:
            result.node.append(graphdef.constant(node.name, tensor.numpy()))
        elif node.op == "ReadVariableOp" and source(node.input[0]) in captured:
            key = source(node.input[0]), node.attr["dtype"].type
            if key not in values:
                values[key] = tf.raw_ops.ReadVariableOp(
                    resource=captured[key[0]], dtype=tf.as_dtype(key[1])
                ).numpy()
            result.node.append(graphdef.constant(node.name, values[key]))
        else:
            result.node.add().CopyFrom(node)
    return result


def _refuse_variables(graph: tf.compat.v1.GraphDef, feeds: Collection[str]) -> None:
    """Refuses a graph that still needs a variable or a captured tensor."""
    outside = {
        node.name
        for node in graph.node
        if node.op in ("Placeholder", "VarHandleOp") and node.name not in feeds
    }
    for node in graph.node:
        if node.op != "Identity" and any(
            graphdef.split(r)[0] in outside for r in node.input
        ):
            raise errors.UsageError(
                f"the node {node.name!r} ({node.op}) uses a variable or a table in"
                " another way than reading it, which a graph of constants cannot do:"
                " replace the layer that it belongs to"
            )


def _fresh_name(name: str, graph: tf.compat.v1.GraphDef) -> str:
    """A name for the function's result, with underscores added until no node has it."""
    taken = {node.name for node in graph.node}
    while name in taken:
        name += "_"
    return name
