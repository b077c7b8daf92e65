"""Frozen graphs in the real TensorFlow 1.15 runtime; `make test-tf1` runs these."""

import os

import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    corrected_source,
    graphdef,
    loaded_graph,
    model_source,
    preprocessing_graph,
    tf1_compatibility,
    verification,
    verification_images,
)
from afad_tfdata.images import drawn_faces
from afad_tfdata.models import age_heads
from tests.freezing import kernel_limits, small_graphs
from tests.models import hub_presets
from tests.robustness import dump_tf1_ops, tf1_runtime

pytestmark = pytest.mark.tf1
BACKBONES = (
    "VGG19",
    "ResNet50",
    "InceptionV3",
    "EfficientNetB0",
    "MobileNetV2",
    "ConvNeXtTiny",
)


@pytest.fixture(scope="module")
def wheel_dir():
    directory = os.environ.get("AFAD_TF1_WHEEL_DIR")
    if not directory:
        pytest.skip("AFAD_TF1_WHEEL_DIR is not set: make test-tf1 sets it")
    return os.path.abspath(directory)


def differences(wheel_dir, path, feed, nodes, cases):
    """How far the outputs of 1.15 are from the model's."""
    candidate = verification.Candidate(path, feed, nodes, cases)
    outputs = []
    for case in cases:
        found = tf1_runtime.run(
            wheel_dir, path, {feed: case.inputs}, list(nodes.values())
        )
        outputs.append({label: found[name] for label, name in nodes.items()})
    return verification.compare(candidate, outputs, [0.0] * len(cases))


def check_both(wheel_dir, path, source, nodes, varied=True):
    """Equality with the model in 1.15 and here."""
    faces = verification_images.choose_images("", source.image_size)
    cases = verification_images.cases(source, faces, small_graphs.MEAN)
    for label in nodes:  # A network with the same output for all proves nothing.
        values = [c.expected[label] for c in cases if c.is_image]
        assert not varied or np.ptp(np.concatenate(values)) > 1e-3
    random = [case for case in cases if not case.is_image]
    rounding = verification_images.own_difference(source, random)
    comparison = differences(wheel_dir, path, "root_input", nodes, cases)
    assert comparison.failure(1.0, rounding) is None, (comparison, rounding)
    here = small_graphs.compared(path, source, nodes)
    assert here.failure(1.0, rounding) is None, (here, rounding)
    return comparison


def test_the_table_is_that_of_the_runtime(wheel_dir):
    text = dump_tf1_ops.dumps(dump_tf1_ops.table(dump_tf1_ops.op_list(wheel_dir)))
    assert dump_tf1_ops.PATH.read_text() == text


@pytest.mark.parametrize("head", ["regression", "dldl_v2"])
def test_corrections(head, wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build(age_head=head))
    corrections = corrected_source.Corrections(
        flip_average=True,
        gender_temperature={"temperature": 1.7},
        age_correction={"slope": 0.9, "offset": 3.0},
    )
    source = corrected_source.with_corrections(source, corrections)
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    check_both(wheel_dir, path, source, nodes, varied=False)


@pytest.mark.parametrize("head", age_heads.NAMES[1:])
def test_spreads(head, wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build(age_head=head))
    source = corrected_source.with_corrections(
        source, corrected_source.Corrections(age_spread=True)
    )
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    assert "age_spread" in nodes
    check_both(wheel_dir, path, source, nodes)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_every_age_head(head, wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build(age_head=head))
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    check_both(wheel_dir, path, source, nodes)


@pytest.mark.parametrize("task", ["age", "gender"])
def test_single_tasks(task, wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build(task=task))
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    check_both(wheel_dir, path, source, nodes)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_as_built(backbone, wheel_dir, tmp_path):
    """With their initial weights, under float32 and mixed_float16."""
    config = models.ModelConfig(
        backbone=backbone, weights="none", mean=small_graphs.MEAN
    )
    keras.utils.set_random_seed(1)
    model = models.build_model(config)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = models.build_model(config)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    for policy, one in (("float32", model), ("mixed_float16", half)):
        source = model_source.from_model(one)
        path, nodes = small_graphs.frozen_file(tmp_path, source)
        # Some of these networks return the same for all faces.
        comparison = check_both(wheel_dir, path, source, nodes, varied=False)
        print(backbone, policy, comparison.max_difference, comparison.largest)
    keras.backend.clear_session()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_that_tell_faces_apart(backbone, wheel_dir, tmp_path):
    """With weights and statistics changed, so that outputs differ from face to face."""
    model = small_graphs.build(backbone=backbone, image_size=150, hidden_units=64)
    pixels = verification_images.choose_images("", 150).pixels
    inputs = (pixels - np.float32(small_graphs.MEAN)) / 127.5
    small_graphs.calibrate(model, np.concatenate([inputs, small_graphs.noise(10, 150)]))
    source = model_source.from_model(model)
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    comparison = check_both(wheel_dir, path, source, nodes)
    print(backbone, comparison.max_difference, comparison.largest)
    keras.backend.clear_session()


