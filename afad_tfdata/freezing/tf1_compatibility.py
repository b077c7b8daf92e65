"""Compatibility with TensorFlow 1.15: what it loads, and what it runs on a CPU.

::

    graph = tf1_compatibility.loadable(graph, layers=["conv"])
    tf1_compatibility.check_kernels(graph, layers=["conv"])

The registry of operations says what 1.15 loads.  A graph that it loads can still stop
with an error when it is run, or compute other numbers than here.  This module knows
these cases.  Each was tried in the runtime of 1.15.5 (`tests/freezing/test_tf1.py`).
Operations that also stop in the current TensorFlow are not listed, because the
verification finds them.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

_TF1_OPS_PATH = pathlib.Path(__file__).parent / "tf1_ops.json"

_MAX_SLICE_RANK = 7


class _KernelLimit(NamedTuple):
    """What a kernel of TensorFlow 1.15 cannot do.

    Attributes:
      operations: The types of operation.
      applies: Whether it concerns a node.
      reason: The end of "TensorFlow 1.15 ...".
    """

    operations: tuple[str, ...]
    applies: Callable[[tf.compat.v1.NodeDef], bool]
    reason: str


def _is_channels_first(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a node has the channels first, which TensorFlow 1.15 cannot on a CPU."""
    return graphdef.attribute(node, "data_format").s in (b"NCHW", b"NCDHW")


def _is_dilated(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a convolution is dilated, which TensorFlow 1.15 may ignore."""
    return any(rate != 1 for rate in graphdef.attribute(node, "dilations").list.i)


def _has_ellipsis(node: tf.compat.v1.NodeDef) -> bool:
    """Whether an Einsum has an ellipsis, which TensorFlow 1.15 may compute wrongly."""
    return b"..." in graphdef.attribute(node, "equation").s


def _trains_channels_first(node: tf.compat.v1.NodeDef) -> bool:
    """Whether a normalisation trains with the channels first, which 1.15 cannot."""
    return graphdef.attribute(node, "is_training").b and _is_channels_first(node)


def loadable(
    graph: tf.compat.v1.GraphDef, *, layers: Iterable[str] = ()
) -> tf.compat.v1.GraphDef:
    """The graph in a form that TensorFlow 1.15 loads.

    1.15 refuses attributes that it does not know even where they have their default
    value.  These are removed, and so are devices and private attributes.

    Args:
      graph: GraphDef without functions.
      layers: Names of the model's layers, to say where an operation comes from.

    Raises:
      UsageError: 1.15 does not know an operation, an attribute or its value.
    """
    table, known = known_operations(), graphdef.op_definitions(graph)
    result = graphdef.like(graph)
    for node in graph.node:
        kept = result.node.add()
        kept.CopyFrom(node)
        kept.device = ""  # Another machine may not have this one's devices.
        allowed = table.get(node.op)
        if allowed is None:
            raise _unknown_to_tf1(node, layers, "operation")
        defaults = {attr.name: attr.default_value for attr in known[node.op].attr}
        for name, value in node.attr.items():
            # Private attributes are hints of this TensorFlow to itself (_output_shapes,
            # _class, _XlaMustCompile), and have no effect on the values.
            if name.startswith("_"):
                del kept.attr[name]
            # Attributes that are newer than 1.15 (MaxPool's explicit_paddings, MatMul's
            # grad_a and grad_b): at the default value, the operation does what it did
            # in 1.15.
            elif name not in allowed:
                if defaults.get(name) != value:
                    raise _unknown_to_tf1(
                        node, layers, f"attribute {name} of the operation"
                    )
                del kept.attr[name]
            # Attributes that 1.15 knows, with a value that came later (padding
            # EXPLICIT).
            elif not _allows_value(allowed[name], value):
                raise _unknown_to_tf1(node, layers, f"value of {name} of the operation")
    return result


_LIMITS = (
    _KernelLimit(
        (
            *("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3D"),
            *("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"),
            *("DepthToSpace", "SpaceToDepth"),
        ),
        _is_channels_first,
        "knows it with channels last only",
    ),
    _KernelLimit(
        ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        _trains_channels_first,
        "knows it with channels last only",
    ),
    # 1.15 computes it as if the dilation were 1.
    _KernelLimit(("DepthwiseConv2dNative",), _is_dilated, "ignores its dilation"),
    _KernelLimit(
        ("Conv3D", "Conv2DBackpropInput"), _is_dilated, "knows no dilation of it"
    ),
    # It returns other numbers where the equation begins with one.
    # On one machine its numbers were wrong, and on another one right to the last digit.
    _KernelLimit(("Einsum",), _has_ellipsis, "can compute it wrongly with an ellipsis"),
)


def check_kernels(graph: tf.compat.v1.GraphDef, *, layers: Iterable[str] = ()) -> None:
    """Refuses what TensorFlow 1.15 would stop at, or would compute otherwise.

    Args:
      graph: GraphDef without functions, from `loadable`.
      layers: Names of the model's layers, to say where an operation comes from.

    Raises:
      UsageError: A kernel of 1.15 cannot do what a node asks of it.
    """
    layers = list(layers)
    for node in graph.node:
        for limit in _LIMITS:
            if node.op in limit.operations and limit.applies(node):
                raise _wrong_in_tf1(node, limit.reason, layers)
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
            raise _wrong_in_tf1(node, reason, layers)


def _wrong_in_tf1(
    node: tf.compat.v1.NodeDef, reason: str, layers: list[str]
) -> errors.UsageError:
    """The error of an operation that TensorFlow 1.15 loads but cannot run."""
    layer = graphdef.layer_of(node.name, layers)
    where = f"layer {layer!r}" if layer else f"node {node.name!r}"
    return errors.UsageError(
        f"TensorFlow 1.15 loads the operation {node.op} of {where}, but {reason}:"
        " replace it, or write for newer runtimes with --notf1_compatible"
    )


@functools.cache
def known_operations() -> dict[str, dict[str, list[Any] | None]]:
    """The operations of TensorFlow 1.15, with their attributes and allowed values.

    An attribute has a list of its allowed values, or None if it takes any.
    ``tests/robustness/dump_tf1_ops.py`` wrote the file from the runtime of 1.15.5.
    """
    return json.loads(_TF1_OPS_PATH.read_text())


def _allows_value(allowed: Sequence[Any] | None, value: Any) -> bool:
    """Whether TensorFlow 1.15 knows the value of an operation's attribute."""
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


def _unknown_to_tf1(
    node: tf.compat.v1.NodeDef, layers: Iterable[str], what: str
) -> errors.UsageError:
    """The error of a node that TensorFlow 1.15 does not know."""
    layer = graphdef.layer_of(node.name, layers)
    where = f"layer {layer!r}" if layer else f"node {node.name!r}"
    return errors.UsageError(
        f"TensorFlow 1.15 does not know this {what} {node.op}, which comes from"
        f" {where}: replace it, or write for newer runtimes with --notf1_compatible"
    )
