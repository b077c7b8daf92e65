"""Model files that Keras 2 wrote, read by the ``tf_keras`` package.

::

    if keras2_files.keras_version("face.h5") < 3:
        model = keras2_files.load("face.h5")     # a tf_keras.Model
"""

from __future__ import annotations

import re
from typing import Any

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.models import saved
from afad_tfdata.storage import hdf5

# A dtype policy or dtype of half precision in a model's configuration as JSON text.
HALF_POLICY = re.compile(r'"(mixed_)?b?float16"')


def keras_version(path: str) -> int:
    """Major version of the Keras that wrote an ``.h5`` file.

    Raises:
      UsageError: It is not an HDF5 file, or contains no whole model.
    """
    import h5py

    try:
        with h5py.File(path, "r") as f:
            hdf5.refuse_outside(f, path)
            version = f.attrs.get("keras_version", b"")
            whole = "model_config" in f.attrs
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
    version = version.decode() if isinstance(version, bytes) else str(version)
    major = version.partition(".")[0]
    # Files that Keras 1 wrote or that other programs edited have no version.  Keras 2
    # reads them; Keras 3 does not.
    return int(major) if major.isdecimal() else 2


def load(path: str, *, unsafe: bool = False) -> Any:
    """Loads a whole ``.h5`` model of Keras 2.

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
        saved.refuse_code(saved.architecture(path), path)
    try:
        return tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # Layers of other programs make Keras raise anything.
        raise errors.UsageError(
            f"{path} cannot be loaded by Keras 2 ({errors.one_line(error)}): replace"
            " layers of your own, or freeze the model object in your program"
        ) from error


def in_float32(model: Any) -> Any:
    """The same ``tf_keras`` network and weights, with all dtype policies float32."""

    def plain(value: Any) -> Any:
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