@pytest.mark.parametrize(
    "write, pooling",
    [
        (hub_presets.vit, "auto"),
        (hub_presets.vit, "avg"),
        (hub_presets.dino, "auto"),
        (hub_presets.resnet, "auto"),
    ],
)
def test_backbones_of_keras_hub(write, pooling, wheel_dir, tmp_path):
    name = write(tmp_path / "preset")
    model = small_graphs.build(backbone=name, weights="imagenet", pooling=pooling)
    source = model_source.from_model(model)
    path, nodes = small_graphs.frozen_file(tmp_path, source)
    comparison = check_both(wheel_dir, path, source, nodes)
    print(write.__name__, comparison.max_difference, comparison.largest)


@pytest.mark.parametrize("kind", ["bytes", "pixels"])
def test_graphs_with_preprocessing(kind, wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build())
    nodes = {label: small_graphs.NODES[label] for label in source.labels}
    whole = preprocessing_graph.build(
        build_graph.build(source, nodes),
        preprocessing_graph.INPUTS[kind],
        feed="root_input",
        fetches=list(nodes.values()),
        size=source.image_size,
        mean=small_graphs.MEAN,
    )
    path = str(tmp_path / "whole.pb")
    files.write_atomic(path, graphdef.serialized(tf1_compatibility.loadable(whole)))
    encode = drawn_faces.encode_jpeg
    drawn = [drawn_faces.draw(face, 4) for face in drawn_faces.faces(4, 4)]
    if kind == "bytes":
        value = [encode(drawn[0]), tf.io.encode_png(drawn[1]).numpy(), encode(drawn[2])]
    else:
        value = drawn[3][None]
    feed = preprocessing_graph.INPUTS[kind].feed
    expected = loaded_graph.LoadedGraph(path, feed, nodes).run(value)
    found = tf1_runtime.run(wheel_dir, path, {feed: value}, list(nodes.values()))
    for label, name in nodes.items():
        # Decoding and resizing of another version may differ by a level of 255.
        np.testing.assert_allclose(found[name], expected[label], rtol=1e-3, atol=1e-3)


def test_what_1_15_refuses_is_an_error(wheel_dir, tmp_path):
    source = model_source.from_model(small_graphs.build())
    path, nodes = small_graphs.frozen_file(tmp_path, source, tf1_compatible=False)
    with pytest.raises(tf1_runtime.TF1Error, match="attr"):
        tf1_runtime.run(wheel_dir, path, {"root_input": small_graphs.noise(1)}, ["x"])


def evaluated_here(graph, images):
    """What this TensorFlow computes for one of the graphs in `kernel_limits`."""
    fed = tf.compat.v1.GraphDef()
    fed.CopyFrom(graph)
    del fed.node[:]
    # XLA has no placeholder, not even an unused one.
    fed.node.extend(node for node in graph.node if node.op != "Placeholder")

    def out(root_input):
        inputs = {"root_input:0": root_input}
        (value,) = tf.graph_util.import_graph_def(fed, inputs, ["out:0"], name="")
        return value

    try:
        return tf.function(out)(images).numpy()
    except tf.errors.UnimplementedError:
        # On some processors, its depthwise convolution has no dilation.  XLA's has.
        return tf.function(out, jit_compile=True)(images).numpy()


def test_what_the_kernels_cannot_do(wheel_dir, tmp_path):
    """The limits in `tf1_compatibility` are those of the runtime, and no wider."""
    images = kernel_limits.values(*kernel_limits.SHAPE)
    runs = {}
    for kind in ("REFUSED", "ACCEPTED"):
        for name, build in getattr(kernel_limits, kind).items():
            graph = kernel_limits.graph(build)
            path = str(tmp_path / "graph.pb")
            files.write_atomic(
                path, graphdef.serialized(tf1_compatibility.loadable(graph))
            )
            try:
                found = tf1_runtime.run(
                    wheel_dir, path, {"root_input": images}, ["out"]
                )
            except tf1_runtime.TF1Error:
                runs[kind, name] = False
                continue
            here = evaluated_here(graph, images)
            runs[kind, name] = np.allclose(found["out"], here, atol=1e-4)
    right = {key for key, is_right in runs.items() if is_right}
    by_chance = {("REFUSED", name) for name in kernel_limits.WRONG_ON_SOME_MACHINES}
    accepted = {("ACCEPTED", name) for name in kernel_limits.ACCEPTED}
    assert right - by_chance == accepted
