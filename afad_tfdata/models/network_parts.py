"""Parts of a network for which Keras has no layer, built from Keras' own layers.

A saved model contains only Keras' layers, so that ``keras.saving.load_model`` loads it
in a program without this package::

    x = network_parts.convert_input(image, **conversion._asdict())
    age = network_parts.decode_age(logits, "corn", 15, 72, dtype="float32")

Layers without weights are used wherever possible, because neither training nor copied
weights nor another precision can change them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import age_heads

# Name of the only layer here that has weights.  They never change.
CONVERSION_NAME = "input_conversion"


def convert_input(
    image: keras.KerasTensor,
    *,
    scale: Sequence[float],
    offset: Sequence[float],
    reverse: bool,
) -> keras.KerasTensor:
    """Adds the part of a network that converts its input to a backbone's.

    The input is ``(x - mean) / 127.5``; a backbone expects another range and perhaps
    another order of the channels.  The part computes in float32 under every precision,
    because bfloat16 would round the 256 levels of a pixel.

    Args:
      image: float32 RGB ``[n, h, w, 3]``.
      scale: Factors of the three channels, in the order of the output.
      offset: Added after the multiplication.
      reverse: Whether RGB becomes BGR.

    Returns:
      float32 ``[n, h, w, 3]``; the input itself if nothing has to be changed.
    """
    if reverse:
        # Keras has no layer that only reorders channels.
        kernel = np.diag(scale)[::-1]
        layer = keras.layers.Conv2D(
            filters=3,
            kernel_size=1,
            kernel_initializer=keras.initializers.Constant([[kernel.tolist()]]),
            bias_initializer=keras.initializers.Constant(list(offset)),
            trainable=False,
            dtype="float32",
            name=CONVERSION_NAME,
        )
        return layer(image)
    if set(scale) == {1.0} and set(offset) == {0.0}:
        return image
    layer = keras.layers.Rescaling(
        _one_if_equal(scale),
        _one_if_equal(offset),
        dtype="float32",
        name=CONVERSION_NAME,
    )
    return layer(image)


def is_input_conversion(layer: keras.layers.Layer) -> bool:
    """Whether a layer is the convolution of `convert_input`, which never changes."""
    return (
        layer.name == CONVERSION_NAME
        and isinstance(layer, keras.layers.Conv2D)
        and (layer.filters, layer.kernel_size) == (3, (1, 1))
    )


def decode_age(
    logits: keras.KerasTensor, head: str, min_age: int, max_age: int, *, dtype: str
) -> keras.KerasTensor:
    """Adds the part of a network that decodes logits to an age, ``age_output``.

    It computes the same as `age_heads.decode`.

    Args:
      logits: ``[n, num_logits]``.
      head: One of `age_heads.DISTRIBUTIONS` or `age_heads.RANKS`.
      min_age: Years of the first class.
      max_age: Years of the last class.
      dtype: Dtype of the layers: float32 or float64.

    Returns:
      Years, ``[n, 1]``.
    """
    count = age_heads.num_logits(head, min_age, max_age)
    if head in age_heads.DISTRIBUTIONS:
        shares = keras.layers.Softmax(dtype=dtype, name="age_shares")(logits)
        # Multiplied by the number of classes, because the sum is computed as a mean.
        ages = [float(count * age) for age in range(min_age, max_age + 1)]
        parts = keras.layers.Rescaling(ages, dtype=dtype, name="age_parts")(shares)
        return _add_mean(parts, count, dtype=dtype, name="age_output")
    older = _add_older_than(logits, head, count, dtype=dtype)
    mean = _add_mean(older, count, dtype=dtype, name="age_mean")
    years = keras.layers.Rescaling(
        float(count), float(min_age), dtype=dtype, name="age_output"
    )
    return years(mean)


def add_biases(
    score: keras.KerasTensor, initial: Sequence[float], *, dtype: str, name: str
) -> keras.KerasTensor:
    """Adds the part of a network with a trained bias for each threshold.

    Args:
      score: ``[n, 1]``.
      initial: The biases at the start.
      dtype: Dtype of the layers.
      name: Name of the last layer.

    Returns:
      ``[n, thresholds]``.
    """
    count = len(initial)
    x = keras.layers.RepeatVector(count, dtype=dtype, name="age_repeated")(score)
    scores = keras.layers.Flatten(dtype=dtype, name="age_scores")(x)
    # A Dense layer with a bias would also have a matrix.  PReLU has only one vector of
    # weights, by which it multiplies negative inputs: an input of -1 becomes minus the
    # bias.
    ones = keras.layers.Rescaling(0.0, -1.0, dtype=dtype, name="age_minus_ones")(scores)
    biases = keras.layers.PReLU(
        alpha_initializer=keras.initializers.Constant(list(initial)),
        dtype=dtype,
        name="age_biases",
    )
    return keras.layers.Subtract(dtype=dtype, name=name)([scores, biases(ones)])


def _one_if_equal(values: Sequence[float]) -> float | list[float]:
    """One number for equal ones in a part, as freezing removes ``* 1`` and ``+ 0``."""
    return values[0] if len(set(values)) == 1 else list(values)


def _add_older_than(
    logits: keras.KerasTensor, head: str, count: int, *, dtype: str
) -> keras.KerasTensor:
    """Adds the part with the probabilities of being older than each threshold."""
    if head != "corn":
        return keras.layers.Activation("sigmoid", dtype=dtype, name="age_older")(logits)
    # Each of CORN's logits is of "older than k, given older than k - 1".  The
    # probabilities up to each threshold are therefore multiplied, as a sum of
    # logarithms.  The sum is computed as the mean of a window that ends at the
    # threshold; before the first threshold, the window is filled with zeros.
    x = keras.layers.Activation("log_sigmoid", dtype=dtype, name="age_logarithms")(
        logits
    )
    x = keras.layers.Reshape((count, 1), dtype=dtype, name="age_sequence")(x)
    x = keras.layers.ZeroPadding1D((count - 1, 0), dtype=dtype, name="age_padding")(x)
    x = keras.layers.AveragePooling1D(count, 1, dtype=dtype, name="age_windows")(x)
    x = keras.layers.Flatten(dtype=dtype, name="age_sums")(x)
    x = keras.layers.Rescaling(float(count), dtype=dtype, name="age_products")(x)
    return keras.layers.Activation("exponential", dtype=dtype, name="age_older")(x)


def _add_mean(
    values: keras.KerasTensor, count: int, *, dtype: str, name: str
) -> keras.KerasTensor:
    """Adds the part with the mean of ``[n, count]`` over its columns, ``[n, 1]``."""
    x = keras.layers.Reshape((count, 1), dtype=dtype, name=f"{name}_column")(values)
    return keras.layers.GlobalAveragePooling1D(dtype=dtype, name=name)(x)


def fixed_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a network that are parts whose weights never change.

    They are recognised without the model's facts, because a model that Keras itself
    loaded has no facts.
    """
    return [layer for layer in model.layers if is_input_conversion(layer)]
