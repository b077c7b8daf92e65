"""Networks: a backbone by name, the heads of a task, fixed names at both ends.

::

    config = models.ModelConfig(backbone="VGG19", image_size=150, mean=(132, 111, 101))
    model = models.build_model(config)        # root_input -> age_output, gender_output
    network = models.training_model(model)    # the same weights; a dict with the logits

Every model takes ``root_input``, float32 RGB ``[n, size, size, 3]`` of
``(x - mean) / 127.5``.  Right behind it a fixed layer converts that to what the
backbone's own weights expect, so that no consumer has to know which.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import zipfile
from typing import Any, NamedTuple

from afad_tfdata.common import errors, options
from afad_tfdata.common.lazy import keras
from afad_tfdata.common.options import option
from afad_tfdata.models import age_heads, backbones, branches
from afad_tfdata.storage import hdf5, schema

INPUT_NAME = "root_input"
NORMALIZATIONS = ("auto", "backbone", "original")
POOLINGS = ("auto", "flatten", "avg")
STAGES = ("warmup", "tuning")

# Layers of a pre-trained backbone that `tuning` trains where nobody says how many: as
# many as in the original project's recipe.
DEFAULT_TRAINABLE_LAYERS = 4

_OUTPUTS = ("age_output", "gender_output", "age_logits", "gender_logits")
_CONVERSION = "input_conversion"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a network consists of.

    Attributes:
      backbone: Exact name in ``keras.applications``, ``small_cnn``, or
        ``small_cnn_no_bn``, which has no statistics over the batch.
      weights: ``imagenet``, ``none``, or a file (`backbones.load_file`).
      task: One of `schema.TASKS`.
      age_head: One of `age_heads.NAMES`.
      image_size: Side in pixels.
      min_age: Years of the first class of an age head.
      max_age: Years of the last class.
      mean: RGB in [0, 255], the one in ``root_input`` (``mean.json``); needed for
        ``normalization="backbone"``.
      normalization: What the backbone sees: ``backbone`` what its ImageNet weights were
        trained with, ``original`` ``(x - mean) / 127.5``, ``auto`` the first where
        weights are given and the mean is known.
      pooling: From the feature map to the heads: ``flatten`` as in the original
        project, ``avg`` (global average); ``auto`` is ``avg`` for the small networks.
      hidden_units: Width of the two dense layers of each head.
      age_dropout: Share of features dropped in training before the age head.
      gender_dropout: The same before the gender head.
      initial_age: Years that the age head starts with; 0 for the middle of the range.
    """

    backbone: str = option("VGG19", "Network from keras.applications, or small_cnn.")
    weights: str = option("imagenet", "imagenet, none, or a file of weights.")
    task: str = option("age_gender", "Labels to predict.", choices=schema.TASKS)
    age_head: str = option(
        "regression", "How age is predicted.", choices=age_heads.NAMES
    )
    image_size: int = option(150, "Side of the image in pixels.")
    min_age: int = option(15, "Lowest age that an age head knows, in years.")
    max_age: int = option(72, "Highest age that an age head knows, in years.")
    mean: tuple[float, ...] | None = option(
        None, "Channel means R, G, B in [0, 255].", flag=False
    )
    normalization: str = option(
        "auto", "What the backbone sees.", choices=NORMALIZATIONS
    )
    pooling: str = option("auto", "From features to heads.", choices=POOLINGS)
    hidden_units: int = option(256, "Width of the two dense layers of a head.")
    age_dropout: float = option(0.4, "Dropout before the age head.")
    gender_dropout: float = option(0.2, "Dropout before the gender head.")
    initial_age: float = option(0.0, "First guess in years; 0: middle of the range.")

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.image_size < 1:
            raise errors.UsageError(
                f"--image_size takes pixels from 1 up; got {self.image_size}"
            )
        if not 0 <= self.min_age < self.max_age:
            raise errors.UsageError(
                f"--min_age={self.min_age} must be below --max_age={self.max_age}"
            )
        if self.mean is not None and len(self.mean) != 3:
            raise errors.UsageError(f"mean takes R, G and B; got {self.mean}")
        for name in ("age_dropout", "gender_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise errors.UsageError(
                    f"--{name} takes a share from 0 to below 1;"
                    f" got {getattr(self, name)}"
                )
        if self.hidden_units < 1:
            raise errors.UsageError(
                f"--hidden_units takes a number from 1 up; got {self.hidden_units}"
            )


