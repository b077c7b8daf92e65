"""GraphDefs: their nodes and references, cleaned, renamed, reduced and serialized.

Each function takes a protocol buffer and returns a new one; only public names of
TensorFlow are used::

    graph = graphdef.without_identities(graph, keep=fetches)
    graph = graphdef.renamed(graph, {fetches[0]: "age_output/BiasAdd"})

`variables_to_constants` creates a GraphDef from a traced function; the passes that
compute values are in `constant_folding`, and what TensorFlow 1.15 needs is in
`tf1_compatibility`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf

# Operations that return their inputs unchanged in inference.
_PASS_THROUGH_OPS = frozenset(
    ("Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot")
)
# Names of nodes that TensorFlow accepts (core/framework/node_def_util.cc).
_NODE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_MAX_PROTO_BYTES = 2**31 - 1  # sizes in a protocol buffer are signed 32-bit numbers


def without_control(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The GraphDef without control edges.

    They order changes of state, and a graph of constants changes none.
    """
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        del kept.input[:]
        kept.input.extend(r for r in node.input if not r.startswith("^"))
    return result


def without_identities(
    graph: tf.compat.v1.GraphDef, keep: Collection[str]
) -> tf.compat.v1.GraphDef:
    """The GraphDef without operations that return their input unchanged.

    Args:
      graph: GraphDef without control edges.
      keep: Names of nodes that stay in any case.
    """
    passed: dict[str, str] = {}
    for node in graph.node:
        same = node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type
        if node.name not in keep and (node.op in _PASS_THROUGH_OPS or same):
            for i, reference in enumerate(node.input):
                passed[join(node.name, i)] = canonical(reference)
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        del kept.input[:]
        kept.input.extend(follow(canonical(r), passed) for r in node.input)
    return reachable(result, keep)


def renamed(
    graph: tf.compat.v1.GraphDef, names: Mapping[str, str]
) -> tf.compat.v1.GraphDef:
    """The GraphDef with nodes renamed; a node that has a new name gets a suffix.

    A renamed identity is dropped, and the operation before it gets the name, unless
    that operation is another one's result too: a layer's own BiasAdd is then called
    ``age_output/BiasAdd``.

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
            # One node cannot have two names: if two results are one tensor, the second
            # keeps its identity.
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


def without_private(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The GraphDef without devices and private attributes; all else stays as it is."""
    result = like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        kept.device = ""
        for name in [n for n in node.attr if n.startswith("_")]:
            del kept.attr[name]
    return result


def serialized(graph: tf.compat.v1.GraphDef) -> bytes:
    """The GraphDef as the content of a ``.pb`` file, the same for the same graph.

    Raises:
      UsageError: The graph is larger than a protocol buffer can be.
    """
    if graph.ByteSize() > _MAX_PROTO_BYTES:
        raise errors.UsageError(
            f"the graph has {graph.ByteSize():,} bytes, and a .pb file cannot hold more"
            f" than {_MAX_PROTO_BYTES:,}: freeze a smaller backbone"
        )
    # Attributes are a map, whose order otherwise differs from process to process.
    return graph.SerializeToString(deterministic=True)


def check_node_name(name: str, flag: str) -> None:
    """Raises `UsageError` for a text that cannot be the name of a GraphDef's node."""
    if not _NODE_NAME.fullmatch(name):
        raise errors.UsageError(
            f"{flag} takes names of graph nodes, such as age_output/BiasAdd, without"
            f" :0; got {name!r}"
        )


def nodes(graph: tf.compat.v1.GraphDef) -> dict[str, tf.compat.v1.NodeDef]:
    """The nodes of a GraphDef by name, in its order."""
    return {node.name: node for node in graph.node}


def split(reference: str) -> tuple[str, int]:
    """Splits a reference in a GraphDef: ``"conv:1"`` -> ``("conv", 1)``."""
    name, _, index = reference.partition(":")
    return name, int(index or 0)


def reachable(
    graph: tf.compat.v1.GraphDef, wanted: Iterable[str]
) -> tf.compat.v1.GraphDef:
    """The part of a GraphDef that the wanted nodes need, in its order."""
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


def without_unread(
    graph: tf.compat.v1.GraphDef, before: tf.compat.v1.GraphDef
) -> tf.compat.v1.GraphDef:
    """The GraphDef without nodes that only replaced nodes have read.

    Args:
      graph: GraphDef in which some nodes of `before` were replaced.
      before: The graph as it was; its results and inputs stay.
    """
    read = {split(r)[0] for node in before.node for r in node.input}
    return reachable(
        graph,
        [n.name for n in before.node if n.name not in read or n.op == "Placeholder"],
    )


def tensor_shapes(
    graph: tf.compat.v1.GraphDef, references: Iterable[str]
) -> dict[str, tf.TensorShape]:
    """Shapes in a GraphDef by reference, such as ``"split:1"``, as far as known."""
    # A copy, because importing adds attributes to the graph that 1.15 does not know.
    copy = tf.compat.v1.GraphDef()
    copy.CopyFrom(graph)
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(copy, name="")
        return {
            reference: imported.get_tensor_by_name(
                "{}:{}".format(*split(reference))
            ).shape
            for reference in references
        }


def constant(name: str, value: np.ndarray) -> tf.compat.v1.NodeDef:
    """A new Const node for a GraphDef."""
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node


def attribute(node: tf.compat.v1.NodeDef, name: str) -> tf.compat.v1.AttrValue:
    """An attribute of a GraphDef's node; an empty one if the node does not have it.

    ``node.attr[name]`` alone would add an empty attribute to the node.
    """
    return node.attr[name] if name in node.attr else tf.compat.v1.AttrValue()


def op_definitions(graph: tf.compat.v1.GraphDef) -> dict[str, Any]:
    """The definitions (``OpDef``) of a GraphDef's operations and of its functions'."""
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        # An exported graph lists the definitions that it uses; TensorFlow's registry
        # of all of them has no public name.
        meta = tf.compat.v1.train.export_meta_graph(graph=imported)
    return {op.name: op for op in meta.meta_info_def.stripped_op_list.op}


def layer_of(node_name: str, layers: Iterable[str]) -> str:
    """The innermost layer in the name of a GraphDef's node; empty for none."""
    names = set(layers)
    for part in reversed(node_name.split("/")):
        # A scope that is entered a second time gets a number after its name.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return name
    return ""


def like(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """An empty GraphDef with the same versions.

    The producer version decides how a runtime reads attributes.  A graph without one
    counts as older than all of them, and TensorFlow applies old rules to it.
    """
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    return result


def canonical(reference: str) -> str:
    """A reference in a GraphDef without output 0: ``"conv:0"`` -> ``"conv"``."""
    return reference.removesuffix(":0")


def join(name: str, index: int) -> str:
    """Joins a node and its output to a GraphDef's reference, as `split` splits it."""
    return f"{name}:{index}" if index else name


def follow(reference: str, passed: Mapping[str, str]) -> str:
    """Follows a chain of references in a GraphDef to its end."""
    while reference in passed:
        reference = passed[reference]
    return reference
