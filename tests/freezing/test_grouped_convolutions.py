"""Grouped convolutions become operations that TensorFlow 1.15 can run."""

import numpy as np
import pytest

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    graphdef,
    grouped_convolutions,
    model_source,
)
from tests.freezing import small_graphs


def grouped_model(**options):
    images = keras.Input((12, 12, 3), name="root_input")
    hidden = keras.layers.Conv2D(8, 3, activation="tanh")(images)
    hidden = keras.layers.Conv2D(name="grouped", **options)(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    age = keras.layers.Dense(1, name="age_output")(hidden)
    return keras.Model(images, [age])


def run(graph, images):
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            return session.run("age_output/BiasAdd:0", {"root_input:0": images})


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    ("options", "operation"),
    [
        ({"filters": 8, "groups": 8}, "DepthwiseConv2dNative"),
        ({"filters": 16, "groups": 8, "padding": "same"}, "DepthwiseConv2dNative"),
        ({"filters": 8, "groups": 8, "strides": 2}, "DepthwiseConv2dNative"),
        # Keras turns dilation into SpaceToBatchND and BatchToSpaceND.
        ({"filters": 8, "groups": 8, "dilation_rate": 2}, "DepthwiseConv2dNative"),
        # What 1.15's depthwise kernel does not know.
        ({"filters": 8, "groups": 8, "strides": (1, 2)}, "Split"),
        ({"filters": 8, "groups": 2}, "Split"),
        ({"filters": 12, "groups": 4, "use_bias": False}, "Split"),
    ],
)
def test_no_grouped_convolution_is_left(options, operation, fold):
    keras.utils.set_random_seed(1)
    model = grouped_model(kernel_size=3, **options)
    source = model_source.from_model(model, outputs=["age"])
    graph = build_graph.build(
        source, {"age": "age_output/BiasAdd"}, fold_constants=fold
    )
    assert operation in {node.op for node in graph.node}
    weights = graphdef.nodes(graph)
    for node in graph.node:
        if node.op == "Conv2D" and "grouped" in node.name:
            kernel = weights[node.input[1]].attr["value"].tensor.tensor_shape
            assert kernel.dim[2].size == 8 // options["groups"]
            assert graphdef.split(node.input[0])[0].endswith("/split")
    images = np.random.default_rng(1).normal(size=(5, 12, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(run(graph, images), model(images), atol=1e-5)


def test_newer_runtimes_get_the_grouped_convolution():
    source = model_source.from_model(
        grouped_model(filters=8, kernel_size=3, groups=8), outputs=["age"]
    )
    graph = build_graph.build(
        source, {"age": "age_output/BiasAdd"}, tf1_compatible=False
    )
    assert sum(node.op == "Conv2D" for node in graph.node) == 2


def test_other_graphs_stay_as_they_are():
    frozen = small_graphs.frozen(model_source.from_model(small_graphs.build()))
    assert any(node.op == "Conv2D" for node in frozen.graph.node)
    assert grouped_convolutions.without_groups(frozen.graph) is frozen.graph
