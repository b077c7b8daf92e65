"""Finds operations that TensorFlow 1.15 loads but cannot run correctly on a CPU.

The registry of operations says what 1.15 loads.  A graph that it loads can still stop
with an error when it is run, or compute other numbers than here.  This module knows
these cases::

    tf1_kernels.check(graph, layers=["conv"])

Each was tried in the runtime of 1.15.5 (`tests/freezing/test_tf1.py`).  Operations that
also stop in the current TensorFlow are not listed, because the verification finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

_MAX_SLICE_RANK = 7


class _Limit(NamedTuple):
    """What a kernel cannot do.

    Attributes:
      operations: The types of operation.
      applies: Whether it concerns a node.
      reason: The end of "TensorFlow 1.15 ...".
    """

    operations: tuple[str, ...]
    applies: Callable[[tf.compat.v1.NodeDef], bool]
    reason: str


def _is_channels_first(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a node takes images with the channels first."""
    return graphdef.attribute(node, "data_format").s in (b"NCHW", b"NCDHW")


def _is_dilated(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a convolution is dilated."""
    return any(rate != 1 for rate in graphdef.attribute(node, "dilations").list.i)


def _has_ellipsis(node: tf.compat.v1.NodeDef) -> bool:
    """Whether the equation of an Einsum has an ellipsis."""
    return b"..." in graphdef.attribute(node, "equation").s


def _trains(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a normalisation with the channels first computes its own statistics."""
    return graphdef.attribute(node, "is_training").b and _is_channels_first(node)


_LIMITS = (
    _Limit(
        (
            *("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3D"),
            *("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"),
            *("DepthToSpace", "SpaceToDepth"),
        ),
        _is_channels_first,
        "knows it with channels last only",
    ),
    _Limit(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        _trains,
        "knows it with channels last only",
    ),
    # 1.15 computes it as if the dilation were 1.
    _Limit(("DepthwiseConv2dNative",), _is_dilated, "ignores its dilation"),
    _Limit(("Conv3D", "Conv2DBackpropInput"), _is_dilated, "knows no dilation of it"),
    # It returns other numbers where the equation begins with one.
    _Limit(("Einsum",), _has_ellipsis, "computes it wrongly with an ellipsis"),
)


def check(graph: tf.compat.v1.GraphDef, *, layers: Iterable[str] = ()) -> None:
    """Refuses what 1.15 would stop at, or would compute otherwise.

    Args:
      graph: GraphDef without functions, from `graphdef.for_tf1`.
      layers: Names of the model's layers, to say where an operation comes from.

    Raises:
      UsageError: A kernel of 1.15 cannot do what a node asks of it.
    """
    layers = list(layers)
    for node in graph.node:
        for limit in _LIMITS:
            if node.op in limit.operations and limit.applies(node):
                raise _refused(node, limit.reason, layers)
    slices = {
        node.name: node.input[0]
        for node in graph.node
        if node.op in ("Slice", "StridedSlice")
    }
    if not slices:
        return
    shapes = graphdef.tensor_shapes(graph, set(slices.values()))
    for node in graph.node:
        rank = shapes[slices[node.name]].rank if node.name in slices else None
        if rank is not None and rank > _MAX_SLICE_RANK:
            reason = f"knows it up to {_MAX_SLICE_RANK} axes, and here are {rank}"
            raise _refused(node, reason, layers)


def _refused(
    node: tf.compat.v1.NodeDef, reason: str, layers: list[str]
) -> errors.UsageError:
    """The error of an operation that TensorFlow 1.15 cannot run."""
    layer = graphdef.layer_of(node.name, layers)
    where = f"layer {layer!r}" if layer else f"node {node.name!r}"
    return errors.UsageError(
        f"TensorFlow 1.15 loads the operation {node.op} of {where}, but {reason}:"
        " replace it, or write for newer runtimes with --notf1_compatible"
    )
