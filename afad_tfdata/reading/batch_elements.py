"""The elements of an input pipeline: features and labels by name, or as Keras wants.

The functions here are compared by value: pipelines whose functions are equal share a
graph (`function_tracing.map_by_shared_graph`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import record_index, replica_batches
from afad_tfdata.storage import schema


def element_function(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    pads: bool = True,
) -> NamedElement | SupervisedElement:
    """Returns a function that makes an element of images, ages, genders and a mask.

    Only evaluation passes a mask.

    Args:
      config: Whether elements are for Keras, and of which task.
      index: The records, whose labels and channel means are used.
      pads: Whether elements for Keras keep padding; if not, they contain only the
        examples whose mask is True.

    Raises:
      UsageError: Elements for Keras need channel means that are not known.
    """
    if not config.as_supervised:
        return NamedElement(tuple(index.labels))
    if index.mean_rgb is None:
        raise errors.UsageError(
            "as_supervised normalises images and needs their channel means: name a"
            " mean.json with --mean_file"
        )
    mean_rgb = tuple(index.mean_rgb)
    return SupervisedElement(schema.labels_of(config.task), mean_rgb, pads)


@dataclasses.dataclass(frozen=True)
class NamedElement:
    """Makes elements of the named features and labels.

    Attributes:
      labels: The labels that the data set has.
    """

    labels: tuple[str, ...]

    def __call__(
        self,
        image: tf.Tensor,
        age: tf.Tensor,
        gender: tf.Tensor,
        mask: tf.Tensor | None = None,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Makes an element; only evaluation passes a mask."""
        features = {"image": image}
        if mask is not None:
            features["mask"] = mask
        values = {"age": age, "gender": gender}
        return features, {label: values[label] for label in self.labels}


@dataclasses.dataclass(frozen=True)
class SupervisedElement:
    """Makes elements ``(image, label)`` for Keras, normalising images.

    Padded batches have a third part, the ``sample_weight``, which is 0 on padding.
    Other batches do not, because Keras refuses ``class_weight`` together with it.

    Attributes:
      labels: The labels of the task.
      mean_rgb: Means of the channels, from 0 to 255.
      pads: Whether examples whose mask is False stay, with a weight of 0.
    """

    labels: tuple[str, ...]
    mean_rgb: tuple[float, ...]
    pads: bool

    def __call__(
        self,
        image: tf.Tensor,
        age: tf.Tensor,
        gender: tf.Tensor,
        mask: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | dict[str, tf.Tensor], ...]:
        """Makes an element; only evaluation passes a mask."""
        if mask is not None and not self.pads:
            image, age, gender = (
                tf.boolean_mask(part, mask) for part in (image, age, gender)
            )
        values = {"age": age, "gender": tf.cast(gender, tf.float32)}
        image = tensor_preprocessing.normalize(image, self.mean_rgb)
        if len(self.labels) == 1:
            label = values[self.labels[0]]
        else:
            label = {f"{name}_output": values[name] for name in self.labels}
        if mask is None or not self.pads:
            return image, label
        # All outputs get one weight, because Keras takes a dict of weights only if the
        # model has a dict of outputs.
        return image, label, tf.cast(mask, tf.float32)


@dataclasses.dataclass(frozen=True)
class ReadBatch:
    """Reads a batch and makes an element of it.

    Attributes:
      graph: Has the functions `read` and `read_train` of an engine.
      element: From `element_function`.
      train: Whether a bad record is replaced, and not masked.
    """

    graph: Any
    element: Callable[..., Any]
    train: bool

    def __call__(self, *batch: tf.Tensor) -> Any:
        """Makes an element of what the engine is given, such as record numbers."""
        read = self.graph.read_train if self.train else self.graph.read
        return self.element(*read(*batch))


@dataclasses.dataclass(frozen=True)
class ReadPositions:
    """Reads a batch for evaluation by its number, and pads at the end of the data set.

    Attributes:
      batch: Reads the batch, given its record numbers.
      slices: Which positions are this pipeline's.
      num_examples: Examples in the split.
    """

    batch: ReadBatch
    slices: replica_batches.ReplicaBatches
    num_examples: int

    def __call__(self, number: tf.Tensor, *arguments: tf.Tensor) -> Any:
        """Makes an element of the number of a pipeline's batch."""
        records = self.slices.padded_positions(number, self.num_examples)
        return self.batch(records, *arguments)
