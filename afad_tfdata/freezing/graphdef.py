"""GraphDefs: cleaned, renamed, and checked against what TensorFlow 1.15 knows.

Only protocol buffers go in and out, through public names of TensorFlow::

    graph = graphdef.without_identities(graph, keep=fetches)
    graph = graphdef.renamed(graph, {fetches[0]: "age_output/BiasAdd"})
    graph = graphdef.for_tf1(graph, layers=["conv", "age_output"])

`function_graph` makes one from a traced function; `folding` holds the passes that
compute.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy import tf

_TABLE = pathlib.Path(__file__).parent / "tf1_ops.json"
# Operations that hand their inputs on as they are, in inference.
_PASSING = frozenset(
    ("Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot")
)
# Operation names as TensorFlow takes them (core/framework/node_def_util.cc).
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_MAX_BYTES = 2**31 - 1  # of any protocol buffer

# Operations on files, and into Python.
_EFFECTS = frozenset(
    (
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader"),
        *("Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"),
        *("Restore", "RestoreV2", "RestoreSlice"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc"),
    )
)


def without_control(graph: Any) -> Any:
    """The graph without control edges, which order nothing where nothing changes."""
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        del kept.input[:]
        kept.input.extend(r for r in node.input if not r.startswith("^"))
    return result


def without_identities(graph: Any, keep: Collection[str]) -> Any:
    """The graph without operations that only pass values on.

    Args:
      graph: GraphDef without control edges.
      keep: Names of nodes that stay whatever they are.
    """
    passed: dict[str, str] = {}
    for node in graph.node:
        same = node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type
        if node.name not in keep and (node.op in _PASSING or same):
            for i, reference in enumerate(node.input):
                passed[join(node.name, i)] = canonical(reference)
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        del kept.input[:]
        kept.input.extend(follow(canonical(r), passed) for r in node.input)
    return reachable(result, keep)


def renamed(graph: Any, names: Mapping[str, str]) -> Any:
    """The graph with nodes renamed; whoever has a new name already gets another.

    An identity that is renamed gives way to the operation before it, where that is
    nobody else's result: a layer's own BiasAdd then carries the wanted name.

    Args:
      graph: GraphDef without control edges.
      names: New names by old name.
    """
    by_name = nodes(graph)
    moves: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for old, new in names.items():
        node, source = by_name[old], old
        if node.op == "Identity":
            before, index = split(node.input[0])
            free = before not in names and before not in moves
            if (
                free
                and index == 0
                and by_name[before].op not in ("Placeholder", "Const")
            ):
                source, dropped[old] = before, before
        moves[source] = new
    taken = set(by_name) | set(moves.values())
    for name in by_name:
        if name in moves.values() and name not in moves and name not in dropped:
            moves[name] = next(
                n for i in range(1, len(taken) + 2) if (n := f"{name}_{i}") not in taken
            )
            taken.add(moves[name])
    result = like(graph)
    for node in graph.node:
        if node.name in dropped:
            continue
        kept = result.node.add()
        kept.CopyFrom(node)
        kept.name = moves.get(node.name, node.name)
        del kept.input[:]
        for reference in node.input:
            name, index = split(reference)
            name = dropped.get(name, name)
            kept.input.append(join(moves.get(name, name), index))
    return result


def for_tf1(graph: Any, *, layers: Iterable[str] = ()) -> Any:
    """The graph as TensorFlow 1.15 takes it.

    1.15 refuses attributes that it does not know even at their defaults; those are
    taken off, and so are devices and everything private.

    Args:
      graph: GraphDef without functions.
      layers: Names of the model's layers, to say where an operation comes from.

    Raises:
      UsageError: An operation, attribute or value that 1.15 does not know.
    """
    table, known = tf1_table(), operations(graph)
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        kept.device = ""
        allowed = table.get(node.op)
        if allowed is None:
            raise _not_in_tf1(node, layers, "operation")
        defaults = {attr.name: attr.default_value for attr in known[node.op].attr}
        for name, value in node.attr.items():
            if name.startswith("_"):
                del kept.attr[name]
            elif name not in allowed:
                if defaults.get(name) != value:
                    raise _not_in_tf1(
                        node, layers, f"attribute {name} of the operation"
                    )
                del kept.attr[name]
            elif not _allows(allowed[name], value):
                raise _not_in_tf1(node, layers, f"value of {name} of the operation")
    return result


def without_private(graph: Any) -> Any:
    """The graph without devices and private attributes; the rest stays as it is."""
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        kept.device = ""
        for name in [n for n in node.attr if n.startswith("_")]:
            del kept.attr[name]
    return result


def serialized(graph: Any) -> bytes:
    """The file's content, the same for the same graph.

    Raises:
      UsageError: It is larger than a protocol buffer can be.
    """
    if graph.ByteSize() > _MAX_BYTES:
        raise errors.UsageError(
            f"the graph has {graph.ByteSize():,} bytes, and a .pb file cannot hold more"
            f" than {_MAX_BYTES:,}: freeze a smaller backbone"
        )
    return graph.SerializeToString(deterministic=True)


def check_name(name: str, flag: str) -> None:
    """Raises `UsageError` for what is no name of an operation."""
    if not _NAME.fullmatch(name):
        raise errors.UsageError(
            f"{flag} takes names of graph nodes, such as age_output/BiasAdd, without"
            f" :0; got {name!r}"
        )


def nodes(graph: Any) -> dict[str, Any]:
    """Nodes by name, in the graph's order."""
    return {node.name: node for node in graph.node}


