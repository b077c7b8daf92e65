"""The workers of a job: all make the same decisions, and one of them writes files.

Each worker runs the same program.  What could differ between workers (a signal, a
clock, a file) is exchanged before anything depends on it.  All workers therefore take
the same branches and call the same collective operations::

    with multi_worker.join(devices="", all_reduce="auto") as workers:
        snapshot = workers.from_chief(lambda: read(path))   # one reads, all have it
        stop = workers.exchange([preemption.requested()])[:, 0].any()

A process that works alone is treated as a job of one worker, and exchanges nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, grpc_proxy, preemption
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training.distributed import cluster, messages, strategies, watchdog

# Bytes are sent in pieces of this many int64 values.  All pieces have the same shape,
# so that the function that sends them is traced once.
_PIECE = 1 << 19
# How long a worker waits for the others before it leaves.  The chief, to which the
# others are connected, then waits once more, at most as long.
_LEAVE_SECS = 10.0

_log = logging.getLogger(__name__)
_joined: cluster.Cluster | None = None


def joined_cluster() -> cluster.Cluster | None:
    """The job of several workers that this process took part in; None if none.

    A process that took part in a job must end with ``os._exit``: an ordinary exit shuts
    TensorFlow's servers down, which logs errors about workers that ended before.
    """
    return _joined


class Workers:
    """The workers of a job, from the point of view of one of them.

    Args:
      strategy: The ``tf.distribute.Strategy`` of all workers; None for a process that
        works alone.
      found: The job; None for a process that works alone.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        found: cluster.Cluster | None = None,
    ):
        self.strategy = strategy
        self.size = len(found.addresses) if found else 1
        self.index = found.index if found else 0
        self._total = tf.function(self._total_of, autograph=False) if found else None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run directory."""
        return self.index == 0

    def exchange(self, values: Sequence[float]) -> np.ndarray:
        """Collects numbers from all workers, on every worker.

        Args:
          values: Numbers of this worker; all workers must pass the same number of them.

        Returns:
          float64 ``[size, len(values)]``, the same on all workers.
        """
        own = np.asarray(values, np.float64)
        if self.size == 1:
            return own[np.newaxis]
        # The bits are summed as integers, because floats would lose the sign of zero
        # and the bits of NaN.
        every = np.zeros((self.size, len(own)), np.int64)
        every[self.index] = own.view(np.int64)
        return self._sum(every).view(np.float64)

    def meet(self) -> None:
        """Waits until all workers have called this."""
        self.exchange([0.0])

    def from_chief(self, function: Callable[[], Any]) -> Any:
        """Calls the function on the chief only; every worker returns its result.

        Args:
          function: Its result consists of JSON values and arrays, in lists and dicts;
            see `messages.encode_message`.

        Raises:
          AfadError: The function raised it on the chief.  Every worker raises it.
          WorkerLostError: The result arrived damaged.
        """
        if self.size == 1:
            return function()
        data = b""
        if self.is_chief:
            try:
                data = messages.encode_message(function())
            except errors.AfadError as error:
                data = messages.encode_error_message(error)
        # The others add only zeros, so the sum equals the chief's data bit for bit.
        length = int(self.exchange([len(data)])[0, 0])
        pieces = []
        for start in range(0, length, _PIECE * 8):
            piece = data[start : start + _PIECE * 8].ljust(_PIECE * 8, b"\0")
            if not self.is_chief:
                piece = bytes(_PIECE * 8)
            pieces.append(self._sum(np.frombuffer(piece, np.int64)).tobytes())
        return messages.decode_message(b"".join(pieces)[:length])

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sums values over all workers."""
        assert self._total is not None  # noqa: S101 (one worker alone never sums)
        return self._total(tf.constant(values)).numpy()

    def _total_of(self, values: Any) -> Any:
        """Sums values over all workers, in a graph."""
        assert self.strategy is not None  # noqa: S101 (one worker alone never sums)
        here = self.strategy.num_replicas_in_sync // self.size

        def of_replica() -> Any:
            """The values on the first replica of a worker, zeros on its others."""
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            first = tf.equal(replica % here, 0)  # Each worker counts once.
            return tf.where(first, values, tf.zeros_like(values))

        return self.strategy.reduce(
            tf.distribute.ReduceOp.SUM, self.strategy.run(of_replica), axis=None
        )


@contextlib.contextmanager
def join(devices: str, all_reduce: str) -> Iterator[Workers]:
    """Joins the job that this process belongs to, if there is one.

    TensorFlow must not have been used in this process before.  If another worker is
    gone, this process is ended (see `watchdog`).

    Args:
      devices: This worker's devices, as for `strategies.create_strategy`.
      all_reduce: As for `strategies.create_strategy`.

    Raises:
      UsageError: The job or the devices are not valid.
    """
    found = cluster.find()
    if found is None:
        yield Workers()
        return
    global _joined
    _joined = found
    _log.info(
        "worker %d of %d (%s) at %s: waiting for the others",
        found.index,
        len(found.addresses),
        found.origin,
        found.addresses[found.index],
    )
    grpc_proxy.ignore_http_proxy()
    with (
        # While it waits for the others, no handler of Python runs.
        preemption.ended_by_hangup(),
        watchdog.watch_start(found.addresses, found.index),
    ):
        strategy = _start_worker(found, devices, all_reduce)
    preemption.keep()
    guard = watchdog.PortWatch(found.addresses, found.index)
    workers = Workers(strategy, found)
    try:
        yield workers
    except _lost_worker_errors() as error:
        # An operation fails when another worker has ended; the guard names that worker.
        guard.wait_for_verdict()
        raise errors.WorkerLostError(
            "the workers have lost one another"
            f" ({errors.one_line(error.message)}); the same command on"
            " all workers continues from the last checkpoint"
        ) from error
    except errors.AfadError:  # As a rule, all workers raise the same one.
        _leave_job(guard, workers, found)
        raise
    else:
        _leave_job(guard, workers, found)
    finally:
        guard.stop()


def _start_worker(found: cluster.Cluster, devices: str, all_reduce: str) -> Any:
    """Starts this worker of a job, and the strategy of all of its workers."""
    try:
        return strategies.create_worker_strategy(found, devices, all_reduce=all_reduce)
    except tf.errors.OpError as error:
        raise errors.UsageError(
            f"cannot start worker {found.index} at {found.addresses[found.index]}"
            f" ({errors.one_line(error.message)}): choose a port that is free on this"
            " machine"
        ) from error


def _leave_job(
    guard: watchdog.PortWatch, workers: Workers, found: cluster.Cluster
) -> None:
    """Leaves the job when all workers have received what this one sent.

    If a worker ended at once, data that it has just sent could be lost.  Therefore all
    workers meet once more: after that, each has received everything that the others
    sent before the meeting.  It does not matter if the meeting itself fails.
    """
    guard.stop()

    def part() -> None:
        """Meets the workers that are still there."""
        with contextlib.suppress(*_lost_worker_errors(), tf.errors.InternalError):
            workers.meet()

    # This runs in a thread, because meeting a worker that is gone never returns.
    parting = threading.Thread(target=part, daemon=True)
    parting.start()
    parting.join(_LEAVE_SECS)
    if found.is_chief:
        guard.wait_for_ends(_LEAVE_SECS)


def _lost_worker_errors() -> tuple[type[Any], ...]:
    """The exceptions that TensorFlow raises when a worker is gone."""
    raised = tf.errors
    return (
        raised.UnavailableError,
        raised.AbortedError,
        raised.CancelledError,
        raised.DeadlineExceededError,
        raised.FailedPreconditionError,
    )
