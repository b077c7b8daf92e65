"""Makes constants of shapes in which only the size of the batch is unknown.

Keras computes the new shape of a ``Reshape`` from that of its input.  Other readers
than TensorFlow, such as OpenCV, need it as a constant::

    graph = constant_shapes.constant(graph)
"""

from __future__ import annotations

import numpy as np

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef


def constant(graph: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """Replaces the computed shape of a ``Reshape`` by ``[-1, ...]``, if they are equal.

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
