"""The file of corrections, ``calibration.json``, which is next to the model.

::

    corrections_file.store_entry("run", "run/best.keras", {"age_correction": ...})
    entry = corrections_file.load_entry("run", "run/best.keras")

It has an entry for each model file, with the SHA-256 of the file: a model that was
trained further does not get the corrections of the earlier one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files

FILE_NAME = "calibration.json"
FORMAT = "afad_tfdata calibration"
FORMAT_VERSION = 1
# The split that everything here is measured on.
SPLIT = "validation"


def empty_entry(
    columns: Mapping[str, np.ndarray], *, flip_average: bool = False
) -> dict[str, Any]:
    """The entry in the file of corrections of a model for which nothing was measured.

    Args:
      columns: Predictions and labels of the validation split.
      flip_average: Whether predictions are means over an image and its mirror image.
    """
    return {
        "split": SPLIT,
        "examples": len(next(iter(columns.values()), ())),
        "flip_average": flip_average,
        "gender_temperature": None,
        "age_correction": None,
        "age_interval": None,
    }


def store_entry(directory: str, model_path: str, entry: Mapping[str, Any]) -> str:
    """Writes a model's entry to its file of corrections; returns the file's path.

    The entries of other models stay.
    """
    path = files.join(directory, FILE_NAME)
    models = dict(_read_entries(path))
    models[_name_of_model(model_path)] = {
        "sha256": _digest_of_model(model_path),
        **entry,
    }
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, "models": models}
    files.write_json(path, files.seal_json(value))
    return path


def load_entry(directory: str, model_path: str) -> dict[str, Any] | None:
    """The entry of a model in its file of corrections; None if it has none.

    Raises:
      DataError: ``calibration.json`` is damaged.
    """
    path = files.join(directory or ".", FILE_NAME)
    entry = _read_entries(path).get(_name_of_model(model_path))
    if entry is None or entry["sha256"] != _digest_of_model(model_path):
        return None
    return dict(entry)


def _read_entries(path: str) -> dict[str, Any]:
    """The entries in a file of corrections by model; none if there is no file."""
    if not files.exists(path):
        return {}
    advice = "remove it, and run afad-evaluate again with the flags that made it"
    value = files.read_json(path, what="the calibration", advice=advice)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise errors.DataError(f"{path} is no calibration of a model: {advice}")
    if value.get("format_version") != FORMAT_VERSION:
        raise errors.DataError(
            f"{path} has the format version {value.get('format_version')}, and this"
            f" version of afad-tfdata reads {FORMAT_VERSION}: {advice}"
        )
    models = files.unseal_json(value, path).get("models")
    if not isinstance(models, dict) or not all(
        isinstance(m, dict) and "sha256" in m for m in models.values()
    ):
        raise errors.DataError(f"{path} is damaged: {advice}")
    return models


def _name_of_model(model_path: str) -> str:
    """The name by which a file of corrections lists a model."""
    return os.path.basename(model_path.rstrip("/"))


def _digest_of_model(model_path: str) -> str:
    """SHA-256 of a model, by which its file of corrections knows it.

    It is that of its file, or of all files of a SavedModel.
    """
    if not os.path.isdir(model_path):
        return files.sha256(model_path)
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(model_path)
        for name in names
    ]
    return files.json_checksum([files.sha256(path) for path in sorted(found)])
