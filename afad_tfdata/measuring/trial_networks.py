"""Networks and batches that the parts of the check measure and compare.

The results of `exact_network` do not depend on how it is divided or computed.  It has
neither dropout nor batch statistics, and comes in float32 and float64, so that a
difference can be told from rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata import models
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import losses
from afad_tfdata.training import optimizers, process_settings, step

# Near the means of the drawn faces and of AFAD; only its order of magnitude matters.
MEAN = (130.0, 115.0, 105.0)
# Number of different batches in memory.
_BATCHES = 4
# Of the exact network.
EXACT_SIZE = 24
EXACT_BATCH = 16
# The age loss is near 30, the gender loss near 0.7.
_EXACT_LOSS = losses.LossConfig(gender_weight=5.0)


def trial_network(backbone: str, image_size: int, precision: str) -> keras.Model:
    """A network of random weights that the GPU check measures.

    Call it within the strategy's scope.

    Args:
      backbone: As for ``--backbone``.
      image_size: Side in pixels.
      precision: ``float32``, ``tf32`` or ``mixed_float16``.
    """
    policy = "float32" if precision == "tf32" else precision
    keras.utils.set_random_seed(1)
    with process_settings.dtype_policy(policy):
        config = models.ModelConfig(
            backbone=backbone, weights="none", image_size=image_size, mean=MEAN
        )
        return models.training_model(models.build_model(config))


def random_batches(
    batch: int, image_size: int, count: int = _BATCHES
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Batches of noise for the networks of the GPU check.

    Returns:
      Images uint8 ``[count, batch, S, S, 3]``; labels ``[count, batch]`` as records
      have them.
    """
    rng = np.random.default_rng(0)
    shape = (count, batch, image_size, image_size, 3)
    return rng.integers(0, 256, shape, np.uint8), {
        "age": rng.uniform(15, 60, (count, batch)).astype(np.float32),
        "gender": rng.integers(0, 2, (count, batch)).astype(np.int32),
    }


def batches_in_memory(batch: int, image_size: int) -> tf.data.Dataset:
    """Endless batches of noise from memory, for the networks of the GPU check."""
    images, labels = random_batches(batch, image_size)
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, labels))
    return dataset.cache().repeat().prefetch(2)


def distributed_batches(
    strategy: tf.distribute.Strategy,
    make: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterator[Any]:
    """An iterator of batches for all devices of the GPU check, ahead of time."""
    return iter(strategy.distribute_datasets_from_function(make))


def normalized(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """A trial network's input without augmentation; for `step.TrainStep`."""
    del step, offset
    return tensor_preprocessing.normalize(images, MEAN)


def exact_network(
    strategy: tf.distribute.Strategy, dtype: str = "float32"
) -> keras.Model:
    """A network whose results do not depend on how it is computed.

    Args:
      strategy: Where its variables are.
      dtype: Of everything in it.
    """
    with strategy.scope():
        keras.utils.set_random_seed(3)
        image = keras.Input((EXACT_SIZE, EXACT_SIZE, 3), dtype=dtype)
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


def exact_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    dtype: str = "float32",
    *,
    prepare: Any = None,
    **config: Any,
) -> step.TrainStep:
    """The package's training step around the exact network, with Adam.

    Args:
      strategy: The replicas.
      model: From `exact_network`.
      dtype: The model's.
      prepare: As for `step.TrainStep`; by default, normalisation.
      **config: Further fields of `step.StepConfig`.
    """

    def cast(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """The exact network's input, in its type."""
        return tf.cast(normalized(images, step, offset), dtype)

    with strategy.scope():
        optimizer = optimizers.build("adam", momentum=0.9)
    return step.TrainStep(
        strategy,
        model,
        optimizer,
        losses.build(_EXACT_LOSS),
        prepare or cast,
        step.StepConfig(global_batch_size=EXACT_BATCH, **config),
    )


def exact_batches(strategy: tf.distribute.Strategy) -> Iterator[Any]:
    """Endless global batches for the exact network, divided over the replicas."""

    def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
        """The batches of one replica."""
        del context  # All replicas are in this process, and share one pipeline.
        images, labels = random_batches(EXACT_BATCH, EXACT_SIZE)
        dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, labels))
        replicas = strategy.num_replicas_in_sync
        return (
            dataset.repeat()
            .unbatch()
            .batch(EXACT_BATCH // replicas, drop_remainder=True)
        )

    return distributed_batches(strategy, make)


def exact_gradient(
    strategy: tf.distribute.Strategy, model: keras.Model, dtype: str
) -> np.ndarray:
    """The gradient of the exact network for the first batch, as a float64 vector."""
    images, labels = random_batches(EXACT_BATCH, EXACT_SIZE, 1)
    loss_fn = losses.build(_EXACT_LOSS)

    def compute(image: tf.Tensor, labels: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """The gradient of the mean loss by the variables of the model."""
        with tf.GradientTape() as tape:
            x = tf.cast(normalized(image, 0, 0), dtype)
            outputs = model(x, training=True)
            loss = tf.reduce_mean(loss_fn(outputs, labels)["loss"])
        return tape.gradient(loss, [w.value for w in model.trainable_variables])

    first = {name: tf.constant(values[0]) for name, values in labels.items()}
    found = tf.function(strategy.run, autograph=False)(
        compute, args=(tf.constant(images[0]), first)
    )
    parts = [strategy.experimental_local_results(part)[0] for part in found]
    return np.concatenate([part.numpy().astype(np.float64).ravel() for part in parts])
