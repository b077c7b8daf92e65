"""The elements of an input pipeline: features and labels by name, or as Keras wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import record_index
from afad_tfdata.storage import schema


def element_function(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    pads: bool = True,
) -> Callable[..., Any]:
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
    if config.as_supervised:
        return _supervised_function(schema.labels_of(config.task), index.mean_rgb, pads)

    def named(
        image: tf.Tensor,
        age: tf.Tensor,
        gender: tf.Tensor,
        mask: tf.Tensor | None = None,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Makes an element of features and labels by name."""
        features = {"image": image}
        if mask is not None:
            features["mask"] = mask
        values = {"age": age, "gender": gender}
        return features, {label: values[label] for label in index.labels}

    return named


def _supervised_function(
    labels: tuple[str, ...], mean_rgb: tuple[float, float, float] | None, pads: bool
) -> Callable[..., Any]:
    """Returns a function that makes elements ``(image, label)``, normalising images.

    Padded batches have a third part, the ``sample_weight``, which is 0 on padding.
    Other batches do not, because Keras refuses ``class_weight`` together with it.
    """
    if mean_rgb is None:
        raise errors.UsageError(
            "as_supervised normalises images and needs their channel means: name a"
            " mean.json with --mean_file"
        )

    def supervised(
        image: tf.Tensor,
        age: tf.Tensor,
        gender: tf.Tensor,
        mask: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor | dict[str, tf.Tensor], ...]:
        """Makes an element ``(image, label)`` for Keras, perhaps with weights."""
        if mask is not None and not pads:
            image, age, gender = (
                tf.boolean_mask(part, mask) for part in (image, age, gender)
            )
        values = {"age": age, "gender": tf.cast(gender, tf.float32)}
        image = tensor_preprocessing.normalize(image, mean_rgb)
        if len(labels) == 1:
            label = values[labels[0]]
        else:
            label = {f"{name}_output": values[name] for name in labels}
        if mask is None or not pads:
            return image, label
        # All outputs get one weight, because Keras takes a dict of weights only if the
        # model has a dict of outputs.
        return image, label, tf.cast(mask, tf.float32)

    return supervised
