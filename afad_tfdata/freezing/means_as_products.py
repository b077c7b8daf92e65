"""Means of vectors, expressed as matrix products, which every reader knows.

An age head reshapes its ``[n, ages]`` to ``[n, ages, 1]`` and takes the mean over the
ages.  OpenCV does not read averages over this axis::

    graph = means_as_products.replace_means(graph)
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef


def replace_means(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces the mean ``mean(reshape(x, [-1, k, 1]), 1)`` by a matrix product.

    The product is ``x @ [[1 / k], ...]``.

    Args:
      graph: GraphDef in which shapes and axes are constants.
    """
    by_name = graphdef.nodes(graph)
    found = {}
    for node in graph.node:
        if node.op != "Mean" or graphdef.attribute(node, "keep_dims").b:
            continue
        if node.attr["T"].type != tf.float32.as_datatype_enum:
            continue
        reshaped, axes = (by_name[graphdef.split(r)[0]] for r in node.input)
        if reshaped.op != "Reshape" or axes.op != "Const":
            continue
        sizes = by_name[graphdef.split(reshaped.input[1])[0]]
        if sizes.op != "Const":
            continue
        shape = tf.make_ndarray(sizes.attr["value"].tensor).tolist()
        axis = tf.make_ndarray(axes.attr["value"].tensor).reshape(-1).tolist()
        if len(shape) == 3 and shape[2] == 1 and shape[1] > 0 and axis in ([1], [-2]):
            found[node.name] = (reshaped.input[0], shape[1])
    if not found:
        return graph
    shapes = graphdef.tensor_shapes(graph, [source for source, _ in found.values()])
    found = {
        name: (source, count)
        for name, (source, count) in found.items()
        if shapes[source].rank == 2 and shapes[source][1] == count
    }
    result = graphdef.like(graph)
    for node in graph.node:
        if node.name not in found:
            result.node.add().CopyFrom(node)
            continue
        source, count = found[node.name]
        weights = graphdef.constant(
            f"{node.name}/shares", np.full((count, 1), 1 / count, np.float32)
        )
        product = tf.compat.v1.NodeDef(
            name=node.name, op="MatMul", input=[source, weights.name]
        )
        product.attr["T"].type = tf.float32.as_datatype_enum
        product.attr["transpose_a"].b = product.attr["transpose_b"].b = False
        result.node.extend([weights, product])
    return graphdef.without_unread(result, graph)
