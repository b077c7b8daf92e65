"""Damaged records: an error by default, a list within a budget on request."""

from __future__ import annotations

import logging
import threading

from afad_tfdata.common import errors
from afad_tfdata.reading import record_index

_log = logging.getLogger(__name__)


class BadRecords:
    """Damaged records of one split, each counted once.

    Args:
      found_in: The split's examples.
      budget: How many are passed over; one more raises.

    Attributes:
      listed: ``{record: description with the reason}``.
    """

    def __init__(self, found_in: record_index.Examples, budget: int) -> None:
        self._examples, self._budget = found_in, budget
        self._lock = threading.Lock()
        self.listed: dict[int, str] = {}

    def add(self, record: int, reason: str) -> None:
        """Notes a damaged record.

        Raises:
          DataError: The budget is used up; the text names the record.
        """
        with self._lock:
            if record in self.listed:
                return
            text = f"{self._examples.describe(record)}: {reason}"
            if len(self.listed) >= self._budget:
                passed_over = (
                    f"; {len(self.listed)} before it were passed over"
                    if self.listed
                    else ""
                )
                raise errors.DataError(
                    f"{text}{passed_over}. Restore the shard"
                    " (afad-inspect-records --verify names every bad record), or pass"
                    " over as many as you can spare with --max_bad_records"
                )
            self.listed[record] = text
            _log.warning(
                "bad record %d of at most %d passed over: %s",
                len(self.listed),
                self._budget,
                text,
            )
