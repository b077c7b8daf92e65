"""Watches the ports of the other workers, and ends this process when one is gone.

TensorFlow's collective operations wait for every worker.  When one worker is killed,
the others often get an error, but not always.  During the start, or when a machine
loses power, they would wait for ever, in native code that no exception reaches.  A
thread therefore probes each worker's port every few seconds.  If a port that was open
refuses connections, its worker has ended.  While TensorFlow's servers start, no thread
of this process can run, and a second process watches instead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from afad_tfdata.common import child_process, errors, preemption

# A worker on a busy machine may miss one or two probes.  It counts as gone after this
# many failed probes in succession, this many seconds apart, each of which waits this
# many seconds for an answer.
_TRIES, _EVERY_SECS, _TRY_SECS = 3, 2.0, 5.0
# Workers start together in a batch system; 15 minutes allow for slow images and disks.
START_SECS = 900.0

_log = logging.getLogger(__name__)


class PortWatch:
    """A thread that probes the ports of the other workers until `stop`.

    Args:
      addresses: ``host:port`` of each worker.
      index: Which of them this process is.
      lost: Called in the thread with a message of one line.  It must not return.
      every_secs: Seconds between two rounds of probes.
      start_secs: Seconds within which every port must have been open once.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        index: int,
        lost: Callable[[str], None] | None = None,
        *,
        every_secs: float = _EVERY_SECS,
        start_secs: float = START_SECS,
    ) -> None:
        self._peers = {i: a for i, a in enumerate(addresses) if i != index}
        self._lost, self._every_secs = lost or end_lost_process, every_secs
        self._deadline = time.monotonic() + start_secs
        self._start_secs = start_secs
        self._seen: set[int] = set()
        self._failures = dict.fromkeys(self._peers, 0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    def wait_for_ends(self, secs: float) -> None:
        """Waits until the other workers have ended, at most for the given time."""
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline:
            if not any(_port_is_open(address) for address in self._peers.values()):
                return
            time.sleep(0.05)

    def wait_for_verdict(self) -> None:
        """Waits for as long as the thread needs to notice that a worker is gone."""
        if self._stopped.wait(_TRIES * (self._every_secs + _TRY_SECS)):
            time.sleep(_TRY_SECS)  # The thread is about to end this process.

    def _run(self) -> None:
        """Probes all workers until one is gone or the job ends."""
        while not self._stopped.wait(self._every_secs):
            for peer, address in self._peers.items():
                self._try(peer, address)
            missing = [p for p in self._peers if p not in self._seen]
            if missing and time.monotonic() > self._deadline:
                self._say(
                    f"{_workers_text(missing, self._peers)} did not start within"
                    f" {self._start_secs:.0f} s"
                )

    def _try(self, peer: int, address: str) -> None:
        """Probes the port of one worker."""
        if _port_is_open(address):
            self._seen.add(peer)
            self._failures[peer] = 0
        elif peer in self._seen:
            self._failures[peer] += 1
            if self._failures[peer] >= _TRIES:
                self._say(f"{_workers_text([peer], self._peers)} is gone")

    def _say(self, what: str) -> None:
        """Reports that a worker is gone, once."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._lost(
                f"{what}: its own log says why; the same command on all workers"
                " continues from the last checkpoint"
            )


@contextlib.contextmanager
def watch_start(addresses: Sequence[str], index: int) -> Iterator[None]:
    """Kills this process if a worker ends, or does not start, while the block runs.

    It prints a line on standard error and sends SIGKILL, because no Python code of this
    process can run in the meantime.

    Args:
      addresses: As for `PortWatch`.
      index: As for `PortWatch`.
    """
    watched = json.dumps([list(addresses), index, os.getpid()])
    child = subprocess.Popen(
        child_process.command(f"{__name__}:watch_parent", watched),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        child.kill()
        child.wait()


def watch_parent(arguments: Sequence[str]) -> int:
    """Watches the workers in a process of its own, which `watch_start` starts."""
    for number in preemption.SIGNALS:
        # Signals reach the whole group, and the parent handles them for both.
        signal.signal(number, signal.SIG_IGN)
    addresses, index, parent = json.loads(arguments[0])

    def lost(message: str) -> None:
        """Says which worker is gone, and kills the process that is watched."""
        # A terminal that was closed takes no text, and the process must still end.
        with contextlib.suppress(OSError):
            print(f"error: {message}", file=sys.stderr, flush=True)
        if os.getppid() == parent:
            os.kill(parent, signal.SIGKILL)

    PortWatch(addresses, index, lost)
    while os.getppid() == parent:
        time.sleep(0.2)
    return 0


def end_lost_process(message: str) -> None:
    """Ends this process, whose workers are lost, with a message and an exit status."""
    _log.error("error: %s", message)
    for stream in (sys.stdout, sys.stderr):
        # A program without a console has no streams.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # sys.exit is not used: the main thread is in native code, and would never see it.
    os._exit(errors.WorkerLostError.exit_status)


def _port_is_open(address: str) -> bool:
    """Whether the watched port of a worker answers."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TRY_SECS).close()
    except OSError:
        return False
    return True


def _workers_text(peers: Sequence[int], addresses: dict[int, str]) -> str:
    """The workers that are watched, with their addresses, as text."""
    return ", ".join(f"worker {peer} ({addresses[peer]})" for peer in peers)
