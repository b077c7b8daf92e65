"""Turns grouped convolutions into a form that TensorFlow 1.15 can run on a CPU.

Its kernel for ``Conv2D`` loads a graph with a grouped convolution, but stops when the
graph runs.  A convolution with one group per input channel is a depthwise convolution,
which it can run; any other is split into one convolution per group::

    graph = grouped_convolutions.without_groups(graph, layers=["conv"])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef


def without_groups(
    graph: tf.compat.v1.GraphDef, *, layers: Iterable[str] = ()
) -> tf.compat.v1.GraphDef:
    """Replaces grouped convolutions by ones without groups, and returns the graph.

    Each output channel is the sum of the same products as before.

    Args:
      graph: GraphDef without functions, in which weights are constants.
      layers: Names of the model's layers, for the error message.

    Raises:
      UsageError: The weights of a grouped convolution are not a constant.
    """
    groups = _group_counts(graph)
    if not groups:
        return graph
    by_name = graphdef.nodes(graph)
    result = graphdef.like(graph)
    for node in graph.node:
        if node.name not in groups:
            result.node.add().CopyFrom(node)
            continue
        weights = by_name[graphdef.split(node.input[1])[0]]
        if weights.op != "Const":
            layer = graphdef.layer_of(node.name, list(layers)) or node.name
            raise errors.UsageError(
                f"{layer} is a grouped convolution whose weights are computed, which"
                " TensorFlow 1.15 cannot run: replace it, or write for newer runtimes"
                " with --notf1_compatible"
            )
        values = tf.make_ndarray(weights.attr["value"].tensor)
        if _is_depthwise(node, values):
            result.node.extend(_depthwise(node, values, groups[node.name]))
        else:
            result.node.extend(_split_and_joined(node, values, groups[node.name]))
    # The weights in their earlier form are no longer needed.
    read = {graphdef.split(r)[0] for node in result.node for r in node.input}
    unused = {graphdef.split(by_name[name].input[1])[0] for name in groups} - read
    kept = graphdef.like(graph)
    kept.node.extend(node for node in result.node if node.name not in unused)
    return kept


def _group_counts(graph: tf.compat.v1.GraphDef) -> Mapping[str, int]:
    """The number of groups by name of the node, for grouped convolutions only."""
    found = {}
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        for operation in imported.get_operations():
            if operation.type != "Conv2D":
                continue
            images, weights = (value.shape for value in operation.inputs)
            if images.rank != 4 or weights.rank != 4:
                continue
            # TensorFlow 1.15 has no kernel for NCHW on a CPU either.
            channels = images[1 if operation.get_attr("data_format") == b"NCHW" else 3]
            if channels and weights[2] and channels != weights[2]:
                found[operation.name] = channels // weights[2]
    return found


def _is_depthwise(node: tf.compat.v1.NodeDef, weights: np.ndarray) -> bool:
    """Whether 1.15's depthwise kernel computes the same as a grouped convolution."""
    strides = graphdef.attribute(node, "strides").list.i
    dilations = graphdef.attribute(node, "dilations").list.i
    return (
        weights.shape[2] == 1
        # This kernel knows neither different strides, nor dilation or explicit padding.
        and strides[1] == strides[2]
        and all(dilation == 1 for dilation in dilations)
        and graphdef.attribute(node, "padding").s in (b"SAME", b"VALID")
        and graphdef.attribute(node, "data_format").s in (b"", b"NHWC")
    )


def _depthwise(
    node: tf.compat.v1.NodeDef, weights: np.ndarray, groups: int
) -> list[tf.compat.v1.NodeDef]:
    """A grouped convolution as a depthwise one."""
    height, width, _, _ = weights.shape
    changed = tf.compat.v1.NodeDef(name=node.name, op="DepthwiseConv2dNative")
    for name in ("T", "strides", "padding", "data_format", "dilations"):
        if name in node.attr:
            changed.attr[name].CopyFrom(node.attr[name])
    # Both operations order their outputs by input channel.
    constant = graphdef.constant(
        f"{node.name}/by_channel", weights.reshape(height, width, groups, -1)
    )
    changed.input.extend([node.input[0], constant.name])
    return [constant, changed]


def _split_and_joined(
    node: tf.compat.v1.NodeDef, weights: np.ndarray, groups: int
) -> list[tf.compat.v1.NodeDef]:
    """A grouped convolution as one convolution for each group."""
    channels_first = graphdef.attribute(node, "data_format").s == b"NCHW"
    axis = graphdef.constant(
        f"{node.name}/axis", np.array(1 if channels_first else 3, np.int32)
    )
    divided = tf.compat.v1.NodeDef(name=f"{node.name}/split", op="Split")
    divided.input.extend([axis.name, node.input[0]])
    divided.attr["T"].CopyFrom(node.attr["T"])
    divided.attr["num_split"].i = groups
    joined = tf.compat.v1.NodeDef(name=node.name, op="ConcatV2")
    nodes = [axis, divided]
    for group, part in enumerate(np.split(weights, groups, axis=3)):
        constant = graphdef.constant(f"{node.name}/weights_{group}", part)
        one = tf.compat.v1.NodeDef()
        one.CopyFrom(node)
        one.name = f"{node.name}/group_{group}"
        del one.input[:]
        one.input.extend([graphdef.join(divided.name, group), constant.name])
        joined.input.append(one.name)
        nodes += [constant, one]
    joined.input.append(axis.name)
    joined.attr["T"].CopyFrom(node.attr["T"])
    joined.attr["Tidx"].type = tf.int32.as_datatype_enum
    joined.attr["N"].i = groups
    return [*nodes, joined]
