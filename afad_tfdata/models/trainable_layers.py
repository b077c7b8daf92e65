"""Trainable layers: which layers of a model a stage trains.

::

    trainable = trainable_layers.set_trainable(model, "tuning", 4)
    trainable.description      # "the top 4 of 22 layers of VGG19 (from ...) ..."
"""

from __future__ import annotations

import math
from typing import NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import backbones, facts, hub_backbones, network_parts

STAGES = ("warmup", "tuning")
# How many layers of a pre-trained backbone `tuning` trains by default, as in the
# original project's recipe.
DEFAULT_TRAINABLE_LAYERS = 4


class Trainable(NamedTuple):
    """What a stage trains.

    Attributes:
      parameters: How many numbers change.
      total: How many numbers the model has.
      description: One line for the log.
    """

    parameters: int
    total: int
    description: str


def set_trainable(
    model: keras.Model, stage: str, trainable_layers: int | None = None
) -> Trainable:
    """Sets which layers are trainable in a stage.

    Every stage trains the heads.  If the backbone is pre-trained, ``warmup`` trains
    none of its layers, and ``tuning`` trains the top ones.  If it is not, it has no
    weights to protect, and every stage trains the whole backbone unless
    `trainable_layers` says otherwise.  A BatchNormalization that is not trained stays
    in inference mode, and its statistics do not change.

    Args:
      model: From `networks.build_model` or `model_files.load`.  In a foreign model, the
        ``trainable`` flags of the layers decide what trains, and are not changed.
      stage: One of `STAGES`.
      trainable_layers: How many layers to train, counted from the top of the backbone
        in ``backbone.layers``, where Keras also lists activations and additions, or in
        `hub_backbones.layers_with_blocks`; -1 for all.  None means
        `DEFAULT_TRAINABLE_LAYERS`, or all if nothing is pre-trained.

    Returns:
      The number of parameters that train, and a line for the log.

    Raises:
      UsageError: The stage is unknown, or the number of layers is below -1.
    """
    if stage not in STAGES:
        raise errors.UsageError(
            f"--stage: layers are set for {' or '.join(STAGES)}; got {stage!r}"
        )
    if trainable_layers is not None and trainable_layers < -1:
        raise errors.UsageError(
            f"--trainable_layers takes -1 (all) or a number of layers; got"
            f" {trainable_layers}"
        )
    settings = facts.network_of(model)
    if not settings:
        what = "a model of your own trains as the trainable flags of its layers say"
        return _describe_trainable(model, f"{stage}: {what}")
    _set_trainable_flags(model, True)
    for layer in network_parts.fixed_layers(model):
        _set_trainable_flags(layer, False)
    backbone = backbones.backbone_of(model)
    if backbone is None:
        return _describe_trainable(model, f"{stage}: all layers train")
    of_hub = hub_backbones.is_preset(settings["backbone"])
    layers = hub_backbones.layers_with_blocks(backbone) if of_hub else backbone.layers
    total = len(layers)
    count, reason = _number_from_the_top(
        settings["weights"] != "none", stage, trainable_layers
    )
    count = total if count < 0 else min(count, total)
    # The backbone's flag is set before those of its layers, because setting a model's
    # flag also sets the flags of its layers.
    _set_trainable_flags(backbone, count > 0)
    if of_hub:
        hub_backbones.freeze_bottom(backbone, total - count)
    else:
        for layer in layers[: total - count]:
            _set_trainable_flags(layer, False)
    name = settings["backbone"]
    if count == total:
        what = f"all {total} layers of {name} and the heads train"
    elif count:
        first = layers[total - count].name
        what = f"the top {count} of {total} layers of {name} (from {first}) and the"
        what += " heads train"
    else:
        what = f"{name} is frozen, the heads train"
    return _describe_trainable(model, f"{stage}: {what} ({reason})")


def _number_from_the_top(
    pretrained: bool, stage: str, trainable_layers: int | None
) -> tuple[int, str]:
    """The number of a backbone's top layers that train (-1: all), and the reason."""
    if pretrained and stage == "warmup":
        return 0, "its weights are pre-trained"
    if trainable_layers is not None:
        return trainable_layers, f"--trainable_layers={trainable_layers}"
    if pretrained:
        return DEFAULT_TRAINABLE_LAYERS, "the default"
    return -1, "nothing in it is pre-trained"


def _set_trainable_flags(model: keras.layers.Layer, value: bool) -> None:
    """Makes all layers trainable, or none."""
    # Each layer's flag is set separately: on TensorFlow, Keras ignores an assignment
    # that does not change the model's own flag, and the layers keep their flags.
    for layer in model._flatten_layers():
        layer.trainable = value


def _describe_trainable(model: keras.Model, what: str) -> Trainable:
    """What a stage trains: numbers of weights, and a text for the log."""
    parameters = sum(math.prod(w.shape) for w in model.trainable_weights)
    fixed = [w for layer in network_parts.fixed_layers(model) for w in layer.weights]
    total = sum(math.prod(w.shape) for w in model.weights)
    total -= sum(math.prod(w.shape) for w in fixed)
    return Trainable(
        parameters, total, f"{what}: {parameters:,} of {total:,} parameters"
    )
