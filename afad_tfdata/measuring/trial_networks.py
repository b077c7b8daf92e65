"""Networks and batches that the parts of the check measure and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata import models
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.training import threads_and_precision

# Near the means of the drawn faces and of AFAD; only its order of magnitude matters.
MEAN = (130.0, 115.0, 105.0)
# Number of different batches in memory.
_BATCHES = 4


def network(backbone: str, image_size: int, precision: str) -> keras.Model:
    """A network of random weights that returns a dict of outputs.

    Call it within the strategy's scope.

    Args:
      backbone: As for ``--backbone``.
      image_size: Side in pixels.
      precision: ``float32``, ``tf32`` or ``mixed_float16``.
    """
    policy = "float32" if precision == "tf32" else precision
    keras.utils.set_random_seed(1)
    with threads_and_precision.dtype_policy(policy):
        config = models.ModelConfig(
            backbone=backbone, weights="none", image_size=image_size, mean=MEAN
        )
        return models.training_model(models.build_model(config))


def random_batches(
    batch: int, image_size: int, count: int = _BATCHES
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Batches of noise.

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


def in_memory(batch: int, image_size: int) -> tf.data.Dataset:
    """Endless batches of noise from memory."""
    images, labels = random_batches(batch, image_size)
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, labels))
    return dataset.cache().repeat().prefetch(2)


def distributed(
    strategy: tf.distribute.Strategy,
    make: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterator[Any]:
    """An iterator that copies batches to the strategy's devices ahead of time."""
    return iter(strategy.distribute_datasets_from_function(make))


def normalized(images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """A network's input without augmentation; for `step.TrainStep`."""
    del step, offset
    return tensor_preprocessing.normalize(images, MEAN)
