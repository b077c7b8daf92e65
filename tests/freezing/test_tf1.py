"""Frozen graphs in the real TensorFlow 1.15 runtime; `make test-tf1` runs these."""

import os

import numpy as np
import pytest

from afad_tfdata import freeze, models
from afad_tfdata.common import files
from afad_tfdata.common.lazy import keras, tf
from afad_tfdata.freezing import (
    graph_runner,
    graphdef,
    model_source,
    preprocessing_graph,
    verification,
    verification_images,
)
from afad_tfdata.images import drawn_faces
from afad_tfdata.models import age_heads
from tests.freezing import small_graphs as freezing
from tests.robustness import dump_tf1_ops, tf1_runtime

pytestmark = pytest.mark.tf1
BACKBONES = ("VGG19", "ResNet50", "InceptionV3", "EfficientNetB0", "MobileNetV2")


@pytest.fixture(scope="module")
def wheel_dir():
    directory = os.environ.get("AFAD_TF1_WHEEL_DIR")
    if not directory:
        pytest.skip("AFAD_TF1_WHEEL_DIR is not set: make test-tf1 sets it")
    return os.path.abspath(directory)


def differences(wheel_dir, path, feed, nodes, cases):
    """A report of what 1.15 makes of the cases."""
    job = verification.Job(path, feed, nodes, cases)
    outputs = []
    for case in cases:
        found = tf1_runtime.run(
            wheel_dir, path, {feed: case.inputs}, list(nodes.values())
        )
        outputs.append({label: found[name] for label, name in nodes.items()})
    return verification._compare(job, outputs, [0.0] * len(cases))


def check_both(wheel_dir, path, source, nodes, varied=True):
    """Equality with the model in 1.15 and here."""
    faces = verification_images.choose("", source.image_size)
    cases = verification_images.cases(source, faces, freezing.MEAN)
    for label in nodes:  # A network that says the same of everything proves nothing.
        values = [c.expected[label] for c in cases if c.is_image]
        assert not varied or np.ptp(np.concatenate(values)) > 1e-3
    random = [case for case in cases if not case.is_image]
    rounding = verification_images.own_difference(source, random)
    report = differences(wheel_dir, path, "root_input", nodes, cases)
    assert report.failure(1.0, rounding) is None, (report, rounding)
    job = verification.Job(path, "root_input", nodes, cases)
    here = verification.check([job], fresh=False)[0]
    assert here.failure(1.0, rounding) is None, (here, rounding)
    return report


def test_the_table_is_that_of_the_runtime(wheel_dir):
    text = dump_tf1_ops.dumps(dump_tf1_ops.table(dump_tf1_ops.op_list(wheel_dir)))
    assert dump_tf1_ops.PATH.read_text() == text


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_every_age_head(head, wheel_dir, tmp_path):
    source = model_source.from_model(freezing.build(age_head=head))
    path, nodes = freezing.frozen_file(tmp_path, source)
    check_both(wheel_dir, path, source, nodes)


@pytest.mark.parametrize("task", ["age", "gender"])
def test_single_tasks(task, wheel_dir, tmp_path):
    source = model_source.from_model(freezing.build(task=task))
    path, nodes = freezing.frozen_file(tmp_path, source)
    check_both(wheel_dir, path, source, nodes)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_as_built(backbone, wheel_dir, tmp_path):
    """With the weights of the first moment, under float32 and mixed_float16."""
    config = models.ModelConfig(backbone=backbone, weights="none", mean=freezing.MEAN)
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
        path, nodes = freezing.frozen_file(tmp_path, source)
        # All faces are one to some of these networks.
        report = check_both(wheel_dir, path, source, nodes, varied=False)
        print(backbone, policy, report.max_difference, report.largest)
    keras.backend.clear_session()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_that_tell_faces_apart(backbone, wheel_dir, tmp_path):
    """With weights and statistics moved, so that answers differ by face."""
    model = freezing.build(backbone=backbone, image_size=150, hidden_units=64)
    pixels = verification_images.choose("", 150).pixels
    inputs = (pixels - np.float32(freezing.MEAN)) / 127.5
    freezing.calibrate(model, np.concatenate([inputs, freezing.noise(10, 150)]))
    source = model_source.from_model(model)
    path, nodes = freezing.frozen_file(tmp_path, source)
    report = check_both(wheel_dir, path, source, nodes)
    print(backbone, report.max_difference, report.largest)
    keras.backend.clear_session()


@pytest.mark.parametrize("kind", ["bytes", "pixels"])
def test_graphs_with_preprocessing(kind, wheel_dir, tmp_path):
    source = model_source.from_model(freezing.build())
    nodes = {label: freezing.NODES[label] for label in source.labels}
    whole = preprocessing_graph.build(
        freeze.build_graph(source, nodes),
        kind,
        feed="root_input",
        fetches=list(nodes.values()),
        size=source.image_size,
        mean=freezing.MEAN,
    )
    path = str(tmp_path / "whole.pb")
    files.write_atomic(path, graphdef.serialized(graphdef.for_tf1(whole)))
    encode = drawn_faces.jpeg_encoder()
    drawn = [drawn_faces.draw(face, 4) for face in drawn_faces.faces(4, 4)]
    if kind == "bytes":
        value = [encode(drawn[0]), tf.io.encode_png(drawn[1]).numpy(), encode(drawn[2])]
    else:
        value = drawn[3][None]
    feed = preprocessing_graph.FEEDS[kind]
    expected = graph_runner.Runner(path, feed, nodes).run(value)
    found = tf1_runtime.run(wheel_dir, path, {feed: value}, list(nodes.values()))
    for label, name in nodes.items():
        # Decoding and resizing of another version may differ by a level of 255.
        np.testing.assert_allclose(found[name], expected[label], rtol=1e-3, atol=1e-3)


def test_what_1_15_refuses_is_an_error(wheel_dir, tmp_path):
    source = model_source.from_model(freezing.build())
    path, nodes = freezing.frozen_file(tmp_path, source, tf1_compatible=False)
    with pytest.raises(tf1_runtime.TF1Error, match="attr"):
        tf1_runtime.run(wheel_dir, path, {"root_input": freezing.noise(1)}, ["x"])
