"""Processes that write payloads, seen from their parent."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.writing import payloads, plan, writer_process

# The number of a process, and its answer; None after its last one.
_Answers = queue.Queue[tuple[int, dict[str, Any] | None]]
_LAST_WORDS_SECS = 5.0


class WriterPool:
    """Processes that write payloads, until `stop`.

    They start before there is anything to write, so that they import what they need
    while their parent lists the source.

    Args:
      count: Number of processes; with 1 or less, `run` works in this process.

    Raises:
      UsageError: A process cannot be started.
    """

    def __init__(self, count: int) -> None:
        self._answers: _Answers = queue.Queue()
        self._processes: list[_WriterProcess] = []
        try:
            for number in range(count if count > 1 else 0):
                self._processes.append(_WriterProcess(number, self._answers))
        except (OSError, RuntimeError) as error:  # The latter for threads.
            self.stop()
            reason = getattr(error, "strerror", None) or errors.one_line(error)
            raise errors.UsageError(
                f"cannot start a writer process: {reason}; fewer --num_workers need"
                " less"
            ) from error

    def run(
        self,
        root: str,
        work_plan: plan.Plan,
        tasks: Sequence[plan.ShardTask],
        directory: str,
        *,
        lock_fd: int,
        progress: Callable[[int], None],
    ) -> None:
        """Writes the payloads of these shards, and ends the processes.

        Args:
          root: Directory of the source; empty for an archive, whose images are spooled.
          work_plan: Saved in `directory` already.
          tasks: Shards that are still to be written.
          directory: Where payloads are stored.
          lock_fd: The writer's lock. The processes hold it too, so that the next
            writer waits for those that outlive a killed one.
          progress: Called with numbers of images done.

        Raises:
          UsageError: A process could not finish its shard, or died.
        """
        if not self._processes or len(tasks) <= 1:
            for task in tasks:
                payloads.write(root, work_plan, task, directory, progress)
            return
        # The disk writes shard by shard while the next ones are made, instead of
        # everything at the end; not for HDF5, whose payloads never become shard files.
        flush = work_plan.config.format == "tfrecord"
        by_number = {task.number: task for task in tasks}
        with _Flusher() as flusher:
            try:
                for process in self._processes:
                    process.open(root, directory, lock_fd)
                for number in self._work(tasks, progress):
                    if flush:
                        flusher.submit(payloads.path(directory, by_number[number]))
            finally:
                self.stop()

    def stop(self) -> None:
        """Ends the processes; the next run writes the shards they were at."""
        for process in self._processes:
            process.stop()
        self._processes = []

    def _work(
        self, tasks: Sequence[plan.ShardTask], progress: Callable[[int], None]
    ) -> Iterator[int]:
        """Hands out the shards; yields the number of each when it is written."""
        # Handed out from the end: the largest first, so that all processes end at
        # about the same time.
        waiting = sorted(tasks, key=lambda task: task.num_images)
        busy = sum(process.hand_out(waiting) for process in self._processes)
        while busy:
            number, answer = self._answers.get()
            process = self._processes[number]
            if answer is None:
                raise errors.UsageError(
                    f"a writer process ended with status {process.wait()} before its"
                    f" shard was done ({process.last_words()}); run the same command:"
                    " it continues, with fewer --num_workers it needs less memory"
                )
            if "error" in answer:
                raise errors.UsageError(answer["error"])
            if "images" in answer:
                progress(answer["images"])
            else:
                busy += process.hand_out(waiting) - 1
                yield answer["shard"]


class _WriterProcess:
    """One process: a socket as its standard input, pipes as its outputs."""

    def __init__(self, number: int, answers: _Answers) -> None:
        self._number, self._answers = number, answers
        self._last_line = ""  # On its standard error.
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", writer_process.__name__, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # numpy's matrix library, which nothing here needs, starts a thread for
                # each core, and hangs if there is no memory for one.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                # A signal to the terminal's process group reaches the parent only,
                # which ends its processes in order.
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        # A thread for each pipe: a process that waits for a full one would never end.
        self._error_reader = threading.Thread(target=self._read_errors, daemon=True)
        try:
            self._error_reader.start()
            threading.Thread(target=self._read_answers, daemon=True).start()
        except RuntimeError:  # No more threads.
            self.stop()
            raise

    def open(self, root: str, directory: str, lock_fd: int) -> None:
        """Tells it where to work, and shares the lock with it."""
        # If it is dead already, `_read_answers` reports that.
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._socket, [writer_process.LOCK_BYTE], [lock_fd])
            self._send(json.dumps([root, directory]))

    def hand_out(self, waiting: list[plan.ShardTask]) -> int:
        """Gives it the last of the waiting shards; returns 1 if there was one."""
        if not waiting:
            return 0
        try:
            self._send(str(waiting[-1].number))
        except BrokenPipeError:
            return 1  # It died; `_read_answers` reports that in a moment.
        waiting.pop()
        return 1

    def wait(self) -> int:
        """Its exit status, when it ends."""
        return self._process.wait()

    def last_words(self) -> str:
        """What it wrote to standard error before it ended."""
        return errors.one_line(self._last_line) or "killed, or out of memory?"

    def stop(self) -> None:
        """Kills it; the next run writes the shard it was at."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())

    def _read_answers(self) -> None:
        for line in self._process.stdout or ():
            try:
                answer = json.loads(line)
            except ValueError:
                continue  # A library printed it.
            self._answers.put((self._number, answer))
        # So that `last_words` has them when the end is reported.
        self._error_reader.join(timeout=_LAST_WORDS_SECS)
        self._answers.put((self._number, None))

    def _read_errors(self) -> None:
        for line in self._process.stderr or ():
            self._last_line = line


class _Flusher:
    """A thread that makes files durable; a context that does not wait for it.

    Its errors do not count: `shard_writer.write` waits for the disk again.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> _Flusher:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, path: str) -> None:
        """Makes a file durable, some time later."""
        self._pool.submit(_fsync, path)


def _fsync(path: str) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())
