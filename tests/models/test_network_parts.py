"""Networks consist of Keras' own layers, which compute what ours did."""

import json
import subprocess
import sys

import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import (
    age_heads,
    backbones,
    layers_of_0_1_0,
    model_weights,
    network_parts,
    networks,
    trainable_layers,
)
from tests.models.small_networks import MEAN, SIZE, converted, inputs, make, shaken

HEADS = [head for head in age_heads.NAMES if head != "regression"]
# Loads models in a process that cannot import the package, and prints their outputs.
PLAIN_PROGRAM = """
import sys
sys.modules["afad_tfdata"] = None  # Importing it raises ImportError.
import json
import numpy as np
import keras
for path, size in json.loads(sys.argv[1]):
    model = keras.saving.load_model(path)
    x = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype("float32")
    outputs = model.predict_on_batch(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    print(json.dumps([np.ravel(value).tolist() for value in outputs]))
"""


def outputs_without_the_package(paths, size=SIZE):
    """Outputs of each model for `inputs(2)`, computed by Keras alone."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_PROGRAM, json.dumps([(p, size) for p in paths])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_loads_anywhere(directory, networks_by_name):
    paths = []
    for name, model in networks_by_name.items():
        paths.append(str(directory / f"{name}.keras"))
        models.save(shaken(model), paths[-1])
    found = outputs_without_the_package(paths)
    assert len(found) == len(paths)
    for outputs, model in zip(found, networks_by_name.values(), strict=True):
        for output, value in zip(
            outputs, tf.nest.flatten(model(inputs(2))), strict=True
        ):
            np.testing.assert_allclose(output, np.ravel(value), rtol=1e-5)


@pytest.mark.latest
def test_plain_keras_loads_every_head_and_task(tmp_path):
    heads = {head: make(age_head=head) for head in age_heads.NAMES}
    tasks = {task: make(task=task) for task in ("age", "gender")}
    assert_loads_anywhere(tmp_path, heads | tasks)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["VGG19", "MobileNetV2"])
@pytest.mark.parametrize("task", ["age", "gender", "age_gender"])
def test_plain_keras_loads_large_networks(backbone, task, tmp_path):
    model = make(backbone, task=task, weights="none", **_PRETRAINED)
    assert_loads_anywhere(tmp_path, {"large": model})


# As with ImageNet weights, whose conversion is the one that has to be made of layers.
_PRETRAINED = {"normalization": "backbone", "mean": MEAN}


@pytest.mark.parametrize("backbone", ["VGG19", "MobileNetV2", "EfficientNetB0"])
def test_large_networks_have_only_layers_of_keras(backbone):
    model = make(backbone, weights="none", **_PRETRAINED)
    for layer in model._flatten_layers():
        assert type(layer).__module__.startswith("keras."), layer.name
    assert "afad_tfdata" not in json.dumps(model.get_config())


@pytest.mark.parametrize("head", HEADS)
def test_heads_decode_what_the_formula_says(head):
    low, high = 15, 72
    count = age_heads.num_logits(head, low, high)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (64, count)) * 10 ** rng.uniform(-1, 2, (64, 1))
    logits = np.concatenate([logits, np.full((1, count), 60), np.full((1, count), -60)])
    image = keras.Input((count,))
    model = keras.Model(
        image, network_parts.decode_age(image, head, low, high, dtype="float32")
    )
    logits = logits.astype(np.float32)
    expected = age_heads.decode(tf.cast(logits, tf.float64), head, low, high)
    found = model(logits)
    assert found.shape == (66, 1)
    np.testing.assert_allclose(found, expected, atol=3e-5)
    ours = layers_of_0_1_0.AgeDecoder(head, low, high)(tf.constant(logits))
    np.testing.assert_allclose(found, ours, atol=3e-5)


def test_ranks_share_a_score_and_have_a_bias_each():
    image = keras.Input((1,))
    initial = [0.5, -1.0, 2.0]
    biased = network_parts.add_biases(image, initial, dtype="float32", name="x")
    model = keras.Model(image, biased)
    score = np.array([[3.0], [-4.0]], np.float32)
    np.testing.assert_array_equal(model(score), score + np.float32(initial))
    (bias,) = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(score) * [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(tape.gradient(loss, bias.value), [2.0, 4.0, 6.0])


def test_channels_are_reversed_by_a_layer_that_never_changes(reversing):
    model = make(mean=MEAN)
    layer = model.get_layer(network_parts.CONVERSION_NAME)
    x = inputs()
    expected = x[..., ::-1] * np.float32(reversing.scale) + np.float32(reversing.offset)
    np.testing.assert_allclose(converted(reversing, x), expected, rtol=1e-6)
    weights = {id(weight) for weight in layer.weights}
    assert len(weights) == 2
    for stage in trainable_layers.STAGES:
        trained = models.set_trainable(model, stage, -1)
        assert not weights & {id(v) for v in model.trainable_variables}
    plain = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model)
    )
    assert not plain.get_layer(layer.name).trainable
    # Checkpoints have the variables that those of 0.1.0 have, and no others.
    stored = networks.stored_variables(model)
    assert len(stored) == len(model.variables) - 2
    assert not weights & {id(v) for v in stored}
    assert trained.total == sum(np.prod(w.shape) for w in model.weights) - 9 - 3


def test_a_transfer_leaves_the_conversion_of_the_target(reversing, monkeypatch):
    source = make()
    other = reversing._replace(offset=(0.0, 0.0, 9.0))
    monkeypatch.setattr(backbones, "input_conversion", lambda *_: other)
    target = make()
    taken, left = model_weights.transfer_weights(source, target)
    assert taken == len(target.weights) - 2 and not left
    bias = target.get_layer(network_parts.CONVERSION_NAME).bias
    np.testing.assert_array_equal(bias, [0.0, 0.0, 9.0])
