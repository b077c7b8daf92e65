"""The first batch is read while the pipeline is built, and read only once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.reading import read_ahead

RECORDS = np.array([3, 1, 2])


class Reader:
    """Returns the numbers that it is asked for, and counts the calls."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go_on = threading.Event()
        self.error: type[Exception] | None = None

    def read_train(self, records):
        self.calls.append(records.tolist())
        self.go_on.wait()
        if self.error:
            raise self.error(f"call {len(self.calls)}")
        return (10 * records,)

    def read(self, records):
        return (20 * records,)


def test_the_batch_that_was_read_ahead_is_returned_once():
    reader = Reader()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(RECORDS, train=True)
    reader.go_on.set()
    for calls in (1, 2):
        assert ahead.read_train(RECORDS)[0].tolist() == [30, 10, 20]
        assert len(reader.calls) == calls


def test_another_batch_than_was_read_ahead():
    reader = Reader()
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(RECORDS, train=True)
    assert ahead.read_train(RECORDS[:2])[0].tolist() == [30, 10]
    ahead.start(RECORDS, train=True)
    assert ahead.read(RECORDS)[0].tolist() == [60, 20, 40]


# Outside of tests, an error that leaves a thread is a traceback on standard error.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [errors.DataError, MemoryError, OSError])
def test_an_error_is_raised_only_if_the_batch_is_asked_for(error):
    reader = Reader()
    reader.error = error
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(RECORDS, train=True)
    with pytest.raises(error, match="call 2"):
        ahead.read_train(RECORDS)


def test_a_process_without_another_thread_reads_in_turn(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    reader = Reader()
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(RECORDS, train=True)
    assert ahead.read_train(RECORDS)[0].tolist() == [30, 10, 20]


def test_a_large_batch_is_not_read_ahead():
    reader = Reader()
    read_ahead.ReadAhead(reader, 5000).start(RECORDS, train=True)
    assert not reader.calls
