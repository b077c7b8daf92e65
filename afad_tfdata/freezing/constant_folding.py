"""Folding: what a frozen graph can compute once, computed when it is written.

`constants` evaluates what depends on constants only, which is how a batch
normalisation becomes a multiplication and an addition; `normalization` then moves these
into the weights and the bias of the convolution or product before them::

    graph = folding.constants(graph, keep=fetches)
    graph = folding.normalization(graph, keep=fetches)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import graphdef

# Cheap, without state, and never larger than their inputs together.
_COMPUTED = frozenset(
    """Add AddV2 Cast ConcatV2 ExpandDims Exp Identity Maximum Minimum Mul Neg Pack Pow
    RealDiv Reciprocal Reshape Rsqrt Sigmoid Softplus Sqrt Square Squeeze StridedSlice
    Sub Transpose""".split()
)
_NORMALIZATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def constants(graph: Any, keep: Collection[str]) -> Any:
    """Replaces what depends on constants only by its value.

    The values are those that the graph itself would have computed, bit for bit.

    Args:
      graph: GraphDef without variables and control edges.
      keep: Names of the results, which stay as they are.
    """
    graph = _plain_normalizations(graph)
    by_name = graphdef.nodes(graph)
    known: dict[str, bool] = {}
    # A graph in any order: each node is asked after its inputs.
    for name in _inputs_first(by_name):
        node = by_name[name]
        known[name] = node.op == "Const" or (
            node.op in _COMPUTED
            and name not in keep
            and all(known[graphdef.split(r)[0]] for r in node.input)
        )
    wanted = {
        graphdef.split(reference)[0]
        for node in graph.node
        if not known[node.name]
        for reference in node.input
    }
    wanted = {n for n in wanted if known[n] and by_name[n].op != "Const"}
    if not wanted:
        return graph
    names = sorted(wanted)
    values = dict(zip(names, _evaluate(graph, names), strict=True))
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    for node in graph.node:
        if node.name in values:
            result.node.append(graphdef.constant(node.name, values[node.name]))
        else:
            result.node.add().CopyFrom(node)
    return graphdef.reachable(result, [*keep, *_placeholders(graph)])


def normalization(graph: Any, keep: Collection[str]) -> Any:
    """Moves factors and summands by channel into the operation before them.

    ``conv(x, w) * a + b`` becomes ``bias_add(conv(x, w * a), b)``, for convolutions,
    depthwise convolutions and matrix products, with a bias or without.  Products are
    taken in float64 and rounded once.  An operation that somebody else reads too, or
    whose weights would leave float32's range, stays as it is.

    Args:
      graph: GraphDef out of `constants`.
      keep: Names of the results, which keep their meaning.
    """
    changed = True
    while changed:
        graph, changed = _fold_once(graph, keep)
    return graphdef.reachable(graph, [*keep, *_placeholders(graph)])


def flops(graph: Any, feed: str, shape: Iterable[int]) -> int:
    """Floating-point operations of convolutions and products for one input.

    A multiplication and an addition count as two.

    Args:
      graph: GraphDef.
      feed: The placeholder.
      shape: Of one input, without the batch.
    """
    total = 0
    with tf.Graph().as_default() as imported:
        value = tf.compat.v1.placeholder(tf.float32, [1, *shape])
        tf.import_graph_def(graph, {feed: value}, name="")
        for operation in imported.get_operations():
            if operation.type in _PRODUCTS:
                result, weights = operation.outputs[0].shape, operation.inputs[1].shape
                if not (result.is_fully_defined() and weights.is_fully_defined()):
                    continue
                # Each weight meets each place of the result once.
                places = result.num_elements() // result[-1]
                total += 2 * places * weights.num_elements()
    return total


def _fold_once(graph: Any, keep: Collection[str]) -> tuple[Any, bool]:
    """One sweep: every multiplication and addition that can move, moves one step."""
    by_name = graphdef.nodes(graph)
    readers = Counter(graphdef.split(r)[0] for n in graph.node for r in n.input)
    readers.update(keep)
    new_nodes: dict[str, Any] = {}
    replaced: set[str] = set()
    touched: set[str] = set()
    for node in graph.node:
        if node.op not in ("Mul", "Add", "AddV2", "Sub", "BiasAdd"):
            continue
        found = _operands(node, by_name)
        if found is None:
            continue
        before, value = found
        chain = _chain(before, by_name, readers)
        if chain is None or touched & {node.name, *chain}:
            continue
        folded = _fold(node, value, [by_name[n] for n in chain], by_name)
        if folded is None:
            continue
        touched |= {node.name, *chain}
        new_nodes.update({n.name: n for n in folded})
        # The last operation of the chain takes the folded one's name and place, but
        # for a product that gets its first bias.
        if len(chain) == 2 or node.op == "Mul":
            replaced.add(chain[0])
    if not new_nodes:
        return graph, False
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    for node in graph.node:
        if node.name not in replaced:
            result.node.append(new_nodes.pop(node.name, node))
    result.node.extend(new_nodes.values())
    return result, True


def _operands(node: Any, by_name: Any) -> tuple[str, np.ndarray] | None:
    """The input that varies, and the constant one as float64 by channel or alone."""
    refs = [graphdef.split(r) for r in node.input]
    sides = [by_name[name].op == "Const" for name, _ in refs]
    if sum(sides) != 1 or any(index for _, index in refs):
        return None
    at = sides.index(True)
    if node.op in ("Sub", "BiasAdd") and at != 1:
        return None
    value = _value(by_name[refs[at][0]])
    if value.dtype != np.float32 or value.ndim > 4:
        return None
    if value.size != 1 and value.size != value.shape[-1]:
        return None
    flat = value.reshape(-1).astype(np.float64)
    return refs[1 - at][0], -flat if node.op == "Sub" else flat


def _chain(name: str, by_name: Any, readers: Counter) -> list[str] | None:
    """``[product]`` or ``[bias, product]`` whose values nobody else reads."""
    chain = []
    node = by_name[name]
    if node.op == "BiasAdd":
        if (
            readers[name] != 1
            or by_name[graphdef.split(node.input[1])[0]].op != "Const"
        ):
            return None
        chain.append(name)
        name = graphdef.split(node.input[0])[0]
        node = by_name[name]
    if node.op not in _PRODUCTS or readers[name] != 1:
        return None
    if by_name[graphdef.split(node.input[1])[0]].op != "Const":
        return None
    if graphdef.attribute(node, "data_format").s not in (b"", b"NHWC"):
        return None
    if node.op == "MatMul" and graphdef.attribute(node, "transpose_b").b:
        return None
    return [*chain, name]


def _fold(node: Any, value: np.ndarray, chain: list[Any], by_name: Any) -> Any:
    """New nodes for the old; None where the values would not keep."""
    product, bias = chain[-1], chain[0] if len(chain) == 2 else None
    weights = _value(by_name[graphdef.split(product.input[1])[0]])
    if weights.dtype != np.float32:
        return None
    depthwise = product.op == "DepthwiseConv2dNative"
    channels = int(np.prod(weights.shape[-2:])) if depthwise else weights.shape[-1]
    if value.size not in (1, channels):
        return None
    by_channel = np.broadcast_to(value, (channels,))
    old_bias = (
        _value(by_name[graphdef.split(bias.input[1])[0]]) if bias is not None else None
    )
    last = tf.compat.v1.NodeDef()
    if node.op == "Mul":
        shape = weights.shape[-2:] if depthwise else (channels,)
        scaled = _rounded(weights * by_channel.reshape(shape))
        if scaled is None:
            return None
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(product)
        copy.input[1] = f"{node.name}/weights"
        result = [copy, graphdef.constant(copy.input[1], scaled)]
        if bias is None:
            copy.name = node.name
            return result
        new_bias = _rounded(old_bias * by_channel)
        last.CopyFrom(bias)
    elif bias is None:
        if node.op == "BiasAdd":
            return None  # It is where it belongs.
        result, new_bias = [], _rounded(by_channel)
        last.op = "BiasAdd"
        last.attr["T"].type = tf.float32.as_datatype_enum
        last.attr["data_format"].s = b"NHWC"
        last.input.append(product.name)
    else:
        result, new_bias = [], _rounded(old_bias + by_channel)
        last.CopyFrom(bias)
    if new_bias is None:
        return None
    last.name = node.name
    del last.input[1:]
    last.input.append(f"{node.name}/bias")
    return [*result, last, graphdef.constant(f"{node.name}/bias", new_bias)]


def _rounded(value: np.ndarray) -> np.ndarray | None:
    """As float32; None where that overflows or loses digits to underflow."""
    with np.errstate(over="ignore", under="ignore"):
        result = value.astype(np.float32)
    small = (np.abs(result) < np.finfo(np.float32).tiny) & (value != 0)
    return None if small.any() or not np.isfinite(result).all() else result


def _plain_normalizations(graph: Any) -> Any:
    """Inference-time FusedBatchNorm as a multiplication and an addition."""
    by_name = graphdef.nodes(graph)
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.versions)
    for node in graph.node:
        inputs = [by_name[graphdef.split(r)[0]] for r in node.input]
        plain = (
            node.op in _NORMALIZATIONS
            and not graphdef.attribute(node, "is_training").b
            and graphdef.attribute(node, "data_format").s in (b"", b"NHWC")
            and all(i.op == "Const" for i in inputs[1:])
        )
        if not plain:
            result.node.add().CopyFrom(node)
            continue
        scale, offset, mean, variance = (
            _value(i).astype(np.float64) for i in inputs[1:]
        )
        factor = scale / np.sqrt(variance + graphdef.attribute(node, "epsilon").f)
        names = f"{node.name}/factor", f"{node.name}/scaled", f"{node.name}/summand"
        summand = (offset - mean * factor).astype(np.float32)
        result.node.append(graphdef.constant(names[0], factor.astype(np.float32)))
        result.node.append(graphdef.constant(names[2], summand))
        for name, op, left, right in (
            (names[1], "Mul", node.input[0], names[0]),
            (node.name, "AddV2", names[1], names[2]),
        ):
            added = result.node.add(name=name, op=op, input=[left, right])
            added.attr["T"].type = tf.float32.as_datatype_enum
    return result


def _evaluate(graph: Any, names: list[str]) -> list[np.ndarray]:
    part = graphdef.reachable(graph, names)
    # On the CPU whatever there is: an accelerator may round differently.
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(part, name="")
        with tf.compat.v1.Session(graph=imported, config=config) as session:
            return session.run([f"{name}:0" for name in names])


def _inputs_first(by_name: Any) -> list[str]:
    """Names in an order in which every node comes after its inputs."""
    order: dict[str, None] = {}
    stack = [(name, False) for name in by_name]
    while stack:
        name, seen = stack.pop()
        if seen:
            order[name] = None
        elif name not in order:
            stack.append((name, True))
            inputs = (graphdef.split(r)[0] for r in by_name[name].input)
            stack += [(i, False) for i in inputs if i not in order]
    return list(order)


def _placeholders(graph: Any) -> list[str]:
    return [node.name for node in graph.node if node.op == "Placeholder"]


def _value(node: Any) -> np.ndarray:
    return tf.make_ndarray(node.attr["value"].tensor)