class Trainable(NamedTuple):
    """What a stage trains.

    Attributes:
      parameters: Numbers that change.
      total: Numbers in the model.
      description: One line for the log.
    """

    parameters: int
    total: int
    description: str


def build_model(config: ModelConfig, *, load_weights: bool = True) -> Any:
    """Builds a network, under the current strategy scope and dtype policy.

    Args:
      config: What it consists of.
      load_weights: False leaves random weights where the config names some, for a
        caller that fills them in; everything else is as with them.

    Returns:
      keras.Model from ``root_input``, float32 ``[n, size, size, 3]``, to a list of the
      task's outputs, float32 under every policy: ``age_output`` ``[n, 1]`` in years,
      ``gender_output`` ``[n, 1]``, the probability of class 1.

    Raises:
      UsageError: An unknown backbone, an image too small for it, weights that are not
        here or do not fit.
    """
    from afad_tfdata.models import layers

    backbones.check_name(config.backbone)
    config = _resolve(config)
    backbone = backbones.build(
        config.backbone,
        config.image_size,
        raw_input=config.normalization == "backbone",
    )
    if load_weights and config.weights == "imagenet":
        backbones.load_imagenet(backbone, config.backbone)
    elif load_weights and config.weights != "none":
        backbones.load_file(backbone, config.backbone, config.weights, load=load)
    conversion = backbones.conversion(
        config.backbone, config.normalization, config.mean
    )
    image = keras.Input(
        (config.image_size, config.image_size, 3), dtype="float32", name=INPUT_NAME
    )
    x = layers.InputConversion(
        **conversion._asdict(), info=options.to_dict(config), name=_CONVERSION
    )(image)
    x = backbone(x)
    if config.pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    else:
        x = keras.layers.Flatten(name="pooling")(x)
    labels = schema.labels_of(config.task)
    outputs = {}
    if "gender" in labels:
        outputs["gender"] = branches.gender_branch(x, config)
    if "age" in labels:
        outputs["age"] = branches.age_branch(x, outputs.get("gender"), config)
    return keras.Model(image, [outputs[name] for name in labels], name="afad")


def training_model(model: Any) -> Any:
    """A model with the same variables whose call gives a dict with the logits.

    Args:
      model: From `build_model` or `load`, or a foreign functional model whose outputs
        are named ``age_output`` and/or ``gender_output``.

    Returns:
      keras.Model to ``{"age_output", "gender_output", "age_logits",
      "gender_logits"}``, those that there are; plain regression has no ``age_logits``.

    Raises:
      UsageError: A model without outputs of these names.
    """
    outputs = dict(zip(_output_names(model), _flat_outputs(model), strict=True))
    found = {name: outputs[name] for name in _OUTPUTS if name in outputs}
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


