"""What the first weights of a caller's model receive when train feeds it.

Train passes ``(x - mean) / 127.5``.  A model that was built for pixels divides them
inside, by a layer, an operation or a function of its own.  Its first weights then
receive values near 0, which raises no error: the model only learns badly.  Therefore
the values are measured, and not only the layers looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import facts, input_range

# Values that span so little were divided once more: 1 / 127.5 and 1 / 255 of [-1, 1]
# span less, and so does a Normalization that was adapted to pixels.
_LEAST_SPAN = 0.2
# All values are so far from 0 only if the mean of pixels was subtracted or added.
_FAR = 10.0
# Side of the images for a model that takes any size.
_SIDE = 32


class _Received(NamedTuple):
    """What the first weights receive, and what the input passed before.

    Attributes:
      passed: The layers before them.
      name: Name of their layer.
      values: What it receives for `_probe_images`.
      inner: Layers inside it, if it is no graph.
    """

    passed: list[Any]
    name: str
    values: np.ndarray
    inner: list[Any]


def refuse_pixels(model: keras.Model, sides: tuple[int | None, int | None]) -> None:
    """Refuses a caller's model that expects pixels as its input.

    Args:
      model: A functional model, a built ``Sequential``, or one around another model.
      sides: Height and width in pixels of the images; None if they are not known.

    Raises:
      UsageError: The model divides or shifts its input as if it were in [0, 255].
    """
    if facts.network_of(model):
        return
    found = _received_by_first_weights(model, _probe_images(sides))
    if found is None:
        return
    low, high = float(found.values.min()), float(found.values.max())
    # Of each channel or feature, because the means of the channels differ.
    span = float(np.ptp(found.values.reshape(-1, found.values.shape[-1]), axis=0).max())
    if span < _LEAST_SPAN or max(-high, low) > max(_FAR, span):
        raise _pixels_error(
            _scaling_of_pixels_in(found.passed)
            or f"operations after which layer {found.name} receives [{low:.3g},"
            f" {high:.3g}] for inputs in [-1, 1]"
        )
    highest = input_range.HIGHEST_NORMALIZED
    # A model that is no graph is only searched; it may get pixels from layers before.
    if np.abs(found.values).max() < highest and (
        text := _scaling_of_pixels_in(found.inner)
    ):
        raise _pixels_error(text)
    for layer in found.passed:
        scale = np.max(np.abs(getattr(layer, "scale", 1.0)))
        if isinstance(layer, keras.layers.Rescaling) and scale > _FAR:
            return  # Back in pixels, which the layers after it take.
        limits = getattr(layer, "value_range", None)
        if limits is not None and max(limits) > highest:
            raise errors.UsageError(
                f"the model's layer {layer.name} ({type(layer).__name__}) has"
                f" value_range={tuple(limits)}, and train passes (x - mean) / 127.5,"
                " which it would cut off: give it value_range=(-1, 1)"
            )


def is_graph(layer: Any) -> bool:
    """Whether a model is a graph of layers, so that a layer's input can be computed."""
    # Functional is not a public name of Keras.  A subclassed model that was called once
    # also has an `output`, which is the one of that call.
    if isinstance(layer, keras.Sequential):
        return bool(layer.built)
    return any(base.__name__ == "Functional" for base in type(layer).__mro__)


def _probe_images(sides: tuple[int | None, int | None]) -> np.ndarray:
    """Images in [-1, 1] that probe a model: plain ones, which pooling keeps; noise."""
    shape = (sides[0] or _SIDE, sides[1] or _SIDE, 3)
    plain = [np.full(shape, value) for value in (-1.0, 0.0, 1.0)]
    noise = np.random.default_rng(0).uniform(-1, 1, (2, *shape))
    return np.concatenate([plain, noise]).astype(np.float32)


def _received_by_first_weights(model: keras.Model, images: Any) -> _Received | None:
    """What the first layer with weights receives of the input; None if not known."""
    passed: list[Any] = []
    for layer in model.layers:
        inside = isinstance(layer, keras.Model) and is_graph(layer)
        if isinstance(layer, keras.layers.Normalization) or not layer.weights:
            passed += layer._flatten_layers() if inside else [layer]
            continue
        values = _input_of_layer(model, layer, images)
        if values is None:
            return None
        if inside:
            found = _received_by_first_weights(layer, values)
            return found and found._replace(passed=passed + found.passed)
        return _Received(
            passed, layer.name, np.asarray(values), list(layer._flatten_layers())
        )
    return None


def _input_of_layer(model: keras.Model, layer: Any, images: Any) -> Any:
    """The input of a layer, computed without training; None if it cannot be."""
    # A layer that is used in several models has a node for each.
    for node in layer._inbound_nodes:
        try:
            below = keras.Model(model.inputs[0], node.input_tensors[0])
            values = keras.ops.convert_to_numpy(below(images, training=False))
        except Exception:  # noqa: S112 (The node of another model, or a caller's layer.)
            continue
        if values.dtype.kind == "f" and np.isfinite(values).all():
            return values
    return None


def _scaling_of_pixels_in(layers: list[Any]) -> str:
    """The layer that scales pixels at the input, as text; empty if there is none."""
    for layer in layers:
        if name := input_range.scaling_of_pixels(layer):
            return f"{layer.name}, a {name}"
    return ""


def _pixels_error(text: str) -> errors.UsageError:
    """The error of a caller's model whose input is pixels."""
    return errors.UsageError(
        f"the model begins with {text}, and train passes (x - mean) / 127.5 and not"
        " pixels: leave that out, or put Rescaling(127.5, offset=mean) before it"
    )
