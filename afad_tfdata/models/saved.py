"""Loads existing models safely, saves models, and copies weights between them.

::

    model = saved.load("runs/first/best.keras")     # refuses files that contain code
    saved.info(model)["backbone"]                   # from the config of `build_model`
    saved.save(model, "face.keras")                 # with the model's facts

A model file may come from anybody.  Before Keras reads one, this module looks for
Python code in it and for links to other files of this machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import age_heads, facts, hub_backbones, network_parts
from afad_tfdata.storage import hdf5

# Names of the layers with a weight for each age or threshold.
_AGE_LOGITS = ("age_logits", "age_biases")
# From names of layers in version 0.1.0 to their present names.
_FORMER_NAMES = {"age_biases": "age_logits"}
# Class names under which Keras stores code: one is a layer, the other a function in any
# layer, such as an activation.
_CODE_CLASSES = ("Lambda", "__lambda__")


def load(path: str, unsafe: bool = False) -> keras.Model:
    """Loads a whole model, and the facts that its file contains.

    Args:
      path: ``.keras``, or ``.h5`` from Keras 3.  Most ``.h5`` files of Keras 2 load.
      unsafe: Whether the file may contain Python code (Lambda layers), which then runs
        with all the rights of this process.

    Returns:
      The model, not compiled.  Its facts, such as its class names, are found by
      `save`, `evaluate` and `freeze`.

    Raises:
      UsageError: There is no such file, it contains code, or it is not a model.
      DataError: The file is damaged.
    """
    if not os.path.isfile(path):
        raise errors.UsageError(f"no model at {path}: name a .keras or .h5 file")
    description = architecture(path)
    if not unsafe:
        refuse_code(description, path)
    if _has_class_of_module(description, hub_backbones.EXTRA):
        # Keras finds its layers only after this import has registered them.
        lazy_imports.import_optional(
            hub_backbones.EXTRA,
            extra=hub_backbones.EXTRA,
            purpose=f"{path}, whose backbone is of keras-hub,",
        )
    # Keras finds the layers of old files only after this import has registered them.
    from afad_tfdata.models import layers_of_0_1_0  # noqa: F401

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as error:  # Keras raises many kinds for other versions.
        if found := re.search(r"Could not locate class '([^']+)'", str(error)):
            raise errors.UsageError(
                f"{path} has a layer of the class {found[1]}, which Keras does not"
                " know: decorate it with @keras.saving.register_keras_serializable()"
                " and import its module in the program that loads the file"
            ) from error
        raise errors.UsageError(
            f"{path} cannot be loaded by Keras {keras.__version__}"
            f" ({errors.one_line(error)})"
        ) from error
    facts.attach(model, facts.read_file(path).or_else(facts.of(model)))
    return model


def save(model: keras.Model, path: str, *, class_names: Sequence[str] = ()) -> None:
    """Saves a whole model with its facts, which ``model.save`` would leave out.

    Keras loads the file without this package.

    Args:
      model: From `build_model` or `load`, or any other Keras model.
      path: ``.keras`` or ``.h5``.
      class_names: Names of the gender labels 0 and 1 that the model was trained with,
        if they are not in its facts (`trainer.train` adds them).

    Raises:
      UsageError: The model has other class names, or the clock is before 1980.
      OSError: The file cannot be written.
    """
    known = facts.of(model)
    if class_names:
        facts.check_class_names(class_names, "class_names")
        chosen = facts.chosen_class_names(
            known.class_names, class_names, what="the model"
        )
        known = dataclasses.replace(known, class_names=chosen)
    try:
        model.save(path)
    except ValueError as error:
        if "before 1980" not in str(error):
            raise
        raise errors.UsageError(
            f"cannot write {path}: the clock of this machine is before 1980, and the"
            " ZIP format cannot say that: set the clock, and run the same command again"
        ) from error
    facts.write_file(path, known)


def architecture(path: str) -> Any:
    """The parsed JSON that describes a saved model's layers.

    Args:
      path: ``.keras`` or ``.h5``.

    Raises:
      UsageError: It is not a model of Keras, or contains weights only.
      DataError: The file is damaged.
    """
    text = _zip_config(path) if zipfile.is_zipfile(path) else _hdf5_config(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.DataError(
            f"{path} is damaged: the description of its layers is not JSON"
            f" ({errors.one_line(error)}): copy it again"
        ) from error


def refuse_code(description: Any, path: str) -> None:
    """Refuses a model whose loading would run Python code from the file.

    Keras has a safe mode of its own, but Keras before 3.11.3 ignores it for ``.h5``
    files, and Keras 2 has none.

    Args:
      description: The model's configuration as parsed JSON (`architecture`).
      path: The file, for the message.

    Raises:
      UsageError: It contains a Lambda layer or a serialized lambda function.
    """
    if _contains_code(description):
        raise errors.UsageError(
            f"{path} contains a Lambda layer, which is Python code that loading would"
            " run: if you trust the author of the file, afad-evaluate and afad-freeze"
            " load it with --unsafe_load"
        )


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


def info(model: keras.Model) -> dict[str, Any]:
    """The `networks.ModelConfig` of a model of this package, as plain values.

    It is ``{}`` for any other model.  Instead of ``auto`` it has the value that was
    chosen, and ``weights`` is ``none`` if none were loaded.
    """
    return dict(facts.of(model).network)


def backbone_of(model: keras.Model) -> keras.Model | None:
    """The backbone of a model of this package: the only model inside it, or None."""
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return nested[0] if len(nested) == 1 else None


def rebuild_float32(model: keras.Model) -> keras.Model:
    """The same network with every dtype policy float32, and the same weights.

    Raises:
      UsageError: A layer stays in 16 bits.
    """
    values = keras.saving.serialize_keras_object(model)
    # Safe mode would refuse lambdas, which are safe in a model already in memory.
    rebuilt = keras.saving.deserialize_keras_object(
        _in_float32(values), safe_mode=False
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


def transfer(
    source: keras.Model, target: keras.Model, *, swap_classes: bool = False
) -> tuple[int, list[str]]:
    """Copies those weights of another model that have the same place and shape.

    The weights of the two backbones are matched by their order and not by name, because
    the names of some of Keras' layers contain a counter of the whole process.  The
    layers of the heads are matched by name.  Logits of an age head are not copied if
    they stand for different ages in the two models.

    Args:
      source: A model as `load` returns it.
      target: A model of `networks.build_model`, changed in place.
      swap_classes: Whether class 0 of the source is class 1 of the target.  The copied
        head then outputs one minus the probability of the source, and the age branch
        is changed so that it gives the same age.

    Returns:
      How many weights were copied, and the paths of the weights of `target` that kept
      their values.
    """
    copied, kept = 0, []
    theirs, ours = backbone_of(source), backbone_of(target)
    if theirs is not None and ours is not None:
        if _shapes(theirs) == _shapes(ours):
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
        means_others = layer.name in _AGE_LOGITS and not _same_ages(source, target)
        if other is not None and _shapes(other) == _shapes(layer) and not means_others:
            values = other.get_weights()
            if swap_classes:
                values = _with_swapped_classes(layer.name, values, target)
            layer.set_weights(values)
            copied += len(layer.weights)
        else:
            kept += [weight.path for weight in layer.weights]
    return copied, kept


def _same_ages(source: keras.Model, target: keras.Model) -> bool:
    """Whether the logits of two age heads mean the same; True if that is not known."""
    theirs, ours = info(source), info(target)
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


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    """Shapes of a layer's weights."""
    return [tuple(weight.shape) for weight in layer.weights]


