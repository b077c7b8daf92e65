"""Model files: what a file keeps, and what is refused."""

import json
import time
import zipfile

import h5py
import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from tests.models.small_networks import MEAN, SIZE, inputs, make


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
