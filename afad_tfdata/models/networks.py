"""Networks: a backbone and a task's heads, with fixed names of input and outputs.

::

    config = models.ModelConfig(backbone="VGG19", image_size=150, mean=(132, 111, 101))
    model = models.build_model(config)        # root_input -> age_output, gender_output
    network = models.training_model(model)    # the same weights; returns a dict

The input of every model is ``root_input``: float32 RGB ``[n, size, size, 3]`` with the
values ``(x - mean) / 127.5``.  A fixed layer after it converts them to what the
backbone's weights expect, so that callers need not know what that is.  All layers are
Keras' own, so that a saved model loads in a program without this package; a backbone of
keras-hub needs keras-hub.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.common.options import option
from afad_tfdata.models import age_heads, backbones, facts, hub_backbones, network_parts
from afad_tfdata.storage import schema

INPUT_NAME = "root_input"
NORMALIZATIONS = ("auto", "backbone", "original")
POOLINGS = ("auto", "flatten", "avg", "token")


OUTPUTS = ("age_output", "gender_output", "age_logits", "gender_logits")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a network consists of."""

    backbone: str = option(
        "VGG19",
        "Network that turns an image into features: the exact name of a network in"
        " keras.applications; small_cnn; small_cnn_no_bn, which has no batch"
        " normalisation; or keras_hub:PRESET for a network of keras-hub, such as ViT."
        " PRESET is the directory or the name of a preset.",
    )
    weights: str = option(
        "imagenet",
        "Initial weights of the backbone: imagenet, none, or the path of a file"
        " (.h5, .weights.h5 or .keras). With --backbone=keras_hub:PRESET, imagenet"
        " means the weights in the preset.",
    )
    task: str = option(
        "age_gender", "Which labels the network predicts.", choices=schema.TASKS
    )
    age_head: str = option(
        "auto",
        "How the network represents the age: regression outputs years; the other heads"
        " output numbers for all ages (a distribution or ranks), from which the mean"
        " age is computed. auto means dldl_v2 in afad-train, and regression in a"
        " program that builds a network by itself.",
        choices=("auto", *age_heads.NAMES),
    )
    image_size: int = option(150, "Side of the input image in pixels.")
    min_age: int = option(15, "Lowest age that an age head knows, in years.")
    max_age: int = option(72, "Highest age that an age head knows, in years.")
    mean: tuple[float, ...] | None = option(
        None,
        "Channel means R, G, B in [0, 255] that are subtracted from images before"
        " root_input (mean.json); needed for normalization=backbone.",
        flag=False,
    )
    normalization: str = option(
        "auto",
        "How pixels are scaled for the backbone: backbone scales them as in the"
        " training of its pre-trained weights; original computes (x - mean) / 127.5;"
        " auto means backbone if weights are loaded and the mean is known, and"
        " otherwise original.",
        choices=NORMALIZATIONS,
    )
    pooling: str = option(
        "auto",
        "What the heads get of the backbone's output: flatten passes every value, as"
        " in the original project; avg passes the global average; token passes the"
        " first token of a transformer. auto means avg for the small networks, flatten"
        " for those of keras.applications, and for those of keras-hub token if they"
        " have a class token and otherwise avg.",
        choices=POOLINGS,
    )
    stem_halvings: int = option(
        0,
        "How often the first block of the small networks halves the image: 1 or 2. With"
        " 2, the last layer sees more of a large image, and training takes less than"
        " half of the time. 0 means 2 in afad-train for images of 80 pixels or more,"
        " and otherwise 1.",
    )
    hidden_units: int = option(256, "Width of the two dense layers of each head.")
    age_dropout: float = option(
        0.4, "Share of the features that training drops before the age head."
    )
    gender_dropout: float = option(
        0.2, "Share of the features that training drops before the gender head."
    )
    initial_age: float = option(
        0.0,
        "Age in years that an untrained age head predicts; 0 is the middle of the"
        " range.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.image_size < 1:
            raise errors.UsageError(
                f"--image_size takes pixels from 1 up; got {self.image_size}"
            )
        if not 0 <= self.min_age < self.max_age:
            raise errors.UsageError(
                f"min_age={self.min_age} must be below max_age={self.max_age}"
            )
        if self.mean is not None and len(self.mean) != 3:
            raise errors.UsageError(f"mean takes R, G and B; got {self.mean}")
        for name in ("age_dropout", "gender_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise errors.UsageError(
                    f"--{name} takes a share from 0 to below 1;"
                    f" got {getattr(self, name)}"
                )
        if self.stem_halvings not in (0, 1, 2):
            raise errors.UsageError(
                f"--stem_halvings takes 1, 2, or 0 for either; got {self.stem_halvings}"
            )
        if self.hidden_units < 1:
            raise errors.UsageError(
                f"--hidden_units takes a number from 1 up; got {self.hidden_units}"
            )


def build_model(config: ModelConfig, *, load_weights: bool = True) -> keras.Model:
    """Builds a network, under the current strategy scope and dtype policy.

    Args:
      config: What the network consists of.
      load_weights: False leaves the backbone's weights random even if the config names
        others.  It is for a caller that sets the weights itself; nothing else changes.

    Returns:
      A model from ``root_input``, float32 ``[n, size, size, 3]``, to a list of the
      task's outputs, float32 under every policy: ``age_output`` ``[n, 1]`` in years,
      ``gender_output`` ``[n, 1]``, the probability of class 1.

    Raises:
      UsageError: The backbone is unknown, the image is too small for it, or its
        weights are missing or do not fit.
    """
    backbones.check_name(config.backbone)
    config = _without_auto(config)
    backbone = backbones.build(
        config.backbone,
        config.image_size,
        raw_input=config.normalization == "backbone",
        stem_halvings=config.stem_halvings,
    )
    if config.pooling == "auto":  # Only of keras-hub: the network decides.
        chosen = hub_backbones.usual_pooling(backbone)
        config = dataclasses.replace(config, pooling=chosen)
    of_hub = hub_backbones.is_preset(config.backbone)
    # A file for another network may have the name "preset".
    if load_weights and of_hub and config.weights == hub_backbones.WEIGHTS:
        hub_backbones.load_weights(backbone, config.backbone, config.image_size)
    elif load_weights and config.weights == "imagenet":
        backbones.load_imagenet(backbone, config.backbone)
    elif load_weights and config.weights != "none":
        backbones.load_file(backbone, config.backbone, config.weights)
    conversion = backbones.input_conversion(
        config.backbone, config.normalization, config.mean
    )
    image = keras.Input(
        (config.image_size, config.image_size, 3), dtype="float32", name=INPUT_NAME
    )
    x = backbone(network_parts.convert_input(image, **conversion._asdict()))
    x = _add_pooling(x, config)
    labels = schema.labels_of(config.task)
    outputs = {}
    # Gender first: the age branch takes its output.
    if "gender" in labels:
        outputs["gender"] = gender_branch(x, config)
    if "age" in labels:
        outputs["age"] = age_branch(x, outputs.get("gender"), config)
    model = keras.Model(image, [outputs[name] for name in labels], name="afad")
    known = facts.Facts(
        network=options.to_dict(config), mean=config.mean, input_range="normalized"
    )
    if of_hub:
        preset = hub_backbones.preset_facts(backbone, config.backbone)
        preset |= {
            "scale": list(conversion.scale),
            "offset": list(conversion.offset),
            "reverse": conversion.reverse,
        }
        known = dataclasses.replace(known, preset=preset)
        _log.info(
            "%s is a %s; it sees root_input times %s plus %s (--normalization=%s), and"
            " the heads get its features by --pooling=%s",
            *(config.backbone, preset["class"]),
            *([float(f"{v:.4g}") for v in preset[k]] for k in ("scale", "offset")),
            *(config.normalization, config.pooling),
        )
    facts.attach(model, known)
    return model


def _add_pooling(features: keras.KerasTensor, config: ModelConfig) -> keras.KerasTensor:
    """Adds a network's pooling: a backbone's feature map or tokens to a vector.

    Raises:
      UsageError: There is no first token.
    """
    is_map = len(features.shape) == 4
    if config.pooling == "flatten":
        return keras.layers.Flatten(name="pooling")(features)
    if config.pooling == "avg" and is_map:
        return keras.layers.GlobalAveragePooling2D(name="pooling")(features)
    if config.pooling == "avg":
        return keras.layers.GlobalAveragePooling1D(name="pooling")(features)
    if is_map:
        raise errors.UsageError(
            f"--pooling=token: {config.backbone} returns a feature map and no tokens;"
            " take auto, avg or flatten"
        )
    # Keras has no layer that takes one of many tokens.
    rest = (0, features.shape[1] - 1)
    token = keras.layers.Cropping1D(rest, name="first_token")(features)
    return keras.layers.Flatten(name="pooling")(token)


def gender_branch(
    features: keras.KerasTensor, config: ModelConfig
) -> keras.KerasTensor:
    """Adds a network's gender branch: dropout, two dense layers, logits and output.

    The last two layers are ``gender_logits`` and ``gender_output``.

    Args:
      features: ``[n, channels]``.
      config: What the network consists of.

    Returns:
      The probability of class 1, ``[n, 1]``.
    """
    x = keras.layers.Dropout(config.gender_dropout, name="gender_dropout")(features)
    x = _add_hidden_layer(x, "gender_dense_1", config)
    x = _add_hidden_layer(x, "gender_dense_2", config)
    logits = keras.layers.Dense(1, dtype=_output_dtype(), name="gender_logits")(x)
    return keras.layers.Activation(
        "sigmoid", dtype=_output_dtype(), name="gender_output"
    )(logits)


def age_branch(
    features: keras.KerasTensor,
    gender: keras.KerasTensor | None,
    config: ModelConfig,
) -> keras.KerasTensor:
    """Adds a network's age branch: dropout, two dense layers, logits and output.

    The last layers are ``age_logits``, if the head has logits, and ``age_output``.

    Args:
      features: ``[n, channels]``.
      gender: Probability ``[n, 1]`` that the second dense layer also takes, or None.
      config: What the network consists of.

    Returns:
      The age in years, ``[n, 1]``.
    """
    x = keras.layers.Dropout(config.age_dropout, name="age_dropout")(features)
    x = _add_hidden_layer(x, "age_dense_1", config)
    if gender is not None:
        # The gender joins after the first layer, because one column would have little
        # effect among the thousands of features before it.
        x = keras.layers.Concatenate(name="age_and_gender")([x, gender])
    x = _add_hidden_layer(x, "age_dense_2", config)
    head, ages = config.age_head, (config.min_age, config.max_age)
    dtype = _output_dtype()
    if head == "regression":
        # Ages are far from 0: a bias that starts at 0 would need many epochs to reach
        # them.
        first = keras.initializers.Constant(config.initial_age)
        output = keras.layers.Dense(
            1, bias_initializer=first, dtype=dtype, name="age_output"
        )
        return output(x)
    initial = age_heads.initial_logits(head, *ages, config.initial_age).tolist()
    if head == "coral":
        # CORAL's questions share one weight vector and differ only in their biases.
        score = keras.layers.Dense(1, use_bias=False, dtype=dtype, name="age_score")
        logits = network_parts.add_biases(
            score(x), initial, dtype=dtype, name="age_logits"
        )
    else:
        dense = keras.layers.Dense(
            len(initial),
            bias_initializer=keras.initializers.Constant(initial),
            dtype=dtype,
            name="age_logits",
        )
        logits = dense(x)
    return network_parts.decode_age(logits, head, *ages, dtype=dtype)


def training_model(model: keras.Model) -> keras.Model:
    """A network with the same variables that returns a dict, including the logits.

    Args:
      model: From `build_model` or `load`, or a functional model of another program
        whose outputs are named ``age_output`` and/or ``gender_output``.

    Returns:
      A model that returns a dict with the keys ``age_output``, ``gender_output``,
      ``age_logits`` and ``gender_logits``, where the model has these outputs; plain
      regression has no ``age_logits``.

    Raises:
      UsageError: The model has no outputs of these names.
    """
    outputs = named_outputs(model)
    found = {name: outputs[name] for name in OUTPUTS if name in outputs}
    if not {"age_output", "gender_output"} & set(found):
        raise errors.UsageError(
            "a model's outputs must be named age_output and gender_output, or one of"
            f" them; this one has {', '.join(map(str, outputs)) or 'none'}"
        )
    layers = {layer.name: layer for layer in model.layers}
    for name in ("age_logits", "gender_logits"):
        output = name.replace("_logits", "_output")
        if name in layers and name not in found and output in found:
            found[name] = layers[name].output
    return keras.Model(model.inputs[0], found, name="training")


def stored_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of a network for a checkpoint: all but those that never change.

    The list is the same as in version 0.1.0, whose networks had no fixed weights.
    """
    fixed = {
        id(v) for layer in network_parts.fixed_layers(model) for v in layer.variables
    }
    return [v for v in model.variables if id(v) not in fixed]


def named_outputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The outputs of a network or ``Sequential`` by name, in Keras' order.

    The name of an output is its key in a dict, or the name of its layer.
    """
    return dict(zip(_output_names(model), _flat_outputs(model), strict=True))


def _without_auto(config: ModelConfig) -> ModelConfig:
    """The config of a network without ``auto``, and with the weights it will have."""
    changes: dict[str, Any] = {}
    small = config.backbone in backbones.SMALL
    of_hub = hub_backbones.is_preset(config.backbone)
    if of_hub and config.weights == "imagenet":
        changes["weights"] = hub_backbones.WEIGHTS
    if small and config.weights == "imagenet":
        changes["weights"] = "none"  # The small networks have no ImageNet weights.
    if small and config.normalization == "backbone":
        raise errors.UsageError(
            f"--normalization=backbone: {config.backbone} expects nothing of its own;"
            " take auto or original"
        )
    pretrained = changes.get("weights", config.weights) != "none"
    if config.normalization == "auto":
        own = pretrained and not small and config.mean is not None
        if pretrained and not small and not own:
            _log.info(
                "%s sees (x - mean) / 127.5 and not what its weights were trained with:"
                " the mean is not known",
                config.backbone,
            )
        changes["normalization"] = "backbone" if own else "original"
    if config.pooling == "auto" and not of_hub:
        changes["pooling"] = "avg" if small else "flatten"
    if config.stem_halvings == 0:  # As in networks from before this option.
        changes["stem_halvings"] = 1
    if config.age_head == "auto":
        changes["age_head"] = "regression"  # Plain losses fit it, such as Keras' own.
    if config.initial_age == 0:
        changes["initial_age"] = (config.min_age + config.max_age) / 2
    return dataclasses.replace(config, **changes)


def _add_hidden_layer(
    x: keras.KerasTensor, name: str, config: ModelConfig
) -> keras.KerasTensor:
    """Adds one of the two hidden dense layers of a head."""
    return keras.layers.Dense(config.hidden_units, activation="relu", name=name)(x)


def _output_dtype() -> str:
    """The dtype of a network's outputs: float32 also under mixed policies."""
    # bfloat16 would round an age to a quarter year.
    return "float64" if keras.config.dtype_policy().name == "float64" else "float32"


def _output_names(model: keras.Model) -> list[str]:
    """Names of the outputs of a network."""
    # Keras raises AttributeError if a model has no `output`, and Sequential and
    # subclassed models have none.  Subclassed models also have no `outputs` and no
    # `output_names`.
    structure = getattr(model, "output", None)
    if isinstance(structure, dict):
        return sorted(structure)  # Keras flattens a dict in this order.
    if isinstance(model, keras.Sequential):  # Keras has no name for its output.
        return [model.layers[-1].name]
    return list(getattr(model, "output_names", ()))


def _flat_outputs(model: keras.Model) -> list[keras.KerasTensor]:
    """The outputs of a network in the order of their names."""
    structure = getattr(model, "output", None)  # None as in `_output_names`.
    if isinstance(structure, dict):
        return [structure[name] for name in sorted(structure)]
    return list(getattr(model, "outputs", None) or ())
