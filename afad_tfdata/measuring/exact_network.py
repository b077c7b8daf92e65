"""A network whose results do not depend on how it is divided or computed.

It has neither dropout nor batch statistics, and comes in float32 and float64, so that a
difference can be told from rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import trial_networks
from afad_tfdata.models import losses
from afad_tfdata.training import optimizers, step

SIZE = 24
BATCH = 16
# The age loss is near 30, the gender loss near 0.7.
_LOSS = losses.LossConfig(gender_weight=5.0)


def build(strategy: tf.distribute.Strategy, dtype: str = "float32") -> keras.Model:
    """The network, with the same weights at every call.

    Args:
      strategy: Where its variables are.
      dtype: Of everything in it.
    """
    with strategy.scope():
        keras.utils.set_random_seed(3)
        image = keras.Input((SIZE, SIZE, 3), dtype=dtype)
        x = image
        for filters, strides in ((8, 1), (16, 2), (16, 2)):
            x = keras.layers.Conv2D(
                filters,
                3,
                strides=strides,
                padding="same",
                activation="relu",
                dtype=dtype,
            )(x)
        x = keras.layers.Flatten(dtype=dtype)(x)
        x = keras.layers.Dense(32, activation="tanh", dtype=dtype)(x)
        age = keras.layers.Dense(1, dtype=dtype)(x)
        gender = keras.layers.Dense(1, dtype=dtype)(x)
        return keras.Model(
            image,
            {
                "age_output": age,
                "gender_output": keras.ops.sigmoid(gender),
                "gender_logits": gender,
            },
        )


def train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    dtype: str = "float32",
    *,
    prepare: Any = None,
    **config: Any,
) -> step.TrainStep:
    """The package's step around it, with Adam.

    Args:
      strategy: The replicas.
      model: From `build`.
      dtype: The model's.
      prepare: As for `step.TrainStep`; by default, normalisation.
      **config: Further fields of `step.StepConfig`.
    """

    def normalized(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        return tf.cast(trial_networks.normalized(images, step, offset), dtype)

    with strategy.scope():
        optimizer = optimizers.build("adam", momentum=0.9)
    return step.TrainStep(
        strategy,
        model,
        optimizer,
        losses.build(_LOSS),
        prepare or normalized,
        step.StepConfig(global_batch_size=BATCH, **config),
    )


def batches(strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """Endless global batches of noise, divided over the replicas."""

    def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
        del context  # All replicas are in this process, and share one pipeline.
        images, labels = trial_networks.random_batches(BATCH, SIZE)
        dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, labels))
        replicas = strategy.num_replicas_in_sync
        return dataset.repeat().unbatch().batch(BATCH // replicas, drop_remainder=True)

    return trial_networks.distributed(strategy, make)


def gradient(
    strategy: tf.distribute.Strategy, model: keras.Model, dtype: str
) -> np.ndarray:
    """The gradient of the first batch's mean loss, as one float64 vector."""
    images, labels = trial_networks.random_batches(BATCH, SIZE, 1)
    loss_fn = losses.build(_LOSS)

    def compute(image: tf.Tensor, labels: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            x = tf.cast(trial_networks.normalized(image, 0, 0), dtype)
            outputs = model(x, training=True)
            loss = tf.reduce_mean(loss_fn(outputs, labels)["loss"])
        return tape.gradient(loss, [w.value for w in model.trainable_variables])

    first = {name: tf.constant(values[0]) for name, values in labels.items()}
    found = tf.function(strategy.run)(compute, args=(tf.constant(images[0]), first))
    parts = [strategy.experimental_local_results(part)[0] for part in found]
    return np.concatenate([part.numpy().astype(np.float64).ravel() for part in parts])
