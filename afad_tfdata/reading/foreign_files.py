"""Builds an index of records that other programs wrote.

The files are TFRecords of ``tf.train.Example`` with any feature names, or HDF5 files
with images and labels of any name.  The ``data``/``labels`` files (float32, contiguous)
of the original project are among them.  One pass over the files finds where each image
is stored, and checks every label and the range of the pixels.  After that, the files
are read like this package's own records.

`foreign_labels` says what a label may be.  `foreign_hdf5` and `foreign_tfrecords` say
what else is checked.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence

from afad_tfdata.common import errors, files
from afad_tfdata.reading import (
    bad_records,
    foreign_features,
    foreign_hdf5,
    foreign_tfrecords,
    record_index,
)
from afad_tfdata.storage import schema, tfrecord

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

_log = logging.getLogger(__name__)
# For files whose pattern has no {split}: the split under which they were first read.
_served_as: dict[tuple[str, ...], str] = {}


def index_files(
    patterns: str,
    split: str,
    *,
    features: str = "",
    mean_file: str = "",
    task: str,
    max_bad_records: int = 0,
) -> record_index.RecordIndex:
    """Builds the record index of files that another program wrote.

    Args:
      patterns: Paths or patterns, separated by commas; ``{split}`` in them stands for
        `split`.
      split: One of `sharding.SPLITS`.
      features: As for `foreign_features.parse_features`; empty for the usual names.
      mean_file: JSON file with the channel means; empty if they are not known.
      task: One of `schema.TASKS`: says which label the data set ``labels`` in HDF5
        files contains.
      max_bad_records: How many unusable records are left out of the index.

    Raises:
      UsageError: There are no such files, or they lack a feature, or the meaning of
        their contents is ambiguous.
      DataError: A file is damaged.
    """
    paths = _matching_paths(patterns, split)
    _warn_of_two_splits(patterns, paths, split)
    names = foreign_features.parse_features(features)
    mean = schema.read_mean(mean_file) if mean_file else None
    skipped = bad_records.SkippedRecords(max_bad_records)
    try:
        kinds = [_is_hdf5(path) for path in paths]
        if len(set(kinds)) > 1:
            raise errors.UsageError(
                f"--files: {paths[kinds.index(True)]} is an HDF5 file and"
                f" {paths[kinds.index(False)]} is not: name files of one kind"
            )
        if kinds[0]:
            labels = schema.labels_of(task)
            return foreign_hdf5.build_index(paths, names, mean, split, labels, skipped)
        if names.pixels:
            raise errors.UsageError(
                f"--features: pixels= describes HDF5 files, and {paths[0]} is none:"
                " leave it out"
            )
        return foreign_tfrecords.build_index(
            paths, names.features, mean, split, skipped
        )
    except OSError as error:
        raise files.read_error(str(error.filename or paths[0]), error) from error


def _matching_paths(patterns: str, split: str) -> list[str]:
    """The files of another program that the patterns of ``--files`` name."""
    found: list[str] = []
    for pattern in filter(None, patterns.split(",")):
        pattern = files.local_path(pattern.replace("{split}", split))
        if files.is_remote(pattern):
            raise errors.UsageError(
                f"--files reads local files; {pattern} is remote: copy it"
            )
        # Absolute, so that the files are found after a change of the directory.
        pattern = os.path.abspath(os.path.expanduser(pattern))
        # A name that exists may contain the characters of patterns.
        matches = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        chosen = [match for match in matches if os.path.isfile(match)]
        if not chosen:
            raise errors.UsageError(
                f"--files: {pattern} matches no file"
                + (f" for split {split!r}" if "{split}" in patterns else "")
            )
        found += chosen
    if twice := {path for path in found if found.count(path) > 1}:
        raise errors.UsageError(
            f"--files names {min(twice)} twice, and its records would count twice:"
            " name it once"
        )
    return found


def _warn_of_two_splits(patterns: str, paths: Sequence[str], split: str) -> None:
    """Logs a warning if the same files of ``--files`` are read as two splits."""
    if "{split}" in patterns:
        return
    earlier = _served_as.setdefault(tuple(paths), split)
    if earlier != split:
        _log.warning(
            "input: --files=%s has no {split}: the same records are %s and %s, so that"
            " a result on the one says nothing about the other",
            patterns,
            earlier,
            split,
        )


def _is_hdf5(path: str) -> bool:
    """Whether a file of another program is HDF5."""
    with open(path, "rb") as f:
        start = f.read(len(_HDF5_MAGIC))
    if start == _HDF5_MAGIC:
        return True
    if len(start) < len(_HDF5_MAGIC) or tfrecord.starts_record(path):
        return False
    import h5py

    # A file with a user block begins with something else.
    return bool(h5py.is_hdf5(path))
