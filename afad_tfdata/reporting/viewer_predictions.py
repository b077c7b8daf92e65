"""What a model predicts for every record of a data set.

::

    found = viewer_predictions.predict_splits("records", run_dir="run", directory="run")
    found["test"].age
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import evaluation
from afad_tfdata.common import errors, files
from afad_tfdata.evaluating import stored_predictions
from afad_tfdata.reporting import evaluation_section, json_values
from afad_tfdata.storage import joined_data_sets

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class SplitPredictions:
    """What a model predicts for each record of a split.

    Attributes:
      age: Years ``[n]``; None if the model predicts none.
      gender: Probability of class 1 of the data set ``[n]``, or None.
    """

    age: np.ndarray | None
    gender: np.ndarray | None


def predict_splits(
    records_dir: str, *, run_dir: str, directory: str
) -> dict[str, SplitPredictions]:
    """The predictions that the viewer sorts by, by split.

    If the directory has an evaluation of these records, its stored predictions are
    used.  The model of the run predicts the other splits; without a run, those are left
    out.

    Args:
      records_dir: Directories, separated by commas.
      run_dir: The run whose best model is used; empty for none.
      directory: The directory with ``metrics.json``.

    Raises:
      UsageError: There are no predictions, or the model does not fit the data set.
      DataError: A file is damaged.
    """
    manifest = joined_data_sets.load_manifest(records_dir)
    splits = [n for n, split in manifest.splits.items() if split.num_examples]
    found = _predictions_of_evaluation(records_dir, directory, manifest.class_names)
    missing = [name for name in splits if name not in found]
    if run_dir and missing:
        _log.info(
            "the model of %s predicts the labels of %s", run_dir, ", ".join(missing)
        )
        config = evaluation.EvaluateConfig(run_dir=run_dir, records_dir=records_dir)
        columns, names = evaluation.predict(config, missing)
        for name, values in columns.items():
            found[name] = _in_data_set_classes(values, names, manifest.class_names)
    if not found:
        raise errors.UsageError(
            f"--sort=suspicious: {directory} has no predictions for {records_dir}: name"
            " a run with --run_dir, whose model makes them"
        )
    return found


def _predictions_of_evaluation(
    records_dir: str, directory: str, class_names: Sequence[str]
) -> dict[str, SplitPredictions]:
    """The viewer's predictions from an evaluation, if it has those of a whole split."""
    path = files.join(directory, evaluation.METRICS_NAME)
    if not files.exists(path):
        return {}
    metrics = json_values.read(path, what="the metrics")
    split, entry = metrics.at("split").text, metrics.at("predictions")
    if not entry or entry.at("max_examples").number != 0:
        return {}
    if entry.at("rows").text != stored_predictions.identity_of_rows(records_dir, split):
        return {}
    columns = stored_predictions.load(directory, entry.value)
    names = evaluation_section.class_names(metrics)
    return {split: _in_data_set_classes(columns, names, class_names)}


def _in_data_set_classes(
    columns: Mapping[str, np.ndarray], names: Sequence[str], class_names: Sequence[str]
) -> SplitPredictions:
    """The viewer's predictions, with the gender as a probability of class 1."""
    gender: Any = columns.get("gender")
    if gender is not None and list(names) == list(class_names)[::-1]:
        gender = 1 - gender
    return SplitPredictions(columns.get("age"), gender)


def label_errors(
    said: SplitPredictions, rows: slice, ages: np.ndarray, genders: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """How far the labels of the viewer's records are from the predictions."""
    found: list[np.ndarray | None] = []
    for value, label in ((said.age, ages), (said.gender, genders)):
        if value is None:
            found.append(None)
            continue
        known = np.where(np.asarray(label) < 0, np.nan, label)
        part = np.full(len(known), np.nan)
        there = np.asarray(value, np.float64)[rows]
        part[: len(there)] = there[: len(known)]
        found.append(np.abs(part - known))
    return found[0], found[1]
