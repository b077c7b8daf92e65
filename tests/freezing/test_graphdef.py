"""Graphs: calls, variables, identities, names, constant folding, what 1.15 knows."""

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import (
    constant_folding,
    graph_description,
    graphdef,
    tf1_compatibility,
    variables_to_constants,
)


def traced(function, *specs):
    """A plain Python function as a graph of constants."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    return variables_to_constants.from_function(concrete)


def outputs(graph, feeds, fetches):
    """Runs a graph in a session."""
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            return session.run(
                [f"{name}:0" for name in fetches],
                {f"{name}:0": value for name, value in feeds.items()},
            )


def ops(graph):
    return sorted(node.op for node in graph.node)


X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def spec():
    return tf.TensorSpec([None, 4], tf.float32, name="x")


def test_calls_are_inlined_and_variables_become_constants():
    weights = tf.Variable(np.arange(8, dtype=np.float32).reshape(4, 2))

    @tf.function
    def inner(x):
        low, high = tf.split(x @ weights, 2, axis=1)  # An operation with two outputs.
        return high, low

    @tf.function
    def outer(x):
        high, low = inner(x)
        return low - high, x, high

    result = traced(lambda x: outer(x), spec())
    low, same, high = outputs(result.graph, {result.feeds[0]: X}, result.fetches)
    product = X @ weights.numpy()
    np.testing.assert_allclose(low, product[:, :1] - product[:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(same, X)
    np.testing.assert_allclose(high, product[:, 1:], rtol=1e-6)
    assert not result.graph.library.function
    assert not {"PartitionedCall", "StatefulPartitionedCall", "ReadVariableOp"} & set(
        ops(result.graph)
    )


def test_a_loop_that_stays_a_function_is_refused():
    def loop(x):
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 9, lambda y: (y + 1,), (x,))

    with pytest.raises(errors.UsageError, match="function library"):
        traced(loop, spec())


def test_a_table_is_refused():
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer([1], [2], tf.int64, tf.int64), -1
    )
    with pytest.raises(errors.UsageError, match="LookupTable"):
        traced(lambda x: table.lookup(x), tf.TensorSpec([None], tf.int64))


def test_identities_go_and_names_are_given():
    def function(x):
        y = tf.identity(tf.stop_gradient(tf.identity(x)) * 2, name="wanted/name")
        return tf.nn.relu(y, name="other"), y

    result = traced(function, spec())
    graph = graphdef.without_identities(result.graph, result.fetches)
    relu, double = result.fetches
    graph = graphdef.renamed(
        graph, {relu: "other/Relu", double: "other", result.feeds[0]: "root"}
    )
    assert ops(graph) == ["Const", "Mul", "Placeholder", "Relu"]
    names = graphdef.nodes(graph)
    # The layer's own operation gets the name; the node that had it gets another.
    assert names["other/Relu"].op == "Relu" and names["other"].op == "Mul"
    first, second = outputs(graph, {"root": X}, ["other/Relu", "other"])
    np.testing.assert_array_equal(first, np.maximum(2 * X, 0))
    np.testing.assert_array_equal(second, 2 * X)


def test_one_tensor_as_two_outputs_gets_both_names():
    def function(x):
        y = tf.nn.relu(x)
        return y, y

    result = traced(function, spec())
    graph = graphdef.without_identities(result.graph, result.fetches)
    graph = graphdef.renamed(graph, dict(zip(result.fetches, ("a", "b"), strict=True)))
    for value in outputs(graph, {result.feeds[0]: X}, ["a", "b"]):
        np.testing.assert_array_equal(value, np.maximum(X, 0))


def convolution(kind, bias):
    """A convolution or product and its channels' factor and summand."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    out = 12 if kind == "depthwise" else 5
    factor, summand, first = rng.standard_normal((3, out)).astype(np.float32)
    shape = {"conv": (3, 3, 4, 5), "depthwise": (3, 3, 4, 3), "product": (4, 5)}[kind]
    weights = rng.standard_normal(shape).astype(np.float32)

    def apply(x):
        if kind == "conv":
            y = tf.nn.conv2d(x, weights, 1, "SAME")
        elif kind == "depthwise":
            y = tf.nn.depthwise_conv2d(x, weights, [1, 1, 1, 1], "VALID")
        else:
            y = tf.matmul(tf.reshape(x, [-1, 4]), weights)
        return tf.nn.bias_add(y, first) if bias else y

    return image, apply, tf.Variable(factor), tf.Variable(summand)


@pytest.mark.parametrize("kind", ["conv", "depthwise", "product"])
@pytest.mark.parametrize("bias", [False, True])
def test_normalization_moves_into_weights(kind, bias):
    image, apply, factor, summand = convolution(kind, bias)

    def function(x):
        scale = tf.math.rsqrt(tf.square(factor) + 0.1)
        return apply(x) * scale + (summand - 0.3 * scale)

    result = traced(function, tf.TensorSpec([None, 6, 6, 4], tf.float32))
    feed = {result.feeds[0]: image}
    (before,) = outputs(result.graph, feed, result.fetches)
    graph = graphdef.without_identities(result.graph, result.fetches)
    graph = constant_folding.fold_constants(graph, result.fetches)
    graph = constant_folding.fold_normalization(graph, result.fetches)
    (after,) = outputs(graph, feed, result.fetches)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    found = set(ops(graph)) - {"Reshape", "Const", "Placeholder", "Identity"}
    product = {"conv": "Conv2D", "depthwise": "DepthwiseConv2dNative"}
    assert found == {product.get(kind, "MatMul"), "BiasAdd"}


