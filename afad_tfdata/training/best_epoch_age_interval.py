"""The age interval of the best epoch, from its validation.

The validation of an epoch predicts all that an interval needs, so that a training
measures one without a further pass::

    predictor = replica_predictor.Predictor(..., derive=functools.partial(
        replica_predictor.age_spread_output, network=facts.of(model).network))
    columns = predictor.run(data)
    best_epoch_age_interval.store("run/best.keras", columns, names, coverage=0.9)
    best_epoch_age_interval.stored("run/best.keras")["half_width"]

It is in ``calibration.json`` of the run, where `afad-evaluate` writes what it measures,
and `afad-freeze` looks for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.metrics import age_intervals
from afad_tfdata.models import corrections_file

_log = logging.getLogger(__name__)


def store(
    model_path: str,
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    coverage: float,
) -> None:
    """Stores the age interval of the best epoch's model in ``calibration.json``.

    Nothing is written without ages or with too few of them: an interval is an addition
    for which no training may fail.

    Args:
      model_path: The model's file.
      columns: Its predictions and labels on the validation split; empty without one.
      class_names: Names of the gender labels 0 and 1; empty if not known.
      coverage: Share of the ages that an interval is to contain; 0 for no interval.
    """
    if not coverage or not {"age", "label_age"} <= columns.keys():
        return
    label = np.asarray(columns["label_age"], np.float64)
    # Examples without an age have a negative one.
    columns = {**columns, "label_age": np.where(label < 0, np.nan, label)}
    known = int(np.isfinite(columns["age"] + columns["label_age"]).sum())
    if known < (needed := age_intervals.examples_needed(coverage)):
        _log.info(
            "no age interval: --interval_coverage=%g needs at least %d validation"
            " examples with an age, and there are %d",
            *(coverage, needed, known),
        )
        return
    entry = corrections_file.empty_entry(columns)
    entry["age_interval"] = age_intervals.fit_columns(
        columns, class_names, coverage=coverage
    )
    try:
        corrections_file.store_entry(os.path.dirname(model_path), model_path, entry)
    except errors.DataError as error:  # The file is another program's, or damaged.
        _log.warning("the age interval of %s is not stored: %s", model_path, error)


def stored(model_path: str) -> dict[str, Any] | None:
    """The age interval that is stored for the best epoch's model; None without one."""
    if not os.path.exists(model_path):
        return None
    try:
        entry = corrections_file.load_entry(os.path.dirname(model_path), model_path)
    except errors.DataError as error:
        _log.warning("%s", error)
        return None
    return (entry or {}).get("age_interval")