def split(reference: str) -> tuple[str, int]:
    """``"conv:1"`` -> ``("conv", 1)``."""
    name, _, index = reference.partition(":")
    return name, int(index or 0)


def reachable(graph: Any, wanted: Iterable[str]) -> Any:
    """The part of the graph that the wanted nodes need, in its order."""
    by_name = nodes(graph)
    found: set[str] = set()
    stack = list(wanted)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += [split(r.lstrip("^"))[0] for r in by_name[name].input]
    result = like(graph)
    result.node.extend(node for node in graph.node if node.name in found)
    return result


def constant(name: str, value: np.ndarray) -> Any:
    """A Const node."""
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node


def attribute(node: Any, name: str) -> Any:
    """An attribute, empty where the node has none.

    Looking it up in the protocol buffer's own map would put an empty one there.
    """
    return node.attr[name] if name in node.attr else tf.compat.v1.AttrValue()


def operations(graph: Any) -> dict[str, Any]:
    """Definitions (OpDef) of the operations that a graph and its functions use."""
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        # What a graph uses is written down when it is exported; the registry itself
        # has no public name.
        meta = tf.compat.v1.train.export_meta_graph(graph=imported)
    return {op.name: op for op in meta.meta_info_def.stripped_op_list.op}


@functools.cache
def tf1_table() -> dict[str, dict[str, list[Any] | None]]:
    """Operations of 1.15: attributes, each with the values allowed or None.

    ``tests/robustness/dump_tf1_ops.py`` made it from the runtime of 1.15.5.
    """
    return json.loads(_TABLE.read_text())


def layer_of(node_name: str, layers: Iterable[str]) -> str:
    """The innermost layer among a node's scopes; empty where there is none."""
    names = set(layers)
    for part in reversed(node_name.split("/")):
        # A scope that is entered a second time gets a number behind its name.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return name
    return ""


def _allows(allowed: Sequence[Any] | None, value: Any) -> bool:
    if allowed is None:
        return True
    kind = value.WhichOneof("value")
    if kind == "type":
        return value.type in allowed
    if kind == "s":
        return value.s.decode() in allowed
    if kind == "list":
        return all(v in allowed for v in (*value.list.type, *value.list.s))
    return True


def _not_in_tf1(node: Any, layers: Iterable[str], what: str) -> errors.UsageError:
    layer = layer_of(node.name, layers)
    where = f"layer {layer!r}" if layer else f"node {node.name!r}"
    return errors.UsageError(
        f"TensorFlow 1.15 does not know this {what} {node.op}, which comes from"
        f" {where}: replace it, or write for newer runtimes with --notf1_compatible"
    )


def like(graph: Any) -> Any:
    """An empty graph of the same version."""
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    return result


def canonical(reference: str) -> str:
    """``"conv:0"`` -> ``"conv"``."""
    return reference.removesuffix(":0")


def join(name: str, index: int) -> str:
    """``("conv", 1)`` -> ``"conv:1"``; the inverse of `split`."""
    return f"{name}:{index}" if index else name


def follow(reference: str, passed: Mapping[str, str]) -> str:
    """Where a reference leads through references that stand for others."""
    while reference in passed:
        reference = passed[reference]
    return reference


def refuse_effects(graph: Any, path: str) -> None:
    """Refuses a graph that does more than compute: it came from somebody else.

    Args:
      graph: GraphDef with its functions.
      path: Where it came from, for the message.

    Raises:
      UsageError: An operation reads or writes files, or runs Python.
    """
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    for node in nodes:
        if node.op in _EFFECTS:
            raise errors.UsageError(
                f"{path} has the operation {node.name} of type {node.op}, which reaches"
                " outside of the graph: it is not loaded"
            )
