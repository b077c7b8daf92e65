"""Inlines the calls of functions in a graph.

::

    graph = function_inlining.inlined(function.graph.as_graph_def())
    graph, references = function_inlining.without_call_results(graph, references)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

_CALL_OPS = ("PartitionedCall", "StatefulPartitionedCall")


def inlined(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The graph with every call replaced by the body of its function.

    Readers of a call's results keep their references: identities named ``call:index``
    represent the results until `without_call_results` removes them.
    """
    functions = {f.signature.name: f for f in graph.library.function}
    if not functions:
        return graph
    known = graphdef.op_definitions(graph)
    # A body may contain calls, which the next sweep replaces.
    while any(_called_function(node, functions) for node in graph.node):
        result = graphdef.like(graph)
        for node in graph.node:
            name = _called_function(node, functions)
            if name:
                result.node.extend(
                    _inlined_body(node, functions[name], known, functions)
                )
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


def _called_function(node: tf.compat.v1.NodeDef, functions: Mapping[str, Any]) -> str:
    """Name of the function that a node calls, to be inlined; empty for other nodes."""
    if node.op in _CALL_OPS:
        return node.attr["f"].func.name
    return node.op if node.op in functions else ""


def _inlined_body(
    call: tf.compat.v1.NodeDef,
    function: Any,
    known: Mapping[str, Any],
    functions: Mapping[str, Any],
) -> list[tf.compat.v1.NodeDef]:
    """The inlined nodes of a function's body, with the call's inputs as arguments.

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
            for i in range(_number_of_tensors(arg, node)):
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


def _number_of_tensors(arg: Any, node: tf.compat.v1.NodeDef) -> int:
    """The number of tensors in one output argument of an inlined operation."""
    if arg.number_attr:
        return node.attr[arg.number_attr].i
    if arg.type_list_attr:
        return len(node.attr[arg.type_list_attr].list.type)
    return 1


def without_call_results(
    graph: tf.compat.v1.GraphDef, references: Mapping[str, str]
) -> tuple[tf.compat.v1.GraphDef, dict[str, str]]:
    """Lets readers of an inlined call refer to the nodes that compute its results."""
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
