"""What a model predicts for every record of a data set.

::

    said = model_predictions.of_data_set("records", run_dir="run", directory="run")
    said["test"].age
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import evaluation
from afad_tfdata.common import errors, files
from afad_tfdata.evaluating import stored_predictions
from afad_tfdata.reporting import evaluation_section, json_values, viewer_section
from afad_tfdata.storage import joined_data_sets

_log = logging.getLogger(__name__)


def of_data_set(
    records_dir: str, *, run_dir: str, directory: str
) -> dict[str, viewer_section.Said]:
    """Predictions by split.

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
    found = _stored(records_dir, directory, manifest.class_names)
    missing = [name for name in splits if name not in found]
    if run_dir and missing:
        _log.info(
            "the model of %s predicts the labels of %s", run_dir, ", ".join(missing)
        )
        config = evaluation.EvaluateConfig(run_dir=run_dir, records_dir=records_dir)
        columns, names = evaluation.predict(config, missing)
        for name, values in columns.items():
            found[name] = _said(values, names, manifest.class_names)
    if not found:
        raise errors.UsageError(
            f"--sort=suspicious: {directory} has no predictions for {records_dir}: name"
            " a run with --run_dir, whose model makes them"
        )
    return found


def _stored(
    records_dir: str, directory: str, class_names: Sequence[str]
) -> dict[str, viewer_section.Said]:
    """The predictions in a directory, if they are those of all records of a split."""
    path = files.join(directory, evaluation.METRICS_NAME)
    if not files.exists(path):
        return {}
    metrics = json_values.of_file(path, what="the metrics")
    split, entry = metrics.at("split").text, metrics.at("predictions")
    if not entry or entry.at("max_examples").number != 0:
        return {}
    if entry.at("rows").text != stored_predictions.rows_of(records_dir, split):
        return {}
    columns = stored_predictions.load(directory, entry.value)
    names = evaluation_section.class_names(metrics)
    return {split: _said(columns, names, class_names)}


def _said(
    columns: Mapping[str, np.ndarray], names: Sequence[str], class_names: Sequence[str]
) -> viewer_section.Said:
    """Predictions, with the gender as the probability of the data set's class 1."""
    gender: Any = columns.get("gender")
    if gender is not None and list(names) == list(class_names)[::-1]:
        gender = 1 - gender
    return viewer_section.Said(columns.get("age"), gender)
