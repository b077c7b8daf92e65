"""Constant folding: computes the constant parts of a graph once, when it is written.

`fold_constants` evaluates nodes that depend on constants only; a batch normalisation
becomes one multiplication and one addition.  `fold_normalization` then moves these into
the weights and the bias of the convolution or product before them::

    graph = constant_folding.fold_constants(graph, keep=fetches)
    graph = constant_folding.fold_normalization(graph, keep=fetches)

`fold_reshape_sizes` comes before both: Keras computes the new shape of a ``Reshape``
from that of its input, and other readers than TensorFlow, such as OpenCV, need it as a
constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

# Operations that are cheap, have no state, and return no more numbers than they take.
# Folding others could make the file larger (Fill, Tile), or change what each run
# computes (random numbers).
_FOLDABLE_OPS = frozenset(
    """Add AddV2 Cast ConcatV2 ExpandDims Exp Identity Maximum Minimum Mul Neg Pack Pow
    RealDiv Reciprocal Reshape Rsqrt Sigmoid Softplus Sqrt Square Squeeze StridedSlice
    Sub Transpose""".split()
)
_BATCH_NORM_OPS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_NEUTRAL = {"Mul": 1.0, "Add": 0.0, "AddV2": 0.0, "Sub": 0.0}
PRODUCT_OPS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def fold_constants(
    graph: tf.compat.v1.GraphDef, keep: Collection[str]
) -> tf.compat.v1.GraphDef:
    """Replaces nodes that depend on constants only by their values.

    The values are the ones that the graph itself would compute, bit for bit, because
    TensorFlow computes them; only the factors of a fused batch normalisation are
    computed here, in float64.

    Args:
      graph: GraphDef without variables and control edges.
      keep: Names of the results, which stay as they are.
    """
    graph = _foldable_normalizations(graph)
    by_name = graphdef.nodes(graph)
    known: dict[str, bool] = {}
    # Inputs come first, because the nodes of a GraphDef may be in any order.
    for name in _inputs_first(by_name):
        node = by_name[name]
        known[name] = node.op == "Const" or (
            node.op in _FOLDABLE_OPS
            and name not in keep
            and all(known[graphdef.split(r)[0]] for r in node.input)
        )
    # Only the outermost nodes are evaluated, because no node reads their inputs then.
    wanted = {
        graphdef.split(reference)[0]
        for node in graph.node
        if not known[node.name]
        for reference in node.input
    }
    wanted = {n for n in wanted if known[n] and by_name[n].op != "Const"}
    if not wanted:
        return graph
    names = sorted(wanted)  # A set's order differs from process to process.
    values = dict(zip(names, _evaluate_constants(graph, names), strict=True))
    result = graphdef.like(graph)
    for node in graph.node:
        if node.name in values:
            result.node.append(graphdef.constant(node.name, values[node.name]))
        else:
            result.node.add().CopyFrom(node)
    return graphdef.reachable(result, [*keep, *_placeholder_names(graph)])


def fold_normalization(
    graph: tf.compat.v1.GraphDef, keep: Collection[str]
) -> tf.compat.v1.GraphDef:
    """Folds factors and summands by channel into the operation before them.

    ``conv(x, w) * a + b`` becomes ``bias_add(conv(x, w * a), b)``, for convolutions,
    depthwise convolutions and matrix products, with or without a bias.  Products are
    computed in float64 and rounded once.  An operation stays as it is if another node
    also reads it, or if its weights would leave the range of float32.

    Args:
      graph: GraphDef returned by `fold_constants`.
      keep: Names of the results, which keep their values.
    """
    changed = True
    # Each sweep moves a factor or a summand by one step only.
    while changed:
        graph, changed = _fold_once(graph, keep)
    return graphdef.reachable(graph, [*keep, *_placeholder_names(graph)])


def without_neutral_constants(
    graph: tf.compat.v1.GraphDef, keep: Collection[str]
) -> tf.compat.v1.GraphDef:
    """Removes constants without effect: multiplications by 1 and additions of 0.

    Args:
      graph: GraphDef returned by `fold_constants`.
      keep: Names of the results and of inputs, which stay.
    """
    by_name = graphdef.nodes(graph)
    result = graphdef.like(graph)
    for node in graph.node:
        result.node.add().CopyFrom(node)
        if node.op not in _NEUTRAL or node.name in keep:
            continue
        found = _input_and_constant(node, by_name)
        # A constant with axes could give the result more of them than the input has.
        if found is None or found[1].ndim or found[1] != _NEUTRAL[node.op]:
            continue
        del result.node[-1].input[:]
        result.node[-1].input.append(found[0])
        result.node[-1].op = "Identity"
    result = graphdef.without_identities(result, keep)
    return graphdef.reachable(result, [*keep, *_placeholder_names(result)])


def fold_reshape_sizes(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces the computed size of each ``Reshape`` by a constant, ``[-1, ...]``.

    A size stays computed unless only that of the batch is unknown.

    Args:
      graph: GraphDef without control edges.
    """
    by_name = graphdef.nodes(graph)
    computed = [
        node.name
        for node in graph.node
        if node.op == "Reshape"
        and by_name[graphdef.split(node.input[1])[0]].op != "Const"
    ]
    if not computed:
        return graph
    shapes = graphdef.tensor_shapes(graph, computed)
    result = graphdef.like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        shape = shapes.get(node.name)
        if shape is None or not shape.rank or None in shape.as_list()[1:]:
            continue
        # The number of elements stays the same, so one size follows from the others.
        sizes = graphdef.constant(
            f"{node.name}/sizes", np.array([-1, *shape.as_list()[1:]], np.int32)
        )
        result.node.append(sizes)
        kept.input[1] = sizes.name
        kept.attr["Tshape"].type = tf.int32.as_datatype_enum
    return graphdef.without_unread(result, graph)


