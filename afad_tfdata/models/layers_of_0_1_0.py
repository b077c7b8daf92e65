"""Keras layers of models that version 0.1.0 saved, registered so that they still load.

New networks consist of Keras' own layers (`network_parts`).  Importing this module
imports Keras; therefore other modules import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import age_heads

# In files, our layers have names like "afad_tfdata>InputConversion": never change it.
_PACKAGE = "afad_tfdata"

_Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(_PACKAGE)
class InputConversion(keras.layers.Layer):
    """Converts ``(x - mean) / 127.5`` to a backbone's range and order of channels.

    This is a fixed affine map for each channel, in float32 under every precision.  The
    layer also stores the model's configuration, which `facts.of` reads from it.

    Args:
      scale: Factors of the three channels, in the order of the output.
      offset: Added after the multiplication.
      reverse: Whether RGB becomes BGR.
      info: JSON values to store: the `networks.ModelConfig` of the model.
    """

    def __init__(
        self,
        scale: Sequence[float] = (1.0, 1.0, 1.0),
        offset: Sequence[float] = (0.0, 0.0, 0.0),
        reverse: bool = False,
        info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # The policy's dtype is not used, because bfloat16 would round the 256 levels of
        # a pixel.  `|=` and not arguments, because the config of a saved layer contains
        # both names, too.
        kwargs |= {"dtype": "float32", "trainable": False}
        super().__init__(**kwargs)
        self.scale = [float(v) for v in scale]
        self.offset = [float(v) for v in offset]
        self.reverse = bool(reverse)
        self.info = dict(info or {})

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Converts float32 images ``[n, h, w, 3]``, as in version 0.1.0."""
        # An identity adds no operation, so that frozen graphs stay small.
        if self.reverse:
            images = tf.reverse(images, [-1])
        if self.scale != [1.0] * 3:
            images = images * np.asarray(self.scale, np.float32)
        if self.offset != [0.0] * 3:
            images = images + np.asarray(self.offset, np.float32)
        return images

    def compute_output_shape(self, input_shape: _Shape) -> _Shape:
        """The shape of what this layer of version 0.1.0 returns."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__``, as files of version 0.1.0 have them."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "offset": self.offset,
            "reverse": self.reverse,
            "info": self.info,
        }


@keras.saving.register_keras_serializable(_PACKAGE)
class AgeDecoder(keras.layers.Layer):
    """Decodes logits of an age head to years ``[n, 1]``, as `age_heads.decode` does.

    Args:
      head: One of `age_heads.NAMES`, but not ``regression``.
      min_age: Years of the first class.
      max_age: Years of the last class.
    """

    def __init__(self, head: str, min_age: int, max_age: int, **kwargs: Any) -> None:
        # In bfloat16, an age of 40 years would be rounded to a quarter of a year.
        kwargs["dtype"] = _dtype_of_layer(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.head, self.min_age, self.max_age = head, int(min_age), int(max_age)

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Decodes logits ``[n, num_logits]``, as a layer of version 0.1.0."""
        return age_heads.decode(logits, self.head, self.min_age, self.max_age)

    def compute_output_shape(self, input_shape: _Shape) -> _Shape:
        """The shape of what this layer of version 0.1.0 returns."""
        return (input_shape[0], 1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__``, as files of version 0.1.0 have them."""
        return {
            **super().get_config(),
            "head": self.head,
            "min_age": self.min_age,
            "max_age": self.max_age,
        }


@keras.saving.register_keras_serializable(_PACKAGE)
class RankBias(keras.layers.Layer):
    """CORAL's logits: one score ``[n, 1]`` plus a bias for each threshold.

    Args:
      initial: Biases at the start, one for each threshold.
    """

    def __init__(self, initial: Sequence[float], **kwargs: Any) -> None:
        kwargs["dtype"] = _dtype_of_layer(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.initial = [float(v) for v in initial]

    def build(self, input_shape: _Shape) -> None:
        """Creates the biases of this layer of version 0.1.0."""
        del input_shape
        self.bias = self.add_weight(
            name="bias",
            shape=(len(self.initial),),
            initializer=InitialBias(self.initial),
        )

    def call(self, score: tf.Tensor) -> tf.Tensor:
        """Adds the biases to a score ``[n, 1]``, as a layer of version 0.1.0."""
        return score + tf.convert_to_tensor(self.bias)

    def compute_output_shape(self, input_shape: _Shape) -> _Shape:
        """The shape of what this layer of version 0.1.0 returns."""
        return (input_shape[0], len(self.initial))

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__``, as files of version 0.1.0 have them."""
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable(_PACKAGE)
class InitialBias(keras.initializers.Initializer):
    """Initial values that are given as numbers.

    Args:
      values: One for each unit.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = [float(v) for v in values]

    def __call__(
        self, shape: Sequence[int], dtype: str | tf.DType | None = None
    ) -> tf.Tensor:
        """The numbers as a tensor."""
        return tf.constant(self.values, dtype or "float32", shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__``, as files of version 0.1.0 have them."""
        return {"values": self.values}


def _dtype_of_layer(dtype: Any) -> str:
    """The dtype of layers of version 0.1.0: float64 for its policy, else float32.

    Args:
      dtype: A policy, its name, its serialized form, or None.
    """
    name = getattr(dtype, "name", dtype)  # A plain string has no name.
    if isinstance(dtype, Mapping):
        name = dtype.get("config", {}).get("name")
    return "float64" if name == "float64" else "float32"
