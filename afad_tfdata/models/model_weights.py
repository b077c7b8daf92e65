"""The weights of models: checked, copied, transferred, and in float32.

::

    model_weights.check_finite(weights, origin="best.keras", advice="train again")
    copied, kept = model_weights.transfer_weights(source, target)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import age_heads, backbones, facts, network_parts

# Names of the layers with a weight for each age or threshold.
_AGE_LOGITS = ("age_logits", "age_biases")
# From names of layers in version 0.1.0 to their present names.
_FORMER_NAMES = {"age_biases": "age_logits"}


def check_finite(
    weights: Iterable[tuple[str, np.ndarray]], *, origin: str, advice: str
) -> None:
    """Refuses a model with weights that are NaN or infinite.

    The outputs of such a model may look right: on a CPU, a ReLU turns NaN into 0.

    Args:
      weights: Paths and values of the model's variables.
      origin: Where the weights come from, for the message.
      advice: What to do instead, for the message.

    Raises:
      DataError: A weight is NaN or infinite.
    """
    for path, value in weights:
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise errors.DataError(
                f"the weights of {origin} are not finite: {path} contains NaN or"
                f" infinity; {advice}"
            )


def rebuild_float32(model: keras.Model) -> keras.Model:
    """Rebuilds a network in float32, every dtype policy of it, and copies its weights.

    Raises:
      UsageError: A layer stays in 16 bits.
    """
    values = keras.saving.serialize_keras_object(model)
    # Safe mode would refuse lambdas, which are safe in a model already in memory.
    rebuilt = keras.saving.deserialize_keras_object(
        _config_in_float32(values), safe_mode=False
    )
    # This Keras, or a caller's layer, may serialize its dtype in another form.
    half = [
        layer.name
        for layer in rebuilt._flatten_layers()
        if layer.compute_dtype in ("float16", "bfloat16")
    ]
    if half:
        raise errors.UsageError(
            f"Keras {keras.__version__} rebuilds layers of this model in 16 bits and"
            f" not in float32 ({', '.join(half[:3])}): train it with"
            " afad-train --precision=float32, or install the Keras version that saved"
            " it"
        )
    copy_weights(model, rebuilt)
    facts.attach(rebuilt, facts.of(model))
    return rebuilt


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies weights between models of the same form, and updates derived values."""
    target.set_weights(source.get_weights())
    update_derived(target)


def update_derived(model: keras.Model) -> None:
    """Recomputes what layers derive from weights, after the weights were assigned.

    A Normalization layer computes with copies of its mean and variance, which
    `set_weights` and assignments to its variables do not touch.
    """
    # This method is private in Keras, but the only way to layers at any depth.  A Keras
    # without it must raise an error here, or stale copies would remain.
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def transfer_weights(
    source: keras.Model, target: keras.Model, *, swap_classes: bool = False
) -> tuple[int, list[str]]:
    """Copies those weights of another model that have the same place and shape.

    The weights of the two backbones are matched by their order and not by name, because
    the names of some of Keras' layers contain a counter of the whole process.  The
    layers of the heads are matched by name.  Logits of an age head are not copied if
    they stand for different ages in the two models.

    Args:
      source: A model as `model_files.load` returns it.
      target: A model of `networks.build_model`, changed in place.
      swap_classes: Whether class 0 of the source is class 1 of the target.  The copied
        head then outputs one minus the probability of the source, and the age branch
        is changed so that it gives the same age.

    Returns:
      How many weights were copied, and the paths of the weights of `target` that kept
      their values.
    """
    copied, kept = 0, []
    theirs, ours = backbones.backbone_of(source), backbones.backbone_of(target)
    if theirs is not None and ours is not None:
        if _shapes_of_weights(theirs) == _shapes_of_weights(ours):
            copy_weights(theirs, ours)
            copied += len(ours.weights)
        else:
            kept += [weight.path for weight in ours.weights]
    by_name = {layer.name: layer for layer in source.layers if layer is not theirs}
    for layer in target.layers:
        # The fixed layer of the target depends on the target's mean.
        if (
            layer is ours
            or not layer.weights
            or network_parts.is_input_conversion(layer)
        ):
            continue
        other = by_name.get(layer.name)
        if other is None:
            other = by_name.get(_FORMER_NAMES.get(layer.name, ""))
        means_others = layer.name in _AGE_LOGITS and not _same_age_logits(
            source, target
        )
        if (
            other is not None
            and _shapes_of_weights(other) == _shapes_of_weights(layer)
            and not means_others
        ):
            values = other.get_weights()
            if swap_classes:
                values = _with_swapped_classes(layer.name, values, target)
            layer.set_weights(values)
            copied += len(layer.weights)
        else:
            kept += [weight.path for weight in layer.weights]
    return copied, kept


def _same_age_logits(source: keras.Model, target: keras.Model) -> bool:
    """Whether the weights of two age heads mean the same; True if not known."""
    theirs, ours = facts.network_of(source), facts.network_of(target)
    if not (theirs and ours):
        return True
    ages = [(one["min_age"], one["max_age"]) for one in (theirs, ours)]
    heads = {theirs["age_head"], ours["age_head"]}
    alike = len(heads) == 1 or heads <= {*age_heads.DISTRIBUTIONS}
    return alike and ages[0] == ages[1]


def _with_swapped_classes(
    name: str, values: list[np.ndarray], model: keras.Model
) -> list[np.ndarray]:
    """Weights of a head's layer after the two classes are swapped."""
    if name == "gender_logits":
        return [-value for value in values]
    layers = {layer.name for layer in model.layers}
    if name == "age_dense_2" and "age_and_gender" in layers:
        # Its last input is the probability: w * p = w + (-w) * (1 - p).
        kernel, bias = values
        row = kernel[-1]
        return [np.concatenate([kernel[:-1], -row[np.newaxis]]), bias + row]
    return values


def _shapes_of_weights(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    """Shapes of a layer's weights."""
    return [tuple(weight.shape) for weight in layer.weights]


def _config_in_float32(value: Any, key: str = "") -> Any:
    """A serialized model with every dtype policy float32, which gets the weights."""
    if isinstance(value, dict):
        # A policy is serialized as an object with a config, a plain dtype as a string.
        if key == "dtype" and "config" in value:
            return "float32"
        return {name: _config_in_float32(v, name) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_config_in_float32(v) for v in value]
    if key == "dtype" and isinstance(value, str) and "float" in value:
        return "float32"
    return value
