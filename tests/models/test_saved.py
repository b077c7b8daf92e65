"""Saved models: what a file keeps, what is refused, and copies of weights."""

import json
import time
import zipfile

import h5py
import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import saved
from tests.models.small_networks import MEAN, SIZE, inputs, make, shaken


@pytest.mark.latest
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("head", ["regression", "coral", "corn"])
def test_saving_keeps_all(head, suffix, tmp_path):
    model = make("small_cnn_no_bn", age_head=head, mean=MEAN)
    models.set_trainable(model, "tuning", 2)
    path = str(tmp_path / f"model{suffix}")
    models.save(model, path)
    loaded = models.load(path)
    assert models.info(loaded) == models.info(model)
    assert models.info(loaded)["mean"] == list(MEAN)
    for a, b in zip(model(inputs()), loaded(inputs()), strict=True):
        np.testing.assert_array_equal(a, b)
    rebuilt = models.ModelConfig(**models.info(loaded))
    assert models.info(models.build_model(rebuilt)) == models.info(model)
    assert set(models.training_model(loaded)(inputs())) == set(
        models.training_model(model)(inputs())
    )


def test_a_clock_before_1980_is_one_line(tmp_path, monkeypatch):
    """As on a board without a battery; the format .keras is a ZIP file."""
    model = make("small_cnn_no_bn", mean=MEAN)
    began = time.struct_time((1970, 1, 1, 0, 2, 0, 3, 1, 0))
    monkeypatch.setattr(time, "localtime", lambda *_: began)
    with pytest.raises(errors.UsageError, match="before 1980.*set the clock"):
        models.save(model, str(tmp_path / "model.keras"))


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_a_layer_that_keras_does_not_know_is_named(tmp_path, monkeypatch):
    image = keras.Input((SIZE, SIZE, 3))
    path = str(tmp_path / "own.keras")
    keras.Model(image, Doubled()(image)).save(path)
    monkeypatch.setattr(Doubled, "__module__", "gone")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "tests>Doubled")
    with pytest.raises(errors.UsageError, match="Doubled.*register_keras_serializ"):
        models.load(path)


def test_files_that_are_no_safe_model_are_refused(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    for suffix in (".keras", ".h5"):
        path = str(tmp_path / f"lambda{suffix}")
        model.save(path)
        with pytest.raises(errors.UsageError, match="--unsafe_load"):
            models.load(path)
    loaded = models.load(str(tmp_path / "lambda.keras"), unsafe=True)
    np.testing.assert_allclose(loaded(inputs()), 2 * inputs())
    with pytest.raises(errors.UsageError, match="no model at"):
        models.load(str(tmp_path / "nowhere.keras"))
    path = str(tmp_path / "only.weights.h5")
    make().save_weights(path)
    with pytest.raises(errors.UsageError, match="weights only"):
        models.load(path)
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(errors.UsageError, match="neither"):
        models.load(str(tmp_path / "text.keras"))
    path = str(tmp_path / "damaged.h5")
    make().save(path)
    with h5py.File(path, "a") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace("{", "[", 1)
    with pytest.raises(errors.DataError, match="is damaged.*not JSON"):
        models.load(path)
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
    with pytest.raises(errors.UsageError, match="cannot be loaded"):
        models.load(str(tmp_path / "torn.keras"))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("head", ["regression", "coral"])
def test_mixed_precision_and_its_float32_twin(policy, head, reversing, tmp_path):
    model = make(policy=policy, age_head=head)
    backbone = saved.backbone_of(model)
    assert backbone.get_layer("block2_conv").compute_dtype == policy[6:]
    assert model.get_layer("input_conversion").compute_dtype == "float32"
    models.save(model, str(tmp_path / "mixed.keras"))
    twin = models.rebuild_float32(models.load(str(tmp_path / "mixed.keras")))
    assert {layer.dtype_policy.name for layer in twin._flatten_layers()} == {"float32"}
    assert models.info(twin) == models.info(model)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model(inputs()), twin(inputs()), strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)


def test_a_layer_that_stays_in_16_bits_is_refused(monkeypatch):
    model = make(policy="mixed_bfloat16")
    monkeypatch.setattr(saved, "_in_float32", lambda values: values)
    with pytest.raises(errors.UsageError, match="in 16 bits and not in float32"):
        models.rebuild_float32(model)


def test_transfer_copies_weights_of_the_same_place_and_shape():
    source, target = shaken(make(age_head="corn")), make(age_head="regression")
    taken, left = models.transfer(source, target)
    assert sorted(left) == ["age_output/bias", "age_output/kernel"]
    assert taken == len(target.weights) - 2
    for a, b in zip(
        saved.backbone_of(source).get_weights(),
        saved.backbone_of(target).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    other = make("small_cnn_no_bn")
    taken, left = models.transfer(source, other)
    assert any("block1_conv" in path for path in left) and taken


def test_a_transferred_head_can_be_inverted():
    """The age stays, and the probability becomes that of the other class."""
    source, target = shaken(make(age_head="corn")), make(age_head="corn")
    layer = source.get_layer("gender_logits")
    layer.set_weights([layer.get_weights()[0] * 0.01, np.array([0.3], np.float32)])
    models.transfer(source, target, swap_classes=True)
    age, gender = source(inputs())
    other_age, other_gender = target(inputs())
    assert np.all(np.abs(gender - 0.5) > 0.01)
    np.testing.assert_allclose(other_gender, 1 - gender, atol=1e-6)
    np.testing.assert_allclose(other_age, age, rtol=1e-5)


@pytest.mark.parametrize(
    "changes, left",
    [
        ({"age_head": "sord"}, []),
        ({"age_head": "dldl", "min_age": 16, "max_age": 41}, ["bias", "kernel"]),
    ],
)
def test_logits_of_other_ages_are_not_taken_over(changes, left):
    ages = {"min_age": 15, "max_age": 40}
    source = make(age_head="dldl", **ages)
    taken = models.transfer(source, make(**{**ages, **changes}))
    assert sorted(taken[1]) == [f"age_logits/{name}" for name in left]
