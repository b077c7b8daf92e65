"""Reads the first batches of a pipeline while TensorFlow still builds the pipeline.

TensorFlow takes as long to build a pipeline as a core takes to decode some batches, and
it uses one core for that.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.reading import mapped_reader

# Not more is read ahead: a pipeline that nobody uses would keep this memory.
_LARGEST_BYTES = 64 << 20
# How long a thread that builds a pipeline may keep the interpreter lock while others
# wait for it.  With Python's 5 ms, a thread that decodes images of 0.2 ms would mostly
# wait; a hand-over takes some 5 us.
_SWITCH_SECS = 1e-4

_Result = tuple[np.ndarray, ...]


class ReadAhead:
    """The functions of a reader, some batches of which may have been read ahead.

    Args:
      reader: Reads the records.
      image_size: Side of its images, pixels.
    """

    def __init__(self, reader: mapped_reader.MappedReader, image_size: int) -> None:
        self._reader, self._image_bytes = reader, image_size * image_size * 3
        # The batches that are read ahead, by function and records, until they are
        # taken.
        self._batches: dict[Any, _BatchAhead] = {}
        # Whether the pipeline reads by itself already.
        self._asked = False
        # A batch is either read ahead or read by the pipeline.
        self._lock = threading.Lock()

    def read(self, records: np.ndarray) -> _Result:
        """Returns what `mapped_reader.MappedReader.read` returns."""
        return self._take_batch(records, self._reader.read)

    def read_train(self, records: np.ndarray) -> _Result:
        """Returns what `mapped_reader.MappedReader.read_train` returns."""
        return self._take_batch(records, self._reader.read_train)

    def start(self, batches: np.ndarray, *, train: bool) -> None:
        """Starts reading batches in a thread, until the pipeline asks for its first.

        Args:
          batches: int64 ``[n, B]``: the records of the first batches, in their order.
          train: Whether `read_train` will ask for them, and not `read`.
        """
        most = _LARGEST_BYTES // max(1, batches.shape[1] * self._image_bytes)
        function = self._reader.read_train if train else self._reader.read
        batches = batches[:most]
        if not len(batches):
            return
        # The first batch is announced here, so that the pipeline waits for it.
        first = self._announce_batch(batches[0], function)
        # The end of the program waits for this thread, since a thread that is ended by
        # force while a library decodes would end the process with an error.
        thread = threading.Thread(
            target=self._read_batches_ahead,
            args=(first, batches, function),
            name="read_ahead",
        )
        try:
            thread.start()
        except RuntimeError:
            # A process that may not start another thread reads the batches in turn.
            self._batches.clear()

    def _announce_batch(
        self, records: np.ndarray, function: Callable[[np.ndarray], _Result]
    ) -> _BatchAhead | None:
        """Returns a batch to read ahead; None if the pipeline reads already."""
        with self._lock:
            if self._asked:
                return None
            batch = self._batches[function, records.tobytes()] = _BatchAhead()
            return batch

    def _read_batches_ahead(
        self,
        batch: _BatchAhead | None,
        batches: np.ndarray,
        function: Callable[[np.ndarray], _Result],
    ) -> None:
        """Reads batches ahead one after the other, in its own thread."""
        for number, records in enumerate(batches):
            if number:
                batch = self._announce_batch(records, function)
            if batch is None:
                return
            batch.read(function, records)

    def _take_batch(
        self, records: np.ndarray, function: Callable[[np.ndarray], _Result]
    ) -> _Result:
        """Returns the batch that was read ahead, or one that is read now."""
        # Later calls, which are almost all calls, take no lock.
        if self._batches or not self._asked:
            with self._lock:
                self._asked = True
                batch = self._batches.pop((function, records.tobytes()), None)
            found = batch.result() if batch else None
            if found is not None:
                return found
        return function(records)


class _BatchAhead:
    """A batch that a thread reads ahead."""

    def __init__(self) -> None:
        self._found: _Result | None = None
        self._done = threading.Event()

    def read(
        self, function: Callable[[np.ndarray], _Result], records: np.ndarray
    ) -> None:
        """Reads the batch."""
        try:
            self._found = function(records)
        except Exception:
            # A damaged record, or no memory: the pipeline reads the batch again, and
            # raises the error where its caller sees it.
            self._found = None
        finally:
            self._done.set()

    def result(self) -> _Result | None:
        """Waits for the batch and returns it; None if it could not be read."""
        self._done.wait()
        return self._found


_switching = threading.Lock()
# How many threads build pipelines now, and the interval that was set before the first
# of them began.
_builders: list[float] = []


@contextlib.contextmanager
def lock_is_handed_over() -> Iterator[None]:
    """Lets the thread that reads ahead have the interpreter lock often.

    The interval between switches is a setting of the process.  It is restored at the
    end.
    """
    with _switching:
        _builders.append(_builders[0] if _builders else sys.getswitchinterval())
        sys.setswitchinterval(min(_SWITCH_SECS, _builders[0]))
    try:
        yield
    finally:
        with _switching:
            before = _builders.pop()
            if not _builders:
                sys.setswitchinterval(before)
