"""Weights that a training begins with: files that are refused say what takes them."""

import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import initial_weights

SIZE = 16


@pytest.mark.parametrize("form", ["loads in Keras 3", "does not load", "weights only"])
def test_an_h5_file_of_the_original_is_refused_with_advice(form, tmp_path):
    """Some of its files load in Keras 3, and have no layer that this network has."""
    tf_keras = pytest.importorskip("tf_keras")
    layers = tf_keras.layers
    image = tf_keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3)(image)
    if form == "does not load":  # Keras 3 does not know its argument `groups`.
        x = layers.DepthwiseConv2D(3)(x)
    x = layers.Dense(1, activation="sigmoid")(layers.Flatten()(x))
    path = str(tmp_path / "epochs_42.h5")
    model = tf_keras.Model(image, x)
    model.save_weights(path) if form == "weights only" else model.save(path)
    network = models.build_model(
        models.ModelConfig(backbone="small_cnn", weights="none", image_size=SIZE)
    )
    strategy = tf.distribute.get_strategy()
    with pytest.raises(errors.UsageError, match="--init_from: .*--weights") as caught:
        initial_weights.copy_from(path, network, strategy)
    assert "\n" not in str(caught.value) and path in str(caught.value)
