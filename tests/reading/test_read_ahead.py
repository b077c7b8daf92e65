"""The first batches are read while the pipeline is built, and read only once."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.reading import read_ahead

BATCHES = np.array([[3, 1, 2], [4, 6, 5], [7, 8, 9]])
RECORDS = BATCHES[0]


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
    ahead.start(BATCHES[:1], train=True)
    reader.go_on.set()
    for calls in (1, 2):
        assert ahead.read_train(RECORDS)[0].tolist() == [30, 10, 20]
        assert len(reader.calls) == calls


def test_another_batch_than_was_read_ahead():
    reader = Reader()
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES[:1], train=True)
    assert ahead.read_train(RECORDS[:2])[0].tolist() == [30, 10]
    ahead.start(BATCHES[:1], train=True)
    assert ahead.read(RECORDS)[0].tolist() == [60, 20, 40]


# Outside of tests, an error that leaves a thread is a traceback on standard error.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [errors.DataError, MemoryError, OSError])
def test_an_error_is_raised_only_if_the_batch_is_asked_for(error):
    reader = Reader()
    reader.error = error
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES[:1], train=True)
    with pytest.raises(error, match="call 2"):
        ahead.read_train(RECORDS)


def test_a_process_without_another_thread_reads_in_turn(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    reader = Reader()
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES[:1], train=True)
    assert ahead.read_train(RECORDS)[0].tolist() == [30, 10, 20]


def test_a_large_batch_is_not_read_ahead():
    reader = Reader()
    read_ahead.ReadAhead(reader, 5000).start(BATCHES[:1], train=True)
    assert not reader.calls


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_batches_are_read_ahead_in_their_order_until_they_are_asked_for():
    reader = Reader()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES, train=True)
    reader.go_on.set()
    wait_until(lambda: len(reader.calls) == 3)
    for number, records in enumerate(BATCHES):
        assert ahead.read_train(records)[0].tolist() == (10 * records).tolist(), number
    assert reader.calls == BATCHES.tolist()


def test_reading_ahead_ends_when_the_pipeline_begins():
    reader = Reader()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES, train=True)
    wait_until(lambda: reader.calls)  # The first batch is being read.
    taken = []
    pipeline = threading.Thread(target=lambda: taken.append(ahead.read_train(RECORDS)))
    pipeline.start()
    wait_until(lambda: ahead._asked)
    reader.go_on.set()
    pipeline.join()
    assert taken[0][0].tolist() == [30, 10, 20]
    (thread,) = [t for t in threading.enumerate() if t.name == "read_ahead"] or [None]
    if thread is not None:
        thread.join()
    assert reader.calls == [[3, 1, 2]]


def test_no_more_is_read_ahead_than_the_limit(monkeypatch):
    monkeypatch.setattr(read_ahead, "_LARGEST_BYTES", 2 * 3 * 4 * 4 * 3)
    reader = Reader()
    reader.go_on.set()
    ahead = read_ahead.ReadAhead(reader, 4)
    ahead.start(BATCHES, train=True)
    wait_until(lambda: not any(t.name == "read_ahead" for t in threading.enumerate()))
    assert reader.calls == BATCHES[:2].tolist()


def test_the_lock_is_handed_over_often_only_while_pipelines_are_built():
    before = sys.getswitchinterval()
    with read_ahead.lock_is_handed_over():
        with read_ahead.lock_is_handed_over():
            assert sys.getswitchinterval() < before
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before
    with pytest.raises(errors.DataError), read_ahead.lock_is_handed_over():
        raise errors.DataError("damaged")
    assert sys.getswitchinterval() == before
