"""Small networks, and graphs that are written and compared within this process."""

import dataclasses

import numpy as np

from afad_tfdata import models
from afad_tfdata.common import files
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.freezing import (
    build_graph,
    export_formats,
    graphdef,
    loaded_graph,
    verification,
    verification_images,
)
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.models import facts

SIZE = 32
MEAN = (120.5, 110.25, 100.0)
NODES = freeze_config.DEFAULT_NODES
_ALL_NODES = {**NODES, "age_spread": freeze_config.SPREAD_NODE}


def build(**changes):
    """A small network of this package, with statistics as after some training."""
    keras.utils.set_random_seed(1)
    values = {"backbone": "small_cnn", "weights": "none", "image_size": SIZE}
    model = models.build_model(
        models.ModelConfig(**{**values, "mean": MEAN, "hidden_units": 16, **changes})
    )
    # As training does; freezing asks for them otherwise.  Not the usual order, which
    # could be right by chance.
    known = dataclasses.replace(facts.of(model), class_names=("female", "male"))
    facts.attach(model, known)
    return shaken(model)


def shaken(model):
    """Moves weights and statistics a little away from their first values."""
    rng = np.random.default_rng(0)
    values = []
    for variable in model.weights:
        value = np.asarray(variable)
        if np.issubdtype(value.dtype, np.floating):
            value = value * rng.uniform(0.8, 1.2, value.shape).astype(value.dtype)
            name = getattr(variable, "path", variable.name)
            if value.ndim == 1 and "variance" not in name:
                # Biases, shifts and means, which start at 0.
                noise = rng.standard_normal(value.shape).astype(value.dtype)
                value = value + np.asarray(0.1 * noise, value.dtype)
        values.append(value)
    model.set_weights(values)
    return model


def calibrate(model, inputs):
    """Gives batch normalisations the statistics of a batch, as training does.

    A stack of random layers magnifies rounding more than trained layers do.  The last
    layers are therefore scaled down: outputs then differ from image to image, and
    float32 still determines them well.
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
            # From Glorot's scale to He's; signals fade otherwise.
            variable.assign(variable * 2**0.5)
        if len(variable.shape) == 2 and variable.shape[-1] == 1:
            variable.assign(variable * 0.05)


def noise(batch, size=SIZE):
    """Random input for a network."""
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def frozen(source):
    """A graph with what its formats need."""
    fetches = {label: NODES[label] for label in source.labels}
    graph = build_graph.build(source, fetches)
    return export_formats.FrozenGraph(
        graph, "root_input", fetches, source.image_size, MEAN, facts=source.facts
    )


def frozen_file(tmp_path, source, **changes):
    """Writes a graph that is not verified; returns its path and its nodes by label."""
    nodes = {label: _ALL_NODES[label] for label in source.labels}
    graph = build_graph.build(source, nodes, **changes)
    path = str(tmp_path / "graph.pb")
    files.write_atomic(path, graphdef.serialized(graph))
    return path, nodes


def compared(path, source, fetches, feed="root_input"):
    """A written graph against its model, without the fresh process of `check`."""
    faces = verification_images.choose_images("", source.image_size)
    cases = verification_images.cases(source, faces, MEAN)
    candidate = verification.Candidate(path, feed, fetches, cases)
    graph = loaded_graph.LoadedGraph(path, feed, fetches, device="cpu")
    outputs = [graph.run(case.inputs) for case in cases]
    return verification.compare(candidate, outputs, [0.0] * len(cases))


def dense(shape, units=1, batch=None):
    """A model of one layer, with any input shape and number of outputs."""
    image = keras.Input(shape, batch_size=batch, name="root_input")
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(units, name="age_output")(x))