def test_fused_normalization_in_inference_is_folded():
    image, apply, factor, summand = convolution("conv", False)

    def function(x):
        mean, variance = tf.constant([0.5] * 5), tf.constant([2.0] * 5)
        y, _, _ = tf.compat.v1.nn.fused_batch_norm(
            apply(x), factor, summand, mean, variance, is_training=False
        )
        return y

    result = traced(function, tf.TensorSpec([None, 6, 6, 4], tf.float32))
    feed = {result.feeds[0]: image}
    (before,) = outputs(result.graph, feed, result.fetches)
    graph = graphdef.without_identities(result.graph, result.fetches)
    graph = constant_folding.fold_constants(graph, result.fetches)
    graph = constant_folding.fold_normalization(graph, result.fetches)
    assert set(ops(graph)) == {"BiasAdd", "Const", "Conv2D", "Identity", "Placeholder"}
    (after,) = outputs(graph, feed, result.fetches)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("why", ["read elsewhere", "overflow", "by place", "more axes"])
def test_normalization_that_cannot_move_stays(why):
    kind = "product" if why == "more axes" else "conv"
    image, apply, _, _ = convolution(kind, False)
    shape = {"by place": (6, 6, 1), "more axes": (1, 1, 5)}.get(why, (5,))
    factor = np.ones(shape, np.float32)
    if why == "overflow":
        factor *= 3e38
    factor = tf.Variable(factor)

    def function(x):
        y = apply(x)
        return (y * factor, y) if why == "read elsewhere" else (y * factor,)

    result = traced(function, tf.TensorSpec([None, 6, 6, 4], tf.float32))
    feed = {result.feeds[0]: image * np.float32(1e-38 if why == "overflow" else 1)}
    before = outputs(result.graph, feed, result.fetches)
    graph = graphdef.without_identities(result.graph, result.fetches)
    graph = constant_folding.fold_normalization(graph, result.fetches)
    assert "Mul" in ops(graph)
    for old, new in zip(before, outputs(graph, feed, result.fetches), strict=True):
        np.testing.assert_array_equal(new, old)


def test_flops_count_products():
    _, apply, _, _ = convolution("conv", True)
    result = traced(apply, tf.TensorSpec([None, 6, 6, 4], tf.float32))
    count = graph_description.flops(result.graph, result.feeds[0], (6, 6, 4))
    assert count == 2 * 6 * 6 * (3 * 3 * 4 * 5)


def test_attributes_that_1_15_does_not_know_are_stripped_at_their_defaults():
    def function(x):
        pooled = tf.nn.max_pool2d(x, 2, 2, "VALID")
        return tf.matmul(tf.reshape(pooled, [-1, 4]), tf.ones([4, 2]))

    result = traced(function, tf.TensorSpec([None, 4, 4, 1], tf.float32))
    graph = tf1_compatibility.loadable(result.graph)
    table = tf1_compatibility.known_operations()
    for node in graph.node:
        assert set(node.attr) <= set(table[node.op]) and not node.device
    value = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1)
    feed = {result.feeds[0]: value}
    np.testing.assert_array_equal(
        outputs(graph, feed, result.fetches)[0],
        outputs(result.graph, feed, result.fetches)[0],
    )


def dawsn(x):
    with tf.name_scope("net/odd_1/inner"):
        return tf.math.special.dawsn(x)


def explicit(x):
    y = tf.reshape(x, [-1, 2, 2, 1])
    return tf.nn.max_pool2d(y, 2, 1, [[0, 0], [1, 1], [1, 1], [0, 0]])


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (dawsn, "operation Dawsn, which comes from layer 'odd'"),
        (explicit, "of the operation MaxPool"),
    ],
)
def test_what_1_15_does_not_know_is_named(function, what):
    result = traced(function, spec())
    with pytest.raises(errors.UsageError, match="--notf1_compatible") as error:
        tf1_compatibility.loadable(result.graph, layers=["odd", "net"])
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("model/conv_1/kernel", "conv_1"),
        ("model_2/conv_7/kernel", "conv"),
        ("model/block/conv/x", "conv"),
        ("Placeholder", ""),
    ],
)
def test_layer_of(node, layer):
    assert graphdef.layer_of(node, ["conv", "conv_1", "block"]) == layer


@pytest.mark.parametrize("name", ["", "a b", "age:0", "/x", "ä"])
def test_names_are_checked(name):
    with pytest.raises(errors.UsageError, match="--input_node"):
        graphdef.check_node_name(name, "--input_node")
