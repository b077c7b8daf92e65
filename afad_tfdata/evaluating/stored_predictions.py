"""What a model predicts for each record of a split, for programs that compare models.

::

    entry = stored_predictions.store("run", columns, rows="3f2a...")   # in metrics.json
    found = stored_predictions.load("run", entry)
    found["age"], found["label_age"]

``predictions.npy`` has one row for each record, in the order of the split's index.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.reading import record_index
from afad_tfdata.storage import joined_data_sets, schema

FILE_NAME = "predictions.npy"
# In this order: the predictions, and the labels.
_DTYPES = {"age": "<f4", "gender": "<f4", "label_age": "<f4", "label_gender": "i1"}


def identity_of_rows(records_dir: str, split: str) -> str:
    """A text that identifies the records which stored predictions belong to.

    Args:
      records_dir: Directories, separated by commas.
      split: The split.

    Raises:
      UsageError: There is no such data set.
      DataError: A manifest is damaged.
    """
    digests = []
    for place in joined_data_sets.directories(records_dir):
        found = schema.load_manifest(place).splits.get(split)
        if found and found.num_examples:
            digests.append(found.index.sha256)
    return "+".join(digests)


def store(
    directory: str,
    columns: Mapping[str, np.ndarray],
    *,
    rows: str,
    max_examples: int = 0,
) -> dict[str, Any]:
    """Stores predictions; returns their entry in ``metrics.json``.

    Args:
      directory: Directory of the file, local or remote.
      columns: ``[n]`` each: ``age`` in years and/or ``gender`` in [0, 1], and their
        labels, below 0 where a record has none.
      rows: From `identity_of_rows`.
      max_examples: Largest number of records of the split that were used; 0 for all.
    """
    known = {n: d for n, d in _DTYPES.items() if n in columns}
    table = np.empty(len(next(iter(columns.values()))), list(known.items()))
    for name in known:
        table[name] = np.asarray(columns[name]).reshape(-1)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    data = content.getvalue()
    files.write_atomic(files.join(directory, FILE_NAME), data, durable=False)
    return {
        "file": FILE_NAME,
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": rows,
        "max_examples": max_examples,
        "columns": list(known),
    }


def load(directory: str, entry: Any) -> dict[str, np.ndarray]:
    """Stored predictions and labels: columns ``[n]`` by name, as `store` got them.

    Args:
      directory: Where ``metrics.json`` is.
      entry: Its entry ``predictions``.

    Raises:
      UsageError: The evaluation stored none, or the file cannot be read.
      DataError: The file is not the one that the entry describes.
    """
    path = files.join(directory, FILE_NAME)
    advice = "evaluate again with afad-evaluate"
    if not isinstance(entry, Mapping) or "sha256" not in entry:
        raise errors.UsageError(
            f"the evaluation in {directory} has no predictions of single faces:"
            f" {advice}"
        )
    try:
        content = files.read_bytes(path)
    except OSError as error:
        reason = error.strerror or errors.one_line(error)
        raise errors.UsageError(f"cannot read {path}: {reason}; {advice}") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise errors.DataError(
            f"{path} does not belong to the metrics next to it: {advice}"
        )
    table = np.load(io.BytesIO(content), allow_pickle=False)
    return {name: table[name] for name in table.dtype.names or ()}


def worst_records(
    columns: Mapping[str, np.ndarray],
    rows: Sequence[tuple[int, str]],
    index: record_index.RecordIndex,
) -> list[dict[str, Any]]:
    """The records with the worst of the stored predictions, with their keys.

    Args:
      columns: As for `store`.
      rows: Row and label that is wrong, the largest error first.
      index: The records that the rows of the columns are.

    Returns:
      JSON values: ``row``, ``key`` (empty if it cannot be read), ``label`` (``age`` or
      ``gender``), ``value`` of the label, and ``predicted``.
    """
    return [
        {
            "row": row,
            "key": index.filename(row),
            "label": name,
            "value": float(columns[f"label_{name}"][row]),
            "predicted": float(columns[name][row]),
        }
        for row, name in rows
    ]
