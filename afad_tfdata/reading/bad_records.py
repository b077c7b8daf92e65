"""Damaged records: an error by default, a list within a budget on request."""

from __future__ import annotations

import logging
import re
import threading

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import record_index

# The reason of a record whose bytes changed after they were written.
WRONG_CHECKSUM = "its bytes do not match its checksum"
# Finds an error of this package at the end of TensorFlow's traceback, if a Python
# function of the pipeline raised it.  The module's name may precede the class.
_OWN_ERROR = re.compile(r"\b(Data|Usage)Error: ([^\n]+)")

_log = logging.getLogger(__name__)


class BadRecords:
    """Damaged records of one split, each counted once.

    Args:
      index: The split's records.
      budget: How many damaged records are skipped; one more is an error.

    Attributes:
      listed: ``{record number: description with the reason}``.
    """

    def __init__(self, index: record_index.RecordIndex, budget: int) -> None:
        # The records that were left out of the index use up the budget as well.
        self._index, self._budget = index, max(0, budget - index.num_skipped)
        # Several threads may find damaged records at the same time.  No other thread
        # may add one between the comparison with the budget and the entry in the list.
        self._lock = threading.Lock()
        self.listed: dict[int, str] = {}

    def add(self, record: int, reason: str) -> None:
        """Lists a damaged record, unless it is listed already.

        Raises:
          DataError: The budget is used up; the text names the record.
        """
        with self._lock:
            if record in self.listed:
                return
            text = f"{self._index.describe(record)}: {reason}"
            if len(self.listed) >= self._budget:
                skipped = (
                    f"; {len(self.listed)} before it were skipped"
                    if self.listed
                    else ""
                )
                raise errors.DataError(
                    f"{text}{skipped}. Restore the shard"
                    " (afad-inspect-records --verify names every bad record), or skip"
                    " as many as you can spare with --max_bad_records"
                )
            self.listed[record] = text
            _log.warning(
                "bad record %d of at most %d skipped: %s",
                len(self.listed),
                self._budget,
                text,
            )


def own_error(error: tf.errors.OpError) -> errors.AfadError | None:
    """Returns the error of this package that TensorFlow's error wraps, or None.

    If a Python function raises an exception, TensorFlow raises one of its own classes,
    whose text is the traceback.
    """
    found = _OWN_ERROR.search(str(error.message))
    if not found:
        return None
    kind = errors.DataError if found[1] == "Data" else errors.UsageError
    return kind(found[2].strip())
