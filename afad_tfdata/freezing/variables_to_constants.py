"""Turns a traced function into a graph: inlines calls, makes variables constants.

::

    constant = variables_to_constants.from_function(concrete_function)
    constant.graph, constant.feeds, constant.fetches

TensorFlow has such a function too (``convert_variables_to_constants_v2``), but under no
public name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

_CALL_OPS = ("PartitionedCall", "StatefulPartitionedCall")


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
    graph = _inlined(function.graph.as_graph_def())
    renames = {r: r for r in (graphdef.canonical(t.name) for t in function.outputs)}
    graph, renames = _resolved_calls(graph, renames)
    graph = _constants(graph, dict(zip(holders, captured, strict=True)))
    fetches = []
    for i, tensor in enumerate(function.outputs):
        # Each result gets an identity: two results may be one tensor, or output 1 of a
        # node, and neither can have a name of its own.
        name = _fresh(f"result_{i}", graph)
        node = graph.node.add(
            name=name, op="Identity", input=[renames[graphdef.canonical(tensor.name)]]
        )
        node.attr["T"].type = tensor.dtype.as_datatype_enum
        fetches.append(name)
    graph = graphdef.reachable(graphdef.without_control(graph), [*fetches, *feeds])
    _check_constant(graph, feeds)
    return ConstantGraph(graph, feeds, fetches)


def _constants(
    graph: tf.compat.v1.GraphDef, captured: Mapping[str, tf.Tensor]
) -> tf.compat.v1.GraphDef:
    """Replaces captured tensors and reads of variables by their values."""
    by_name = graphdef.nodes(graph)

    def source(reference: str) -> str:
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


def _check_constant(graph: tf.compat.v1.GraphDef, feeds: Collection[str]) -> None:
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


def _inlined(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The graph with every call replaced by the body of its function.

    Readers of a call's results keep their references: identities named ``call:index``
    represent the results until `_resolved_calls` removes them.
    """
    functions = {f.signature.name: f for f in graph.library.function}
    if not functions:
        return graph
    known = graphdef.operations(graph)
    # A body may contain calls, which the next sweep replaces.
    while any(_callee(node, functions) for node in graph.node):
        result = graphdef.like(graph)
        for node in graph.node:
            name = _callee(node, functions)
            if name:
                result.node.extend(_body(node, functions[name], known, functions))
            else:
                result.node.add().CopyFrom(node)
        graph = result
    for node in graph.node:
        for attr in node.attr.values():
            if attr.func.name or attr.list.func:
                raise errors.UsageError(
                    f"the node {node.name!r} ({node.op}) runs a function of its own,"
                    " which a graph without a function library cannot hold: replace"
                    " the loop or branch that it stands for"
                )
    return graph


def _callee(node: tf.compat.v1.NodeDef, functions: Mapping[str, Any]) -> str:
    """Name of the function that a node calls; empty for any other node."""
    if node.op in _CALL_OPS:
        return node.attr["f"].func.name
    return node.op if node.op in functions else ""


def _body(
    call: tf.compat.v1.NodeDef,
    function: Any,
    known: Mapping[str, Any],
    functions: Mapping[str, Any],
) -> list[tf.compat.v1.NodeDef]:
    """The nodes of a function's body, with the call's inputs as arguments.

    Args:
      call: The node that calls.
      function: The called ``FunctionDef``.
      known: Definitions of TensorFlow's operations by name.
      functions: All functions of the graph by name.
    """
    arguments = [r for r in call.input if not r.startswith("^")]
    references = {
        arg.name: graphdef.canonical(reference)
        for arg, reference in zip(function.signature.input_arg, arguments, strict=True)
    }
    # In a body, references are "node:output argument:index"; in a graph, they are
    # "node:position among all outputs".
    for node in function.node_def:
        definition = (
            functions[node.op].signature if node.op in functions else known[node.op]
        )
        position = 0
        for arg in definition.output_arg:
            for i in range(_length(arg, node)):
                reference = graphdef.join(f"{call.name}/{node.name}", position)
                references[f"{node.name}:{arg.name}:{i}"] = reference
                position += 1
    result = []
    for node in function.node_def:
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        copy.name = f"{call.name}/{node.name}"
        del copy.input[:]
        copy.input.extend(references[r] for r in node.input if not r.startswith("^"))
        result.append(copy)
    for i, arg in enumerate(function.signature.output_arg):
        value = references[function.ret[arg.name]]
        # ":" is not allowed in names of nodes, so that no other node has this one.
        passing = tf.compat.v1.NodeDef(name=f"{call.name}:{i}", op="Identity")
        passing.input.append(value)
        passing.attr["T"].type = arg.type
        result.append(passing)
    return result


def _length(arg: Any, node: tf.compat.v1.NodeDef) -> int:
    """The number of tensors in one output argument of an operation."""
    if arg.number_attr:
        return node.attr[arg.number_attr].i
    if arg.type_list_attr:
        return len(node.attr[arg.type_list_attr].list.type)
    return 1


def _resolved_calls(
    graph: tf.compat.v1.GraphDef, references: Mapping[str, str]
) -> tuple[tf.compat.v1.GraphDef, dict[str, str]]:
    """Lets readers of a call's results refer to the nodes that compute them."""
    passed = {
        graphdef.canonical(node.name): node.input[0]
        for node in graph.node
        if ":" in node.name
    }
    result = graphdef.like(graph)
    for node in graph.node:
        if ":" not in node.name:
            kept = result.node.add()
            kept.CopyFrom(node)
            del kept.input[:]
            kept.input.extend(
                r
                if r.startswith("^")
                else graphdef.follow(graphdef.canonical(r), passed)
                for r in node.input
            )
    followed = {
        k: graphdef.follow(graphdef.canonical(r), passed) for k, r in references.items()
    }
    return result, followed


def _fresh(name: str, graph: tf.compat.v1.GraphDef) -> str:
    """The name, with underscores added until no node has it."""
    taken = {node.name for node in graph.node}
    while name in taken:
        name += "_"
    return name