def set_trainable(
    model: Any, stage: str, trainable_layers: int | None = None
) -> Trainable:
    """Sets which layers a stage trains.

    The heads always train.  Of a pre-trained backbone, ``warmup`` trains nothing and
    ``tuning`` the top layers.  Where nothing is pre-trained there is nothing to keep,
    and all of it trains in every stage unless `trainable_layers` says otherwise.
    BatchNormalization that is frozen stays in inference mode, statistics included.

    Args:
      model: From `build_model` or `load`.  A foreign model trains whole.
      stage: One of `STAGES`.
      trainable_layers: Layers from the top of the backbone, as Keras lists them in
        ``backbone.layers`` (activations and additions count too); -1 for all, None for
        `DEFAULT_TRAINABLE_LAYERS`, or all where nothing is pre-trained.

    Returns:
      The number of parameters that train, and a line for the log.

    Raises:
      UsageError: Another stage, or a number below -1.
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
    _set_flags(model, True)
    settings = info(model)
    backbone = backbones.inside(model) if settings else None
    if backbone is None:
        return _describe(model, f"{stage}: all layers of a model of your own train")
    name, total = settings["backbone"], len(backbone.layers)
    pretrained = settings["weights"] != "none"
    if pretrained and stage == "warmup":
        count, reason = 0, "its weights are pre-trained"
    elif trainable_layers is None:
        count = DEFAULT_TRAINABLE_LAYERS if pretrained else -1
        reason = "the default" if pretrained else "nothing in it is pre-trained"
    else:
        count, reason = trainable_layers, f"--trainable_layers={trainable_layers}"
    count = total if count < 0 else min(count, total)
    # From the whole to the part: a model's flag is above those of its layers.
    _set_flags(backbone, count > 0)
    for layer in backbone.layers[: total - count]:
        _set_flags(layer, False)
    if count == total:
        what = f"all {total} layers of {name} and the heads train"
    elif count:
        first = backbone.layers[total - count].name
        what = f"the top {count} of {total} layers of {name} (from {first}) and the"
        what += " heads train"
    else:
        what = f"{name} is frozen, the heads train"
    return _describe(model, f"{stage}: {what} ({reason})")


def info(model: Any) -> dict[str, Any]:
    """The `ModelConfig` of one of our models as plain values, else ``{}``.

    ``auto`` is resolved in it, and ``weights`` is ``none`` where none were loaded.
    """
    from afad_tfdata.models import layers

    for layer in getattr(model, "layers", ()):
        if isinstance(layer, layers.InputConversion):
            return dict(layer.info)
    return {}


def load(path: str, unsafe: bool = False) -> Any:
    """Loads a whole model.

    Args:
      path: ``.keras``, or ``.h5`` as Keras 3 (and mostly Keras 2) writes it.
      unsafe: Whether a model may bring Python code (Lambda layers), which then runs
        with all the rights of this process.

    Returns:
      keras.Model, not compiled.

    Raises:
      UsageError: No such file, one with code in it, or one that is not a model.
    """
    from afad_tfdata.models import layers

    if not os.path.isfile(path):
        raise errors.UsageError(f"no model at {path}: name a .keras or .h5 file")
    text = _architecture(path)
    if not unsafe and _brings_code(json.loads(text)):
        raise errors.UsageError(
            f"{path} holds a Lambda layer, which is Python code that loading would run:"
            " if you trust whoever made it, load it with --unsafe_load"
        )
    del layers  # Importing registers them.
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as error:  # Whatever a file of another version makes Keras raise.
        raise errors.UsageError(
            f"{path} cannot be loaded by Keras {keras.__version__}"
            f" ({errors.one_line(error)})"
        ) from error


def rebuild_float32(model: Any) -> Any:
    """The same network with every dtype policy float32, and the same weights."""
    values = keras.saving.serialize_keras_object(model)
    rebuilt = keras.saving.deserialize_keras_object(
        _in_float32(values), safe_mode=False
    )
    copy_weights(model, rebuilt)
    return rebuilt


def copy_weights(source: Any, target: Any) -> None:
    """Copies weights between models of one form, what layers derive from them too."""
    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def transfer(source: Any, target: Any) -> tuple[int, list[str]]:
    """Takes over the weights of another model that have the same place and shape.

    The backbone's count as one thing, compared by order: some networks number their
    layers through the process, so that names say nothing.  The heads' go by name.

    Args:
      source: A model as `load` returns it.
      target: A model of `build_model`, changed in place.

    Returns:
      How many weights were taken, and the paths of those of `target` that were not.
    """
    taken, left = 0, []
    theirs, ours = backbones.inside(source), backbones.inside(target)
    if theirs is not None and ours is not None:
        if _shapes(theirs) == _shapes(ours):
            copy_weights(theirs, ours)
            taken += len(ours.weights)
        else:
            left += [weight.path for weight in ours.weights]
    by_name = {layer.name: layer for layer in source.layers if layer is not theirs}
    for layer in target.layers:
        if layer is ours or not layer.weights:
            continue
        other = by_name.get(layer.name)
        if other is not None and _shapes(other) == _shapes(layer):
            layer.set_weights(other.get_weights())
            taken += len(layer.weights)
        else:
            left += [weight.path for weight in layer.weights]
    return taken, left


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _resolve(config: ModelConfig) -> ModelConfig:
    """The config without ``auto``, and with the weights that will be in the model."""
    changes: dict[str, Any] = {}
    small = config.backbone in backbones.SMALL
    if small and config.weights == "imagenet":
        changes["weights"] = "none"  # There are none to be had.
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
    if config.pooling == "auto":
        changes["pooling"] = "avg" if small else "flatten"
    if config.initial_age == 0:
        changes["initial_age"] = (config.min_age + config.max_age) / 2
    return dataclasses.replace(config, **changes)


def _set_flags(model: Any, value: bool) -> None:
    # One by one: on TensorFlow, Keras ignores the assignment of the value that a model
    # has, and so its layers would keep theirs.
    for layer in model._flatten_layers():
        layer.trainable = value


def _output_names(model: Any) -> list[str]:
    structure = getattr(model, "output", None)
    if isinstance(structure, dict):
        return sorted(structure)  # As nested structures are flattened.
    if isinstance(model, keras.Sequential):  # Keras has no names for its output.
        return [model.layers[-1].name]
    return list(getattr(model, "output_names", ()))


def _flat_outputs(model: Any) -> list[Any]:
    structure = getattr(model, "output", None)
    if isinstance(structure, dict):
        return [structure[name] for name in sorted(structure)]
    return list(getattr(model, "outputs", None) or ())


def _describe(model: Any, what: str) -> Trainable:
    parameters = sum(_size(w) for w in model.trainable_weights)
    total = sum(_size(w) for w in model.weights)
    return Trainable(
        parameters, total, f"{what}: {parameters:,} of {total:,} parameters"
    )


def _size(weight: Any) -> int:
    size = 1
    for length in weight.shape:
        size *= int(length)
    return size


def _architecture(path: str) -> str:
    """The JSON text that describes a saved model's layers."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                if "config.json" in archive.namelist():
                    _refuse_outside(archive, path)
                    return archive.read("config.json").decode()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise errors.DataError(
                f"{path} is damaged ({errors.one_line(error)}): copy it again"
            ) from error
        raise errors.UsageError(f"{path} is a ZIP archive but not a Keras model")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, path)
            text = file.attrs.get("model_config")
    except OSError as error:
        raise errors.UsageError(
            f"{path} is neither a .keras file nor HDF5 ({errors.one_line(error)})"
        ) from error
    if text is None:
        raise errors.UsageError(
            f"{path} holds weights only, and no network: name the .keras or .h5 that"
            " model.save wrote"
        )
    return text.decode() if isinstance(text, bytes) else text


def _refuse_outside(archive: zipfile.ZipFile, path: str) -> None:
    """Refuses weights that point to other files of this machine."""
    import h5py

    for name in archive.namelist():
        if name.endswith(".h5"):
            with archive.open(name) as part, h5py.File(part, "r") as file:
                hdf5.refuse_outside(file, f"{name} of {path}")


def _brings_code(value: Any) -> bool:
    if isinstance(value, dict):
        if value.get("class_name") in ("Lambda", "__lambda__"):
            return True
        return any(_brings_code(v) for v in value.values())
    return isinstance(value, list) and any(_brings_code(v) for v in value)


def _in_float32(value: Any, key: str = "") -> Any:
    """A serialized model with every dtype policy replaced."""
    if isinstance(value, dict):
        if key == "dtype" and "config" in value:
            return "float32"
        return {name: _in_float32(v, name) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_in_float32(v) for v in value]
    if key == "dtype" and isinstance(value, str) and "float" in value:
        return "float32"
    return value