def _zip_config(path: str) -> bytes:
    """The architecture in a ``.keras`` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "config.json" in archive.namelist():
                _refuse_outside(archive, path)
                return archive.read("config.json")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise errors.DataError(
            f"{path} is damaged ({errors.one_line(error)}): copy it again"
        ) from error
    raise errors.UsageError(f"{path} is a ZIP archive but not a Keras model")


def _hdf5_config(path: str) -> bytes | str:
    """The architecture in an HDF5 file of Keras."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, path)
            text = file.attrs.get("model_config")
    # h5py raises the last two for files that are damaged further inside.
    except (OSError, RuntimeError, KeyError) as error:
        raise errors.UsageError(
            f"{path} is neither a .keras file nor HDF5 ({errors.one_line(error)})"
        ) from error
    if text is None:
        raise errors.UsageError(
            f"{path} contains weights only and no network: name the .keras or .h5 file"
            " that model.save wrote"
        )
    return text


def _refuse_outside(archive: zipfile.ZipFile, path: str) -> None:
    """Refuses a file whose weights are links to other files of this machine."""
    import h5py

    for name in archive.namelist():
        if name.endswith(".h5"):
            with archive.open(name) as part, h5py.File(part, "r") as file:
                hdf5.refuse_outside(file, f"{name} of {path}")


def _contains_code(value: Any) -> bool:
    """Whether the architecture of a model contains code that would run."""
    if isinstance(value, dict):
        if value.get("class_name") in _CODE_CLASSES:
            return True
        return any(_contains_code(v) for v in value.values())
    return isinstance(value, list) and any(_contains_code(v) for v in value)


def _has_class_of_module(value: Any, module: str) -> bool:
    """Whether a model's configuration names a class of a module."""
    if isinstance(value, dict):
        found = value.get("module")
        if isinstance(found, str) and found.split(".")[0] == module:
            return True
        return any(_has_class_of_module(v, module) for v in value.values())
    return isinstance(value, list) and any(
        _has_class_of_module(v, module) for v in value
    )


def _in_float32(value: Any, key: str = "") -> Any:
    """A serialized model with every dtype policy replaced."""
    if isinstance(value, dict):
        # A policy is serialized as an object with a config, a plain dtype as a string.
        if key == "dtype" and "config" in value:
            return "float32"
        return {name: _in_float32(v, name) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_in_float32(v) for v in value]
    if key == "dtype" and isinstance(value, str) and "float" in value:
        return "float32"
    return value
