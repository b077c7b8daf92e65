"""Model files: loads existing models safely, and saves models.

::

    model = model_files.load("first/best.keras")     # refuses files that contain code
    model_files.save(model, "face.keras")            # with the model's facts

A model file may come from anybody.  Before Keras reads one, this module looks for
Python code in it and for links to other files of this machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import facts, hub_backbones
from afad_tfdata.storage import hdf5

# Class names under which Keras stores code: one is a layer, the other a function in any
# layer, such as an activation.
_CODE_CLASSES = ("Lambda", "__lambda__")


def load(path: str, unsafe: bool = False) -> keras.Model:
    """Loads a whole model from a file, and the facts that the file contains.

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
    if _has_class_of(description, hub_backbones.MODULE):
        # Keras finds its layers only after this import has registered them.
        lazy_imports.import_optional(
            hub_backbones.MODULE,
            extra=hub_backbones.EXTRA,
            purpose=f"{path}, whose backbone is of keras-hub,",
        )
    # Keras finds the layers of old files only after this import has registered them.
    from afad_tfdata.models import layers_of_0_1_0  # noqa: F401

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as error:  # Keras raises many kinds for other versions.
        if zipfile.is_zipfile(path) and keras_version(path) < 3:
            raise errors.UsageError(
                f"{path} was saved by Keras 2 (tf_keras), and Keras {keras.__version__}"
                " cannot load its .keras files: save the model as .h5 with the program"
                " that made it; afad-freeze reads both"
            ) from error
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
    """Saves a whole model to a file with its facts, which ``model.save`` leaves out.

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
    """The parsed JSON in a model file that describes its layers.

    Args:
      path: ``.keras`` or ``.h5``.

    Raises:
      UsageError: It is not a model of Keras, or contains weights only.
      DataError: The file is damaged.
    """
    text = (
        _zip_architecture(path)
        if zipfile.is_zipfile(path)
        else _hdf5_architecture(path)
    )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.DataError(
            f"{path} is damaged: the description of its layers is not JSON"
            f" ({errors.one_line(error)}): copy it again"
        ) from error


def keras_version(path: str) -> int:
    """Major version of the Keras that wrote a model file.

    Args:
      path: ``.keras`` or ``.h5``.

    Raises:
      UsageError: It is neither, or contains no whole model.
      DataError: The ``.keras`` file is damaged.
    """
    # Files that Keras 1 wrote or that other programs edited have no version.  Keras 2
    # reads such .h5 files, and Keras 3 does not.
    if zipfile.is_zipfile(path):
        version, if_unknown = _zip_keras_version(path), 3
    else:
        version, if_unknown = _hdf5_keras_version(path), 2
    major = version.partition(".")[0]
    return int(major) if major.isdecimal() else if_unknown


def refuse_code(description: Any, path: str) -> None:
    """Refuses a model file whose loading would run Python code from it.

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


def _zip_architecture(path: str) -> bytes:
    """The architecture in a ``.keras`` file."""
    with _open_zip(path) as archive:
        if "config.json" in archive.namelist():
            _refuse_outside(archive, path)
            return archive.read("config.json")
    raise errors.UsageError(
        f"{path} is a ZIP archive, but not a Keras model: name a .keras or .h5 file"
        " that model.save wrote"
    )


@contextlib.contextmanager
def _open_zip(path: str) -> Iterator[zipfile.ZipFile]:
    """Opens a ``.keras`` file; errors while it is read say that it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise errors.DataError(
            f"{path} is damaged ({errors.one_line(error)}): copy it again"
        ) from error


def _zip_keras_version(path: str) -> str:
    """The version of Keras in a ``.keras`` file; empty if it has none."""
    with _open_zip(path) as archive:
        if "metadata.json" not in archive.namelist():
            return ""
        metadata = json.loads(archive.read("metadata.json"))
    return str(metadata.get("keras_version")) if isinstance(metadata, dict) else ""


def _hdf5_keras_version(path: str) -> str:
    """The version of Keras in an HDF5 file of a whole model; empty if it has none."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            hdf5.refuse_outside(file, path)
            version = file.attrs.get("keras_version", b"")
            whole = "model_config" in file.attrs
    except OSError as error:
        raise errors.UsageError(
            f"{path} cannot be read as HDF5 ({errors.one_line(error)}): name a model"
            " that Keras saved"
        ) from error
    if not whole:
        raise errors.UsageError(
            f"{path} does not contain a whole model, perhaps only weights: save it with"
            " model.save, or name the run directory"
        )
    return version.decode() if isinstance(version, bytes) else str(version)


def _hdf5_architecture(path: str) -> bytes | str:
    """The architecture in an HDF5 model file of Keras."""
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
    """Refuses a model file whose weights are links to other files of this machine."""
    import h5py

    for name in archive.namelist():
        if name.endswith(".h5"):
            with archive.open(name) as part, h5py.File(part, "r") as file:
                hdf5.refuse_outside(file, f"{name} of {path}")


def _contains_code(value: Any) -> bool:
    """Whether the architecture in a model file contains code that would run."""
    if isinstance(value, dict):
        if value.get("class_name") in _CODE_CLASSES:
            return True
        return any(_contains_code(v) for v in value.values())
    return isinstance(value, list) and any(_contains_code(v) for v in value)


def _has_class_of(value: Any, module: str) -> bool:
    """Whether the architecture in a model file names a class of a module."""
    if isinstance(value, dict):
        found = value.get("module")
        if isinstance(found, str) and found.split(".")[0] == module:
            return True
        return any(_has_class_of(v, module) for v in value.values())
    return isinstance(value, list) and any(_has_class_of(v, module) for v in value)