def _fold_once(
    graph: tf.compat.v1.GraphDef, keep: Collection[str]
) -> tuple[tf.compat.v1.GraphDef, bool]:
    """Folds each multiplication and addition into the one operation before it.

    Returns:
      The graph, and whether anything moved.
    """
    by_name = graphdef.nodes(graph)
    readers = Counter(graphdef.split(r)[0] for n in graph.node for r in n.input)
    readers.update(keep)  # The caller reads the results.
    new_nodes: dict[str, tf.compat.v1.NodeDef] = {}
    replaced: set[str] = set()
    touched: set[str] = set()
    for node in graph.node:
        if node.op not in ("Mul", "Add", "AddV2", "Sub", "BiasAdd"):
            continue
        found = _input_and_constant(node, by_name)
        if found is None:
            continue
        before, value = found
        chain = _foldable_chain(before, by_name, readers)
        # `by_name` has the nodes as they were before this sweep: a node that changed
        # in it must wait for the next one.
        if chain is None or touched & {node.name, *chain}:
            continue
        folded = _fold_into_chain(node, value, [by_name[n] for n in chain], by_name)
        if folded is None:
            continue
        touched |= {node.name, *chain}
        new_nodes.update({n.name: n for n in folded})
        # The last operation of the chain takes the name and the place of the folded
        # one.  Only a product without a bias stays: it gets a BiasAdd after it.
        if len(chain) == 2 or node.op == "Mul":
            replaced.add(chain[0])
    if not new_nodes:
        return graph, False
    result = graphdef.like(graph)
    for node in graph.node:
        if node.name not in replaced:
            result.node.append(new_nodes.pop(node.name, node))
    result.node.extend(new_nodes.values())
    return result, True


def _input_and_constant(
    node: tf.compat.v1.NodeDef, by_name: Mapping[str, tf.compat.v1.NodeDef]
) -> tuple[str, np.ndarray] | None:
    """The input of a foldable operation that varies, and its constant as float64."""
    refs = [graphdef.split(r) for r in node.input]
    sides = [by_name[name].op == "Const" for name, _ in refs]
    if sum(sides) != 1 or any(index for _, index in refs):
        return None
    at = sides.index(True)
    if node.op in ("Sub", "BiasAdd") and at != 1:
        return None
    value = _constant_value(by_name[refs[at][0]])
    if value.dtype != np.float32:
        return None
    # Only the last axis may be longer than 1: other axes are places, not channels.
    if value.size != 1 and value.size != value.shape[-1]:
        return None
    exact = value.astype(np.float64)
    return refs[1 - at][0], -exact if node.op == "Sub" else exact


def _foldable_chain(
    name: str, by_name: Mapping[str, tf.compat.v1.NodeDef], readers: Counter[str]
) -> list[str] | None:
    """``[product]`` or ``[bias, product]`` that a constant can be folded into."""
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
    if node.op not in PRODUCT_OPS or readers[name] != 1:
        return None
    if by_name[graphdef.split(node.input[1])[0]].op != "Const":
        return None
    # Elsewhere the channels are not the last axis of the result or of the weights.
    if graphdef.attribute(node, "data_format").s not in (b"", b"NHWC"):
        return None
    if node.op == "MatMul" and graphdef.attribute(node, "transpose_b").b:
        return None
    return [*chain, name]


