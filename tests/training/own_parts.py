"""Small models and examples of a caller's, and a short training on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from afad_tfdata import trainer
from afad_tfdata.common.lazy_imports import keras, tf

SIZE, BATCH, COUNT = 6, 8, 16

_random = np.random.default_rng(0)
IMAGES = _random.integers(0, 256, (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
LABELS = {
    "age": _random.integers(18, 60, COUNT).astype(np.int64),
    "gender": (np.arange(COUNT) % 2).astype(np.int64),
}


def dataset(images: Any = IMAGES, *, batch: int = BATCH, **labels: Any) -> Any:
    """A data set of batches; keywords replace labels, and ``mask`` is a feature."""
    features = {"image": images}
    if "mask" in labels:
        features["mask"] = labels.pop("mask")
    pairs = (features, {**LABELS, **labels})
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch)


def from_generator(batches: Callable[[], Any], *, side: int | None = SIZE) -> Any:
    """A data set of a generator of pairs ``(images, labels)``."""
    whole = tf.TensorSpec([None], tf.int64)
    image = tf.TensorSpec([None, side, side, 3], tf.uint8)
    return tf.data.Dataset.from_generator(
        batches, output_signature=(image, {"age": whole, "gender": whole})
    )


def network(
    first: Sequence[Any] = (), *, age: Any = None, gender: Any = "sigmoid"
) -> Any:
    """A model with both heads, layers before them, and activations of the heads."""
    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3))
    x = image
    for layer in first:
        x = layer(x)
    return keras.Model(image, heads(keras.layers.Flatten()(x), age, gender))


def heads(x: Any, age: Any = None, gender: Any = "sigmoid") -> list[Any]:
    """The two outputs of a feature vector."""
    dense = keras.layers.Dense
    return [
        dense(1, activation=age, name="age_output")(x),
        dense(1, activation=gender, name="gender_output")(x),
    ]


def train(run_dir: Any, *, data: Any = None, **changes: Any) -> Any:
    """Trains for an epoch by SGD; keywords are parts or options."""
    names = ("model", "validation_dataset", "augment", "loss")
    parts = {name: changes.pop(name) for name in names if name in changes}
    values: dict[str, Any] = {
        "run_dir": str(run_dir),
        "stage": "tuning",
        "epochs": 1,
        "global_batch_size": BATCH,
        "devices": "cpu",
        "optimizer": "sgd",
        "momentum": 0.0,
        "learning_rate": 0.001,
        "schedule": "constant",
        "tensorboard": False,
    }
    if "augment" not in parts:
        values["augment"] = "none"
    return trainer.train(
        trainer.TrainConfig(**{**values, **changes}),
        train_dataset=dataset() if data is None else data,
        **{"model": network(), **parts},
    )
