"""Output nodes: their names, and that no other node reads them and readers keep them.

Readers other than TensorFlow merge nodes.  OpenCV makes one layer of a matrix product
and the ``BiasAdd`` after it, and this layer has the name of the product.  If a node of
the graph reads an output, OpenCV gives the memory of the output to another layer::

    graph = output_nodes.separate(graph, ["age/BiasAdd", "gender/Sigmoid"])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.freezing import corrected_source, graphdef

_INPUT_OPS = ("Placeholder", "Const")


def separate(
    graph: tf.compat.v1.GraphDef, fetches: Sequence[str]
) -> tf.compat.v1.GraphDef:
    """Gives each output a node of its own; the values stay the same, bit for bit.

    An output that other nodes read, such as the gender that the age depends on, is
    computed twice, which is cheap for one number per image.

    Args:
      graph: GraphDef without control edges.
      fetches: Names of the outputs.
    """
    result = graphdef.like(graph)
    result.CopyFrom(graph)
    by_name = graphdef.nodes(result)
    for name in fetches:
        _replace_output_identity(by_name[name], by_name)
    for name in fetches:
        readers = [n for n in result.node if name in map(graphdef.canonical, n.input)]
        if not readers or by_name[name].op in _INPUT_OPS:
            continue
        copy = result.node.add()
        copy.CopyFrom(by_name[name])
        copy.name = _free_node_name(f"{name}_inner", by_name)
        by_name[copy.name] = copy
        for reader in readers:
            references = [
                copy.name if graphdef.canonical(r) == name else r for r in reader.input
            ]
            del reader.input[:]
            reader.input.extend(references)
    for name in fetches:
        result.node.extend(_keep_bias_apart(by_name[name], by_name))
    return result


def names_by_label(names: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """The names of a graph's output nodes, by label.

    Args:
      names: The flag ``--output_nodes``; empty for the default names.
      labels: Labels of the outputs; that of the spread is the last one.

    Raises:
      UsageError: There are more or fewer names than outputs.
    """
    spread = [freeze_config.SPREAD_NODE] * (corrected_source.SPREAD in labels)
    own = labels[: len(labels) - len(spread)]
    names = names or [freeze_config.DEFAULT_NODES[label] for label in own]
    if len(names) == len(own):
        names = [*names, *spread]
    if len(names) != len(labels):
        raise errors.UsageError(
            f"--output_nodes names {len(names)} nodes, and the model has"
            f" {len(labels)} outputs: {', '.join(labels)}"
        )
    return dict(zip(labels, names, strict=True))


def _replace_output_identity(
    node: tf.compat.v1.NodeDef, by_name: dict[str, tf.compat.v1.NodeDef]
) -> None:
    """Turns an output that is an identity into a copy of the node before it."""
    if node.op != "Identity":
        return
    before, index = graphdef.split(node.input[0])
    if index or by_name[before].op in _INPUT_OPS:
        return
    name = node.name
    node.CopyFrom(by_name[before])
    node.name = name


def _keep_bias_apart(
    node: tf.compat.v1.NodeDef, by_name: dict[str, tf.compat.v1.NodeDef]
) -> list[tf.compat.v1.NodeDef]:
    """Puts a reshape between an output's product and its bias; values stay.

    The reshape changes nothing.  Without it, OpenCV merges an addition of a constant
    with the product right before it.

    Returns:
      New nodes; none if the node is something else, which stays as it is.
    """
    if node.op not in ("BiasAdd", "Add", "AddV2"):
        return []
    operands = [by_name[graphdef.split(r)[0]] for r in node.input]
    products = [n for n in operands if n.op == "MatMul"]
    constants = [n for n in operands if n.op == "Const"]
    if len(products) != 1 or len(constants) != 1:
        return []
    width = tf.make_ndarray(constants[0].attr["value"].tensor).size
    name = _free_node_name(f"{node.name}/product", by_name)
    sizes = graphdef.constant(f"{name}/sizes", np.array([-1, width], np.int32))
    reshaped = tf.compat.v1.NodeDef(
        name=name, op="Reshape", input=[products[0].name, sizes.name]
    )
    reshaped.attr["T"].CopyFrom(node.attr["T"])
    reshaped.attr["Tshape"].type = tf.int32.as_datatype_enum
    references = [
        name if graphdef.split(r)[0] == products[0].name else r for r in node.input
    ]
    del node.input[:]
    node.input.extend(references)
    return [sizes, reshaped]


def _free_node_name(name: str, taken: dict[str, tf.compat.v1.NodeDef]) -> str:
    """A name for an output's new node, which no node has."""
    number = 0
    while (found := f"{name}_{number}" if number else name) in taken:
        number += 1
    return found
