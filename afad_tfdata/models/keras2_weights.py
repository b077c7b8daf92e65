"""Weights in an HDF5 file of Keras 2, read without building its layers.

The original project built a network and its head as one flat model.  Keras 3 cannot
load some of these files, for example because of a layer's ``groups``.  Their arrays can
still be read: they are in the order of the layers, and the backbone's come first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.storage import hdf5


class _Stored(NamedTuple):
    """One weight: its name within its layer, and where it is."""

    kind: str
    data: Any


def copy_beginning(path: str, backbone: keras.Model) -> bool:
    """Copies the first arrays of a file into a backbone, if each of them fits.

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

    wanted = [(_kind(w.name), tuple(w.shape)) for w in backbone.weights]
    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, path)
            found = _stored(file.get("model_weights", file))[: len(wanted)]
            if [(one.kind, tuple(one.data.shape)) for one in found] != wanted:
                return False
            values = [np.asarray(one.data[()], np.float32) for one in found]
    # h5py raises the last three for files that are damaged further inside.
    except (OSError, RuntimeError, KeyError, ValueError):
        return False
    backbone.set_weights(values)
    return True


def _stored(group: Any) -> list[_Stored]:
    """The weights of all layers, in the order of the layers."""
    import h5py

    found = []
    for layer in _names(group, "layer_names"):
        for name in _names(group[layer], "weight_names"):
            data = group[layer][name]
            if isinstance(data, h5py.Dataset):
                found.append(_Stored(_kind(name), data))
    return found


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute with names; Keras divides a long one into NAME0, NAME1, ..."""
    if attribute in group.attrs:
        names = list(group.attrs[attribute])
    else:
        names, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            names += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _kind(name: str) -> str:
    """The last part of a weight's name, such as ``kernel``."""
    last = name.split("/")[-1].split(":")[0]
    # Keras 2 says depthwise_kernel where Keras 3 says kernel.
    return last.removeprefix("depthwise_")
