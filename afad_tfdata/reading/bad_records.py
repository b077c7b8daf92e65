"""Damaged records: an error by default, a list within a budget on request."""

from __future__ import annotations

import logging
import threading

from afad_tfdata.common import errors
from afad_tfdata.reading import record_index

# The reason of a record whose bytes changed after they were written.
WRONG_CHECKSUM = "its bytes do not match its checksum"
# Up to this number of wrong labels, or this part of all labels, may be damage.
_FEW_LABELS, _WRONG_SHARE = 2, 0.1

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


class SkippedRecords:
    """Unusable records, which are left out of the index within a budget.

    Args:
      budget: How many are left out; one more is an error.

    Attributes:
      budget: The argument `budget`.
      count: How many were left out.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.count = budget, 0
        self._wrong_labels: list[str] = []

    def add(self, reason: str, number: int = 1, *, label: bool = False) -> None:
        """Counts unusable records, and logs the first of them.

        Args:
          reason: The first record, and what is wrong with it.
          number: How many records are unusable.
          label: Whether they are unusable because of their label.

        Raises:
          DataError: The budget is used up.
        """
        if self.count + number > self.budget:
            before = f"; {self.count} before it were skipped" if self.count else ""
            raise errors.DataError(
                f"{reason}{before}. Mend the file, or skip as many records as you can"
                " spare with --max_bad_records"
            )
        self.count += number
        if label:
            self._wrong_labels.append(reason)
        _log.warning(
            "bad record %d of at most %d skipped: %s", self.count, self.budget, reason
        )

    def check_labels(self, num_good: int) -> None:
        """Refuses files in which many labels are wrong.

        Otherwise labels with another meaning, such as 1 and 2 for genders, would lose
        one class and give the other a wrong name.

        Raises:
          UsageError: More than a few labels, and more than a tenth, cannot be used.
        """
        wrong, total = len(self._wrong_labels), self.count + num_good
        if wrong > _FEW_LABELS and wrong > total * _WRONG_SHARE:
            raise errors.UsageError(
                f"--files: {wrong} of {total} records have a label that cannot be used,"
                f" too many for damage; the first is {self._wrong_labels[0]}"
            )
