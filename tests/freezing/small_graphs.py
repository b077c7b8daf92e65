"""What the tests of freezing share: small networks, and a file without a process."""

import numpy as np

from afad_tfdata import freeze, models
from afad_tfdata.common import files
from afad_tfdata.common.lazy import keras
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.freezing import graphdef, verification, verification_images

SIZE = 32
MEAN = (120.5, 110.25, 100.0)
NODES = freeze_config.DEFAULT_NODES


def build(**changes):
    """A small network of ours with statistics as after some training."""
    keras.utils.set_random_seed(1)
    values = {"backbone": "small_cnn", "weights": "none", "image_size": SIZE}
    model = models.build_model(
        models.ModelConfig(**{**values, "mean": MEAN, "hidden_units": 16, **changes})
    )
    return shaken(model)


def shaken(model):
    """Moves weights and statistics off their first values, and not far."""
    rng = np.random.default_rng(0)
    values = []
    for variable in model.weights:
        value = np.asarray(variable)
        if np.issubdtype(value.dtype, np.floating):
            value = value * rng.uniform(0.8, 1.2, value.shape).astype(value.dtype)
            name = getattr(variable, "path", variable.name)
            if value.ndim == 1 and "variance" not in name:
                # Biases, shifts and means, which begin at 0.
                noise = rng.standard_normal(value.shape).astype(value.dtype)
                value = value + np.asarray(0.1 * noise, value.dtype)
        values.append(value)
    model.set_weights(values)
    return model


def calibrate(model, inputs):
    """Gives normalisations the statistics of a batch, as training does in time.

    Random layers one upon another magnify rounding more than trained ones do: the last
    ones are made smaller, so that outputs differ by image and yet are well determined.
    """
    normalizations = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0
    model(inputs, training=True)
    for variable in model.weights:
        if not normalizations and len(variable.shape) == 4:
            variable.assign(variable * 2**0.5)  # Else signals fade: He against Glorot.
        if len(variable.shape) == 2 and variable.shape[-1] == 1:
            variable.assign(variable * 0.05)


def noise(batch, size=SIZE):
    """Random input for a network."""
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def frozen_file(tmp_path, source, **changes):
    """A graph written without a fresh process, and its nodes by label."""
    nodes = {label: NODES[label] for label in source.labels}
    graph = freeze.build_graph(source, nodes, **changes)
    path = str(tmp_path / "graph.pb")
    files.write_atomic(path, graphdef.serialized(graph))
    return path, nodes


def compared(path, source, nodes):
    """Verification in this process."""
    faces = verification_images.choose("", source.image_size)
    cases = verification_images.cases(source, faces, MEAN)
    job = verification.Job(path, "root_input", nodes, cases)
    return verification.check([job], fresh=False)[0]


def dense(shape, units=1, batch=None):
    image = keras.Input(shape, batch_size=batch)
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(units, name="age_output")(x))
