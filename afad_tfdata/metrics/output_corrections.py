"""Corrections of a model's outputs that a validation split gives, and their file.

::

    temperature = output_corrections.fit_temperature(logits, label_gender)
    probability = output_corrections.scaled_probability(logits, temperature)
    slope, offset = output_corrections.fit_age_correction(age, label_age)
    output_corrections.store("run", "run/best.keras", {"age_correction": ...})

``calibration.json`` is next to the model and has an entry for each model file, with the
SHA-256 of the file: a model that was trained further does not get the corrections of
the earlier one.
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
# A validation split with a temperature outside this range does not determine it.
_TEMPERATURES = (0.05, 20.0)
_STEPS = 100  # Halvings of the range, more than float64 has digits.
# Examples of each gender, or of all faces for the age.  With fewer, noise decides.
_MIN_EXAMPLES = 20


def fit_temperature(
    logits: np.ndarray, label: np.ndarray, *, what: str = "the validation split"
) -> float:
    """The temperature with the lowest log loss (Guo et al., 2017, section 4.2).

    The loss is convex in the inverse of the temperature, so that its derivative changes
    its sign once, and halving the range finds the place.

    Args:
      logits: Logits of class 1, ``[n]``.
      label: 0 or 1, ``[n]``.
      what: The examples, for the message.

    Returns:
      The temperature, from 0.05 to 20; above 1 for a model that is too sure.

    Raises:
      UsageError: There are too few examples of a class.
    """
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    known = np.isfinite(logits) & np.isin(label, (0, 1))
    logits, label = logits[known], label[known]
    fewest = min(int((label == 0).sum()), int((label == 1).sum()))
    if fewest < _MIN_EXAMPLES:
        raise errors.UsageError(
            f"--gender_temperature needs at least {_MIN_EXAMPLES} examples of each"
            f" gender in {what}; it has {fewest} of one"
        )
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(_STEPS):
        middle = (low + high) / 2
        slope = np.mean((_sigmoid(middle * logits) - label) * logits)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(2 / (low + high))


def scaled_probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The probability of class 1, float64 ``[n]``."""
    return _sigmoid(np.asarray(logits, np.float64) / temperature)


def log_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean negative logarithm of the probability of the true class."""
    logits, label = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    known = np.isfinite(logits) & np.isin(label, (0, 1))
    signed = np.where(label[known] == 1, -logits[known], logits[known])
    return float(np.mean(np.logaddexp(0, signed)))


def fit_age_correction(
    age: np.ndarray, label_age: np.ndarray, *, what: str = "the validation split"
) -> tuple[float, float]:
    """The line from predicted to true age with the least squared error.

    Args:
      age: Predicted years ``[n]``.
      label_age: True years ``[n]``.
      what: The examples, for the message.

    Returns:
      Slope and offset: the corrected age is ``slope * age + offset``.

    Raises:
      UsageError: There are too few examples, or predicted ages do not rise with the
        true ones, so that a line would reverse their order.
    """
    age, label = np.asarray(age, np.float64), np.asarray(label_age, np.float64)
    known = np.isfinite(age) & np.isfinite(label)
    age, label = age[known], label[known]
    if len(age) < _MIN_EXAMPLES:
        raise errors.UsageError(
            f"--age_correction needs at least {_MIN_EXAMPLES} examples with an age in"
            f" {what}; it has {len(age)}"
        )
    centered = age - age.mean()
    variance = float(centered @ centered)
    slope = float(centered @ (label - label.mean())) / variance if variance else 0.0
    if slope <= 0:
        raise errors.UsageError(
            f"--age_correction: the predicted ages do not rise with the true ones in"
            f" {what} (slope {slope:.3g}), so that no line corrects them; train the"
            " model further"
        )
    return slope, float(label.mean() - slope * age.mean())


def empty_entry(
    columns: Mapping[str, np.ndarray], *, flip_average: bool = False
) -> dict[str, Any]:
    """The entry of a model for which nothing was measured.

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


def store(directory: str, model_path: str, entry: Mapping[str, Any]) -> str:
    """Writes a model's entry; those of other models stay.  Returns the file's path."""
    path = files.join(directory, FILE_NAME)
    models = dict(_read(path))
    models[_key(model_path)] = {"sha256": _digest(model_path), **entry}
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, "models": models}
    files.write_json(path, files.seal_json(value))
    return path


def load(directory: str, model_path: str) -> dict[str, Any] | None:
    """A model's entry; None if there is none for exactly this file.

    Raises:
      DataError: ``calibration.json`` is damaged.
    """
    path = files.join(directory or ".", FILE_NAME)
    entry = _read(path).get(_key(model_path))
    if entry is None or entry["sha256"] != _digest(model_path):
        return None
    return dict(entry)


def _read(path: str) -> dict[str, Any]:
    """The entries in a file by model; none if there is no file."""
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


def _key(model_path: str) -> str:
    """The name by which the file of corrections lists a model."""
    return os.path.basename(model_path.rstrip("/"))


def _digest(model_path: str) -> str:
    """SHA-256 of a model file, or of all files of a SavedModel."""
    if not os.path.isdir(model_path):
        return files.sha256(model_path)
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(model_path)
        for name in names
    ]
    return files.json_checksum([files.sha256(path) for path in sorted(found)])


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """The probability that a logit stands for."""
    # By tanh, which does not overflow.
    return 0.5 * (1 + np.tanh(values / 2))