def _fold_into_chain(
    node: tf.compat.v1.NodeDef,
    value: np.ndarray,
    chain: list[tf.compat.v1.NodeDef],
    by_name: Mapping[str, tf.compat.v1.NodeDef],
) -> list[tf.compat.v1.NodeDef] | None:
    """The nodes that folding puts in place of `node` and `chain`; None if it cannot.

    Args:
      node: A multiplication or an addition.
      value: Its constant, float64, by channel or one number.
      chain: ``[product]`` or ``[bias, product]`` before it.
      by_name: All nodes.
    """
    product, bias = chain[-1], chain[0] if len(chain) == 2 else None
    weights = _constant_value(by_name[graphdef.split(product.input[1])[0]])
    if weights.dtype != np.float32:
        return None
    # Weights of a depthwise convolution are [height, width, channel, multiplier].
    depthwise = product.op == "DepthwiseConv2dNative"
    by_channel = weights.shape[-2:] if depthwise else weights.shape[-1:]
    channels = int(np.prod(by_channel))
    if value.size not in (1, channels):
        return None
    # A constant with more axes than the product gives the result these axes too.
    if value.ndim > (2 if product.op == "MatMul" else 4):
        return None
    operand = np.broadcast_to(value.reshape(-1), (channels,))
    old_bias = (
        _constant_value(by_name[graphdef.split(bias.input[1])[0]])
        if bias is not None
        else None
    )
    if node.op != "Mul":
        if bias is None and node.op == "BiasAdd":
            return None  # It is already a bias.
        return _folded_bias(
            node, product, bias, operand if old_bias is None else old_bias + operand
        )
    scaled = _folded_in_float32(weights * operand.reshape(by_channel))
    if scaled is None:
        return None
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(product)
    copy.input[1] = f"{node.name}/weights"
    result = [copy, graphdef.constant(copy.input[1], scaled)]
    if old_bias is None:
        copy.name = node.name
        return result
    added = _folded_bias(node, product, bias, old_bias * operand)
    return None if added is None else [*result, *added]


def _folded_bias(
    node: tf.compat.v1.NodeDef,
    product: tf.compat.v1.NodeDef,
    bias: tf.compat.v1.NodeDef | None,
    values: np.ndarray,
) -> list[tf.compat.v1.NodeDef] | None:
    """The BiasAdd that `node` is folded to, and its constant; None if out of range."""
    rounded = _folded_in_float32(values)
    if rounded is None:
        return None
    last = tf.compat.v1.NodeDef()
    if bias is not None:
        last.CopyFrom(bias)
    else:
        last.op = "BiasAdd"
        last.attr["T"].type = tf.float32.as_datatype_enum
        last.attr["data_format"].s = b"NHWC"
        last.input.append(product.name)
    last.name = node.name
    del last.input[1:]
    last.input.append(f"{node.name}/bias")
    return [last, graphdef.constant(f"{node.name}/bias", rounded)]


def _folded_in_float32(value: np.ndarray) -> np.ndarray | None:
    """Folded values as float32; None if one overflows or underflows."""
    with np.errstate(over="ignore", under="ignore"):
        result = value.astype(np.float32)
    small = (np.abs(result) < np.finfo(np.float32).tiny) & (value != 0)
    return None if small.any() or not np.isfinite(result).all() else result


def _foldable_normalizations(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces FusedBatchNorm in inference by a product and a sum, which fold."""
    by_name = graphdef.nodes(graph)
    result = graphdef.like(graph)
    for node in graph.node:
        inputs = [by_name[graphdef.split(r)[0]] for r in node.input]
        plain = (
            node.op in _BATCH_NORM_OPS
            and not graphdef.attribute(node, "is_training").b
            and graphdef.attribute(node, "data_format").s in (b"", b"NHWC")
            and all(i.op == "Const" for i in inputs[1:])
        )
        if not plain:
            result.node.add().CopyFrom(node)
            continue
        # Computed in float64 and rounded once.  The only difference from the fused
        # operation is then that operation's own rounding.
        scale, offset, mean, variance = (
            _constant_value(i).astype(np.float64) for i in inputs[1:]
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


def _evaluate_constants(
    graph: tf.compat.v1.GraphDef, names: list[str]
) -> list[np.ndarray]:
    """The values of constant nodes, as TensorFlow computes them."""
    part = graphdef.reachable(graph, names)
    # Only the CPU is used, because the graph is verified there, and a GPU may round
    # differently.
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(part, name="")
        with tf.compat.v1.Session(graph=imported, config=config) as session:
            return session.run([f"{name}:0" for name in names])


def _inputs_first(by_name: Mapping[str, tf.compat.v1.NodeDef]) -> list[str]:
    """Names of nodes in the order of folding: every node comes after its inputs."""
    order: dict[str, None] = {}  # A set that keeps its order.
    # A stack is used, because networks are deeper than Python's recursion limit.
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


def _placeholder_names(graph: tf.compat.v1.GraphDef) -> list[str]:
    """Names of the nodes that are fed, which folding keeps."""
    return [node.name for node in graph.node if node.op == "Placeholder"]


def _constant_value(node: tf.compat.v1.NodeDef) -> np.ndarray:
    """The array in a constant node."""
    return tf.make_ndarray(node.attr["value"].tensor)
