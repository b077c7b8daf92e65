"""Which values a model's input takes, and how images are converted to them.

Networks of this package take ``(x - mean) / 127.5``.  A model of another program may
take pixels in [0, 255] or in [0, 1]::

    found = input_range.choose("", "auto", model, what="face.keras")     # "pixels"
    mean, divisor = input_range.normalization_of_range(found, mean)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import facts

CHOICES = ("auto", *facts.INPUT_RANGES)
HELP = (
    "What the model's input receives: normalized is (x - mean) / 127.5, pixels is"
    " x, and unit is x / 255, with x in [0, 255]. auto finds it in the model file"
    " or in the model's first layers, and is an error if neither says it."
)
# The name of the input in models of this package and of the original project.
_ROOT_INPUT = "root_input"
# The output of one of these layers says nothing about the range of the input.
_DECISIVE = frozenset(
    """Rescaling Normalization Conv2D Dense DepthwiseConv2D SeparableConv2D""".split()
)
# A first layer that multiplies by less than this (1 / 127.5, 1 / 255) takes pixels.
_PIXEL_SCALE = 0.1
# A Normalization layer with a larger mean was adapted to pixels and not to normalised
# values, which are within [-2, 2].
_PIXEL_MEAN = 2.0
# Normalised values are within [-2, 2], with some room.
HIGHEST_NORMALIZED = 4.0


def choose(
    known: str, given: str, model: Any = None, *, normalized: bool = False, what: str
) -> str:
    """Chooses the input range: what is known, the flag, or what the layers prove.

    Args:
      known: What the model's file or run says; empty if they say nothing.
      given: The flag ``--input_range``.
      model: The model, to look at its input and its first layers; None for a SavedModel
        or a graph.
      normalized: Whether the input's name, or a ``--mean_json`` that the user named,
        says that images are normalised.
      what: The model, for the message.

    Returns:
      One of `facts.INPUT_RANGES`.

    Raises:
      UsageError: The flag contradicts what the model proves, or nothing says it.
    """
    proved = known or range_of_layers(model)
    if given not in ("", "auto"):
        if proved and proved != given:
            raise errors.UsageError(
                f"--input_range={given}: {what} takes {proved}, as its file or first"
                " layers say; leave the flag out"
            )
        return given
    if not proved and normalized:
        return "normalized"
    if not proved:
        raise errors.UsageError(
            f"nothing says what images {what} takes: name it with"
            " --input_range=normalized for (x - mean) / 127.5, =pixels for [0, 255], or"
            " =unit for [0, 1]"
        )
    return proved


def range_of_layers(model: Any) -> str:
    """The input range that a model's input and first layers prove; empty for none.

    Args:
      model: A model of Keras 3 or tf-keras.
    """
    inputs = getattr(model, "inputs", None) or ()
    named = False
    for tensor in inputs:
        name = str(getattr(tensor, "name", "")).partition(":")[0]
        if "int" in str(getattr(tensor, "dtype", "")):
            return "pixels"  # Normalised values are not whole numbers.
        named |= name == _ROOT_INPUT
    for layer in _first_layers(model):
        if scaling_of_pixels(layer):
            # The name and the layer contradict each other: neither is a proof.
            return "" if named else "pixels"
        if type(layer).__name__ in _DECISIVE:
            break  # Later layers say nothing about the input.
    return "normalized" if named else ""


def scaling_of_pixels(layer: Any) -> str:
    """Describes a first layer that proves that the input is pixels; empty for others.

    Args:
      layer: A layer of Keras 3 or tf-keras that takes the model's input.
    """
    kind = type(layer).__name__
    if kind == "Rescaling":
        scale = _largest_magnitude(getattr(layer, "scale", 1))
        return f"Rescaling({scale:.4g})" if scale < _PIXEL_SCALE else ""
    mean = getattr(layer, "mean", None) if kind == "Normalization" else None
    if mean is not None and _largest_magnitude(mean) > _PIXEL_MEAN:
        return "Normalization of pixels"
    return ""


def normalization_of_range(
    input_range: str, mean: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, float]:
    """The means and the divisor that turn pixels into a model's input range.

    Args:
      input_range: One of `facts.INPUT_RANGES`.
      mean: Channel means R, G, B in [0, 255]; None where they are unknown.  Only
        ``normalized`` uses them.
    """
    if input_range == "pixels":
        return (0.0, 0.0, 0.0), 1.0
    if input_range == "unit":
        return (0.0, 0.0, 0.0), 255.0
    return (None if mean is None else tuple(mean)), tensor_preprocessing.DIVISOR


def _first_layers(model: Any) -> Iterator[Any]:
    """The layers that may prove the input range, in order, also those in a model."""
    for layer in getattr(model, "layers", ()):
        if getattr(layer, "layers", None):
            yield from _first_layers(layer)
        else:
            yield layer


def _largest_magnitude(value: Any) -> float:
    """The largest absolute value of what a layer scales or subtracts."""
    return float(np.max(np.abs(np.asarray(value, np.float64)), initial=0.0))
