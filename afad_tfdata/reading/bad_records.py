"""Damaged records: an error by default, a list within a budget on request."""

from __future__ import annotations

import logging
import re
import threading

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import record_index

# The reason of a record whose bytes changed after they were written.
WRONG_CHECKSUM = "its bytes do not fit its checksum"
# The end of TensorFlow's traceback, where an exception of ours was raised in a Python
# function of a pipeline: its class, with or without its module, and its one line.
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
        # Those that were left out of the index count, too.
        self._index, self._budget = index, max(0, budget - index.num_skipped)
        # Threads that read different batches may find records at the same time; the
        # budget must not be exceeded between the comparison and the entry.
        self._lock = threading.Lock()
        self.listed: dict[int, str] = {}

    def add(self, record: int, reason: str) -> None:
        """Notes a damaged record; one that is listed already does not count again.

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
    """The error of this package that TensorFlow's error wraps; None if there is none.

    TensorFlow turns an exception of a Python function into one of its own, with the
    traceback as its text.
    """
    found = _OWN_ERROR.search(str(error.message))
    if not found:
        return None
    kind = errors.DataError if found[1] == "Data" else errors.UsageError
    return kind(found[2].strip())
