"""Model files that Keras 2 wrote.

Whole models are read by the ``tf_keras`` package::

    if model_files.keras_version("face.h5") < 3:
        model = keras2_files.load_model("face.h5")     # a tf_keras.Model

The original project built a network and its head as one flat model.  Keras 3 cannot
load some of these files, for example because of a layer's ``groups``.  `copy_backbone`
reads their arrays without building the layers: they are in the order of the layers, and
those of the backbone come first.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import model_files
from afad_tfdata.storage import hdf5

# A dtype policy or dtype of half precision in a model's configuration as JSON text.
HALF_POLICY = re.compile(r'"(mixed_)?b?float16"')


def load_model(path: str, *, unsafe: bool = False) -> Any:
    """Loads a whole ``.keras`` or ``.h5`` model of Keras 2, as a ``tf_keras.Model``.

    Args:
      path: The file.
      unsafe: Whether the file may contain Python code (Lambda layers), which then runs
        with all the rights of this process.

    Returns:
      A ``tf_keras.Model``, not compiled.

    Raises:
      UsageError: ``tf_keras`` is not installed, the file contains code, or Keras 2
        cannot load it.
      DataError: The description of the layers is damaged.
    """
    tf_keras = lazy_imports.import_optional(
        "tf_keras", extra="export", purpose=f"reading {path}, which Keras 2 wrote,"
    )
    if not unsafe:
        # The code is refused before Keras reads the file, because Keras 2 has no safe
        # mode for .h5 files.
        model_files.refuse_code(model_files.architecture(path), path)
    try:
        return tf_keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as error:  # Layers of other programs make Keras raise anything.
        raise errors.UsageError(
            f"{path} cannot be loaded by Keras 2 ({errors.one_line(error)}): replace"
            " layers of your own, or freeze the model object in your program"
        ) from error


def in_float32(model: Any) -> Any:
    """The same ``tf_keras`` network and weights, with all dtype policies float32."""

    def plain(value: Any) -> Any:
        """A part of a Keras 2 model's config, with float32 in place of each policy."""
        if isinstance(value, dict):
            policy = value.get("config")
            if value.get("class_name") in ("Policy", "PolicyV1") and policy:
                return "float32"
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(plain(v) for v in value)
        half = isinstance(value, str) and HALF_POLICY.fullmatch(f'"{value}"')
        return "float32" if half else value

    rebuilt = type(model).from_config(plain(model.get_config()))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def copy_backbone(path: str, backbone: keras.Model) -> bool:
    """Copies the first weights of a Keras 2 file into a backbone, if each one fits.

    The names are compared as well as the shapes, because the four vectors of a batch
    normalisation all have the same shape.

    Args:
      path: ``.h5`` of a whole model, or of all its weights.
      backbone: Changed in place.

    Returns:
      Whether the weights were copied.  For a damaged file this is False; the caller
      then lets Keras load it, which describes the damage.

    Raises:
      UsageError: The file takes data from other files.
    """
    import h5py

    wanted = [(_kind_of_weight(w.name), tuple(w.shape)) for w in backbone.weights]
    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, path)
            found = _stored_weights(file.get("model_weights", file))[: len(wanted)]
            if [(one.kind, tuple(one.data.shape)) for one in found] != wanted:
                return False
            values = [np.asarray(one.data[()], np.float32) for one in found]
    # h5py raises the last three for files that are damaged further inside.
    except (OSError, RuntimeError, KeyError, ValueError):
        return False
    backbone.set_weights(values)
    return True


class _StoredWeight(NamedTuple):
    """One weight: its name within its layer, and where it is."""

    kind: str
    data: Any


def _stored_weights(group: Any) -> list[_StoredWeight]:
    """The weights of all layers in a Keras 2 file, in the order of the layers."""
    import h5py

    found = []
    for layer in _names_of_attribute(group, "layer_names"):
        for name in _names_of_attribute(group[layer], "weight_names"):
            data = group[layer][name]
            if isinstance(data, h5py.Dataset):
                found.append(_StoredWeight(_kind_of_weight(name), data))
    return found


def _names_of_attribute(group: Any, attribute: str) -> list[str]:
    """The names in an attribute of a Keras 2 file, which may be NAME0, NAME1, ..."""
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    else:
        names, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            names += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _kind_of_weight(name: str) -> str:
    """The last part of a weight's name in Keras 2, such as ``kernel``."""
    last = name.split("/")[-1].split(":")[0]
    # Keras 2 says depthwise_kernel where Keras 3 says kernel.
    return last.removeprefix("depthwise_")
