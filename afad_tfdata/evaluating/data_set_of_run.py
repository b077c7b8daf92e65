"""Whether the data set of a run is still the one that the run was trained on."""

from __future__ import annotations

import logging

from afad_tfdata.common import errors
from afad_tfdata.storage import joined_data_sets
from afad_tfdata.training import run_dir

_log = logging.getLogger(__name__)


def check(directory: str, records_dir: str, *, named: bool) -> None:
    """Refuses a data set that was replaced, because its splits may be others.

    Images of the new test split may then have been training images of the run, and the
    result would be too good.

    Args:
      directory: The run directory.
      records_dir: The data set that is evaluated.
      named: Whether the user named it.  It is then used, with a warning.

    Raises:
      UsageError: The data set at the path that the run was trained on has another
        content, and the user did not name it.
    """
    stored = run_dir.read_config(directory)
    train, digest = stored["train"], stored.get("records_digest")
    trained_on = train.get("records_dir", "")
    if not digest or not trained_on:  # Data of the caller's own.
        return
    if named:
        original = run_dir.data_set_of_run(directory, stored)
        # The original may be gone.
        if not original or not _same(original, records_dir):
            return  # Another data set, on purpose.
    manifest = joined_data_sets.load_manifest(
        records_dir, train.get("max_examples") or 0
    )
    if run_dir.records_digest(manifest) == digest:
        return
    text = (
        f"{records_dir} is not the data set any more that {directory} was trained on:"
        " it was written again, and its test split may have images of the training"
    )
    if not named:
        raise errors.UsageError(
            f"{text}; write it as it was, or name a data set with --records_dir"
        )
    _log.warning("%s", text)


def _same(one: str, other: str) -> bool:
    """Whether two paths of data sets, which may be several each, are the same."""
    return _places_of_run(one) == _places_of_run(other)


def _places_of_run(records_dir: str) -> list[str]:
    """The places of a run's data sets, written alike for comparison."""
    directories = joined_data_sets.directories(records_dir)
    return [joined_data_sets.place_of(path) for path in directories]
