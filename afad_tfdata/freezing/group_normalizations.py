"""Group normalisations in a form that other readers than TensorFlow know.

Keras splits the channels into groups by a fifth axis.  OpenCV reads neither tensors nor
averages of this form.  This module computes the same average in two steps: over the
places of each channel, and then, by a convolution with constant weights, over the
channels of each group::

    graph = group_normalizations.in_four_axes(graph)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

# The nodes that Keras builds.  A tuple contains the type of a node and the nodes that
# it reads.  A text stands for any node; the same text always stands for the same node.
_SPLIT = ("Reshape", "images", "sizes")
_MEAN = ("Mean", _SPLIT, "axes")
_VARIANCE = ("Mean", ("SquaredDifference", _SPLIT, _MEAN), "axes_of_squares")
_SCALE = ("Mul", ("Rsqrt", ("AddV2", _VARIANCE, "epsilon")), "factor")
_SHIFT = ("AddV2", ("Mul", ("Neg", _MEAN), _SCALE), "summand")
_PATTERN = ("Reshape", ("AddV2", ("Mul", _SPLIT, _SCALE), _SHIFT), "shape")
_COMMUTATIVE = ("AddV2", "Mul", "SquaredDifference")


class _GroupNormalization(NamedTuple):
    """A group normalisation.

    Attributes:
      images: The reference to its input, ``[n, height, width, channels]``.
      groups: Number of groups.
      factor: What the result is multiplied by, for each channel.
      summand: What is added then, for each channel.
      epsilon: What is added to the variance.
    """

    images: str
    groups: int
    factor: np.ndarray
    summand: np.ndarray
    epsilon: float


def in_four_axes(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces the group normalisations of Keras by nodes with four axes.

    Args:
      graph: GraphDef returned by `constant_folding`.  Normalisations of another form
        stay as they are.
    """
    found = _find_group_normalizations(graph)
    if not found:
        return graph
    result = graphdef.like(graph)
    for node in graph.node:
        if node.name in found:
            result.node.extend(_four_axes_nodes(node.name, found[node.name]))
        else:
            result.node.add().CopyFrom(node)
    return graphdef.without_unread(result, graph)


def _find_group_normalizations(
    graph: tf.compat.v1.GraphDef,
) -> dict[str, _GroupNormalization]:
    """The group normalisations of a graph by the name of their last node."""
    by_name = graphdef.nodes(graph)
    candidates = {}
    for node in graph.node:
        if node.op == "Reshape" and (
            match := _match_group_normalization(node.name, by_name)
        ):
            candidates[node.name] = match
    if not candidates:
        return {}
    shapes = graphdef.tensor_shapes(
        graph, [*candidates, *(f.images for f in candidates.values())]
    )
    result = {}
    for name, found in candidates.items():
        before, after = shapes[found.images], shapes[name]
        # Only with these shapes are the channels the last axis, and in their order.
        if (
            before.rank == after.rank == 4
            and before[3] == found.factor.size
            and before.as_list()[1:] == after.as_list()[1:]
        ):
            result[name] = found
    return result


def _match_group_normalization(
    name: str, by_name: Mapping[str, tf.compat.v1.NodeDef]
) -> _GroupNormalization | None:
    """The group normalisation that ends in a node; None if none does."""
    bound: dict[str, str] = {}
    if not _fits_pattern(_PATTERN, name, by_name, bound):
        return None
    values = {}
    for part in ("sizes", "axes", "axes_of_squares", "epsilon", "factor", "summand"):
        node = by_name[graphdef.split(bound[part])[0]]
        if node.op != "Const":
            return None
        values[part] = tf.make_ndarray(node.attr["value"].tensor)
    sizes, factor, summand = values["sizes"], values["factor"], values["summand"]
    groups_averaged = all(
        sorted(axis % 5 for axis in values[part].reshape(-1)) == [1, 2, 4]
        for part in ("axes", "axes_of_squares")
    )
    if not groups_averaged or len(sizes) != 5 or values["epsilon"].size != 1:
        return None
    by_channel = (1, 1, 1, sizes[3], sizes[4])
    if factor.shape != by_channel or summand.shape != by_channel:
        return None
    return _GroupNormalization(
        bound["images"],
        int(sizes[3]),
        factor.reshape(-1),
        summand.reshape(-1),
        float(values["epsilon"].reshape(())),
    )


def _fits_pattern(
    pattern: Any,
    reference: str,
    by_name: Mapping[str, tf.compat.v1.NodeDef],
    bound: dict[str, str],
) -> bool:
    """Whether a node is one of a group normalisation's pattern; fills in `bound`."""
    if isinstance(pattern, str):
        return bound.setdefault(pattern, reference) == reference
    kind, *parts = pattern
    node = by_name[graphdef.split(reference)[0]]
    inputs = [graphdef.canonical(r) for r in node.input]
    if node.op != kind or len(inputs) != len(parts):
        return False
    if kind == "Mean" and not graphdef.attribute(node, "keep_dims").b:
        return False
    for order in (inputs, inputs[::-1]) if kind in _COMMUTATIVE else (inputs,):
        tried = dict(bound)
        if all(
            _fits_pattern(p, r, by_name, tried)
            for p, r in zip(parts, order, strict=True)
        ):
            bound.update(tried)
            return True
    return False


def _four_axes_nodes(
    name: str, found: _GroupNormalization
) -> list[tf.compat.v1.NodeDef]:
    """A group normalisation's new nodes, which use four axes.

    They compute ``d / sqrt(mean(d * d) + epsilon) * factor + summand``, where d is the
    images minus their mean.
    """
    channels = found.factor.size
    group = channels // found.groups
    weights = np.kron(np.eye(found.groups), np.full((group, group), 1 / group))
    constants = {
        "axes": np.array([1, 2], np.int32),
        "weights": weights.reshape(1, 1, channels, channels).astype(np.float32),
        "epsilon": np.float32(found.epsilon),
        "factor": found.factor.astype(np.float32),
        "summand": found.summand.astype(np.float32),
    }
    nodes = [
        graphdef.constant(f"{name}/{k}", np.asarray(v)) for k, v in constants.items()
    ]

    def add(part: str, op: str, *inputs: str) -> str:
        """Adds a node of the group normalisation; returns its name."""
        node = tf.compat.v1.NodeDef(
            name=f"{name}/{part}" if part else name, op=op, input=inputs
        )
        node.attr["T"].type = tf.float32.as_datatype_enum
        nodes.append(node)
        return node.name

    def average(part: str, values: str) -> str:
        """Adds the nodes of the mean over each group; returns the last one's name."""
        places = add(f"{part}/places", "Mean", values, f"{name}/axes")
        nodes[-1].attr["Tidx"].type = tf.int32.as_datatype_enum
        nodes[-1].attr["keep_dims"].b = True
        result = add(f"{part}/channels", "Conv2D", places, f"{name}/weights")
        nodes[-1].attr["strides"].list.i.extend([1, 1, 1, 1])
        nodes[-1].attr["padding"].s = b"VALID"
        nodes[-1].attr["data_format"].s = b"NHWC"
        return result

    # The order matters: OpenCV 4.11 also reads other orders, but computes other
    # numbers.
    difference = add("difference", "Sub", found.images, average("mean", found.images))
    square = add("square", "Mul", difference, difference)
    variance = add("variance", "AddV2", average("squares", square), f"{name}/epsilon")
    root = add("root", "Sqrt", variance)
    quotient = add("quotient", "RealDiv", difference, root)
    scaled = add("scaled", "Mul", quotient, f"{name}/factor")
    add("", "AddV2", scaled, f"{name}/summand")
    return nodes
