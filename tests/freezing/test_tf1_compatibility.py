"""What the kernels of TensorFlow 1.15 cannot do is refused when a graph is written."""

import re

import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import build_graph, graphdef, model_source, tf1_compatibility
from tests.freezing import kernel_limits


@pytest.mark.parametrize("name", kernel_limits.REFUSED)
def test_refused_by_the_name_of_the_node(name):
    graph = tf1_compatibility.loadable(kernel_limits.graph(kernel_limits.REFUSED[name]))
    (node,) = (n.name for n in graph.node if n.op == name.split()[0])
    with pytest.raises(errors.UsageError, match=f"node '{re.escape(node)}'") as error:
        tf1_compatibility.check_kernels(graph)
    assert "--notf1_compatible" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", kernel_limits.ACCEPTED)
def test_accepted(name):
    graph = kernel_limits.graph(kernel_limits.ACCEPTED[name])
    tf1_compatibility.check_kernels(tf1_compatibility.loadable(graph))


def test_the_graph_stays_as_it_is():
    """TensorFlow adds attributes to a graph that it imports, and 1.15 refuses them."""

    def build(x):
        return tf.nn.max_pool2d(x, 2, 2, "SAME")[:, :1]

    graph = tf1_compatibility.loadable(kernel_limits.graph(build))
    before = graphdef.serialized(graph)
    tf1_compatibility.check_kernels(graph)
    assert graphdef.serialized(graph) == before


def test_the_layer_is_named():
    def build(x):
        with tf.name_scope("model/first_1"):
            return kernel_limits.REFUSED["MaxPool"](x)

    graph = tf1_compatibility.loadable(kernel_limits.graph(build))
    with pytest.raises(errors.UsageError, match="MaxPool of layer 'first'"):
        tf1_compatibility.check_kernels(graph, layers=["first"])


class Mixed(keras.layers.Layer):
    """A mixture of the channels, by an operation that runs on every processor."""

    def call(self, x):
        return tf.raw_ops.Einsum(
            inputs=[x, tf.ones([3, 3]) / 3], equation="...c,cd->...d"
        )


def test_freezing_refuses_it():
    image = keras.Input((16, 16, 3), name="root_input")
    x = keras.layers.Flatten()(Mixed(name="mixed")(image))
    model = keras.Model(image, keras.layers.Dense(1, name="age_output")(x))
    source = model_source.from_model(model)
    reason = "can compute it wrongly with an ellipsis"
    with pytest.raises(errors.UsageError, match=reason):
        build_graph.build(source, {"age": "years"})
    build_graph.build(source, {"age": "years"}, tf1_compatible=False)
