"""Frozen graphs read by OpenCV's dnn module, as its users read them."""

import numpy as np
import pytest

from afad_tfdata.common import files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    constant_folding,
    graphdef,
    group_normalizations,
    means_as_products,
    model_source,
    output_nodes,
)
from tests.freezing import small_graphs

cv2 = pytest.importorskip("cv2")

BATCH = 4


def by_tensorflow(graph, images, names, feed="root_input"):
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            return session.run([f"{name}:0" for name in names], {f"{feed}:0": images})


def by_opencv(path, images, names):
    """With OpenCV's default settings; images are given as its users give them."""
    net = cv2.dnn.readNetFromTensorflow(path)
    net.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    outputs = net.forward(list(names))
    # Some versions return a list for each name.
    return [np.asarray(o[0] if isinstance(o, (list, tuple)) else o) for o in outputs]


def check(tmp_path, model, size):
    """Every output under its name, for one image and for several."""
    source = model_source.from_model(model)
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    names = list(nodes.values())
    # Of different strength, so that outputs differ from image to image.
    strength = np.linspace(0.1, 1, BATCH, dtype=np.float32)[:, None, None, None]
    images = small_graphs.noise(BATCH, size) * strength
    graph = tf.compat.v1.GraphDef.FromString(files.read_bytes(path))
    expected = by_tensorflow(graph, images, names)
    assert all(np.ptp(values) > 1e-4 for values in expected)
    for batch in (1, BATCH):
        found = by_opencv(path, images[:batch], names)
        for name, values, wanted in zip(names, found, expected, strict=True):
            scale = max(1, np.abs(wanted).max())
            difference = values.reshape(-1) - wanted[:batch].reshape(-1)
            assert np.abs(difference).max() <= 1e-5 * scale, (name, batch)
    for name, wanted in zip(names, expected, strict=True):
        net = cv2.dnn.readNetFromTensorflow(path)
        net.setInput(np.ascontiguousarray(images[:1].transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(net.forward(name).item(), wanted[0].item(), 1e-5)


@pytest.mark.parametrize(
    ("backbone", "task"),
    [
        ("small_cnn", "age_gender"),
        ("small_cnn", "age"),
        ("small_cnn", "gender"),
        ("small_cnn_no_bn", "age_gender"),
        pytest.param("small_cnn_no_bn", "age", marks=pytest.mark.slow),
        pytest.param("small_cnn_no_bn", "gender", marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_package(backbone, task, tmp_path):
    model = small_graphs.build(backbone=backbone, task=task)
    check(tmp_path, model, small_graphs.SIZE)


@pytest.mark.parametrize(
    "task",
    [
        "age_gender",
        pytest.param("age", marks=pytest.mark.slow),
        pytest.param("gender", marks=pytest.mark.slow),
    ],
)
def test_a_backbone_of_keras(task, tmp_path):
    # At 32 pixels, OpenCV 4.11 computes depthwise convolutions of 1 x 1 wrongly.
    model = small_graphs.build(backbone="MobileNetV2", task=task, image_size=64)
    small_graphs.calibrate(model, small_graphs.noise(8, 64))
    check(tmp_path, model, 64)


# coral and corn use operations that OpenCV does not read.
@pytest.mark.parametrize(
    "head",
    # The other distributions have the same layers.
    ["softmax_expectation", "orcnn"],
)
def test_age_heads(head, tmp_path):
    check(tmp_path, small_graphs.build(age_head=head), small_graphs.SIZE)


def test_names_that_the_caller_chose(tmp_path):
    source = model_source.from_model(small_graphs.build())
    nodes = {"age": "years", "gender": "woman"}
    graph = build_graph.build(source, nodes, feed="face")
    path = str(tmp_path / "graph.pb")
    files.write_atomic(path, graphdef.serialized(graph))
    images = small_graphs.noise(1)
    wanted = by_tensorflow(graph, images, ["years", "woman"], "face")
    for found, value in zip(
        by_opencv(path, images, ["years", "woman"]), wanted, strict=True
    ):
        np.testing.assert_allclose(found.item(), value.item(), 1e-5)


def node(name, op, *inputs, **types):
    result = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
    for key in types or {"T": None}:
        result.attr[key].type = tf.float32.as_datatype_enum
    return result


def hand_made(*nodes):
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = 1882
    images = node("root_input", "Placeholder", dtype=None)
    images.attr["shape"].shape.CopyFrom(tf.TensorShape([None, 3]).as_proto())
    graph.node.extend([images, *nodes])
    return graph


WEIGHTS = graphdef.constant("weights", np.array([[0.3], [-1.1], [0.7]], np.float32))
BIAS = graphdef.constant("bias", np.array([0.1], np.float32))
PRODUCT = node("product", "MatMul", "root_input", "weights")


@pytest.mark.parametrize(
    "nodes",
    [
        # The second output is the first one.
        (node("a", "BiasAdd", "product", "bias"), node("b", "Identity", "a")),
        # An output that the other output and a third node read.
        (
            node("a", "BiasAdd", "product", "bias"),
            node("c", "Exp", "a"),
            node("b", "Mul", "a", "c"),
        ),
        (node("a", "AddV2", "bias", "product"), node("b", "Sigmoid", "a:0")),
        # A name that a copy would have is taken.
        (
            node("a", "AddV2", "product", "bias"),
            node("a_inner", "Exp", "a"),
            node("b", "Neg", "a_inner"),
        ),
    ],
)
def test_outputs_are_read_by_nothing_else(nodes):
    graph = hand_made(WEIGHTS, BIAS, PRODUCT, *nodes)
    changed = output_nodes.separate(graph, ["a", "b"])
    read = {graphdef.split(r)[0] for n in changed.node for r in n.input}
    assert not {"a", "b"} & read
    assert len({n.name for n in changed.node}) == len(changed.node)
    assert "Identity" not in {n.op for n in changed.node}
    images = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    for before, after in zip(
        by_tensorflow(graph, images, ["a", "b"]),
        by_tensorflow(changed, images, ["a", "b"]),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


def normalized(groups, **options):
    image = keras.Input((8, 8, 3), name="root_input")
    x = keras.layers.Conv2D(12, 3, name="first")(image)
    x = keras.layers.GroupNormalization(groups, **options)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return small_graphs.shaken(
        keras.Model(image, keras.layers.Dense(1, name="age_output")(x))
    )


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {}),
        (3, {"epsilon": 0.1}),
        (12, {}),
        (4, {"center": False}),
        (4, {"scale": False}),
    ],
)
def test_group_normalizations(groups, options):
    keras.utils.set_random_seed(1)
    model = normalized(groups, **options)
    source = model_source.from_model(model, outputs=["age"])
    graph = build_graph.build(source, {"age": "years"})
    images = 3 * np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype(np.float32)
    (found,) = by_tensorflow(graph, images, ["years"])
    np.testing.assert_allclose(found, model(images), atol=2e-6)
    # Without a factor or a summand, Keras builds it differently.
    changed = "SquaredDifference" not in {n.op for n in graph.node}
    assert changed == (not options or "epsilon" in options)


def test_graphs_without_these_forms_stay_as_they_are():
    graph = hand_made(WEIGHTS, BIAS, PRODUCT, node("a", "BiasAdd", "product", "bias"))
    for change in (
        means_as_products.replace_means,
        constant_folding.fold_reshape_sizes,
        group_normalizations.in_four_axes,
    ):
        assert change(graph) is graph
