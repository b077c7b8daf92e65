"""Small networks and inputs that the tests of this folder share."""

import numpy as np

from afad_tfdata import models
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import network_parts

MEAN = (132.5, 111.0, 101.25)
SIZE = 32


def make(backbone="small_cnn", policy="float32", **values):
    values.setdefault("image_size", SIZE)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return models.build_model(models.ModelConfig(backbone=backbone, **values))
    finally:
        keras.config.set_dtype_policy(before)


def inputs(n=4, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, size, size, 3)).astype(np.float32)


def shaken(model, seed=0):
    """Weights of the right shapes that no initialiser draws."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.01, 0.1, w.shape) for w in model.get_weights()])
    return model


def converted(conversion, values):
    """What a backbone receives for values of ``root_input``."""
    image = keras.Input((None, None, 3))
    result = network_parts.convert_input(image, **conversion._asdict())
    return keras.Model(image, result)(np.asarray(values, np.float32))
