"""Worker processes that write payloads; this side of the pipe."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from afad_tfdata.common import errors, resources
from afad_tfdata.writing import plan, shard_writer, writer_process

_log = logging.getLogger(__name__)


class Workers:
    """Processes that write payloads; a context that ends them.

    They start before there is anything to write, and import what they need while their
    parent lists the source.

    Args:
      count: Processes; with 1 or less, `run` works in this process.
    """

    def __init__(self, count: int) -> None:
        self._answers: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        try:
            for number in range(count if count > 1 else 0):
                self._workers.append(_Worker(number, self._answers))
        except OSError as error:
            self._stop()
            raise errors.UsageError(
                f"cannot start a writer process: {error.strerror}; fewer --num_workers"
                " need less"
            ) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

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
        """Writes the payloads of these shards; once for these workers.

        Args:
          root: Directory of the source.
          work_plan: Saved in `directory` already.
          tasks: Shards that are still to be written.
          directory: Where payloads go.
          lock_fd: The writer's lock. Workers hold it too, so that the next writer waits
            for those that outlive a killed one.
          progress: Called with numbers of images done.

        Raises:
          UsageError: A worker could not go on, or died.
        """
        if not self._workers or len(tasks) <= 1:
            for task in tasks:
                shard_writer.write_payload(root, work_plan, task, directory, progress)
            return
        # Handed out from the end: the largest first, so that all end at about one time.
        waiting = sorted(tasks, key=lambda task: task.last - task.first)
        by_number = {task.number: task for task in tasks}
        busy = 0
        # The disk takes shard by shard, while the next are made, and not all at the
        # end; not for HDF5, whose payloads never become the shard's file.
        flushes = work_plan.config["format"] == "tfrecord"
        flusher = concurrent.futures.ThreadPoolExecutor(1)
        try:
            for worker in self._workers:
                worker.open(root, directory, lock_fd)
                busy += worker.hand_out(waiting)
            while busy:
                number, answer = self._answers.get()
                worker = self._workers[number]
                if answer is None:
                    raise errors.UsageError(
                        f"a writer process ended with status {worker.wait()} before its"
                        f" shard was done ({worker.last_words()}); run the same"
                        " command: it continues, with fewer --num_workers it needs less"
                        " memory"
                    )
                if "error" in answer:
                    raise errors.UsageError(answer["error"])
                if "images" in answer:
                    progress(answer["images"])
                else:
                    busy += worker.hand_out(waiting) - 1
                    if flushes:
                        flusher.submit(_flush, by_number[answer["shard"]], directory)
        finally:
            flusher.shutdown(wait=False, cancel_futures=True)
            self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers = []


class _Worker:
    """One process: a socket as its standard input, pipes as its outputs."""

    def __init__(self, number: int, answers: queue.Queue) -> None:
        self._socket, theirs = socket.socketpair()
        self._said = ""  # Its last line on standard error.
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "afad_tfdata.writing.writer_process",
                    str(os.getpid()),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # numpy's library for matrices, which nothing here needs, starts a
                # thread for each core, and hangs where there is no memory for one.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                # A signal to the terminal's group reaches the parent, which ends its
                # workers.
                start_new_session=True,
            )
        finally:
            theirs.close()

        def listen() -> None:
            for line in self._process.stdout or ():
                answers.put((number, json.loads(line)))
            complaints.join(timeout=5)
            answers.put((number, None))

        def hear() -> None:
            for line in self._process.stderr or ():
                self._said = line

        complaints = threading.Thread(target=hear, daemon=True)
        complaints.start()
        threading.Thread(target=listen, daemon=True).start()

    def open(self, root: str, directory: str, lock_fd: int) -> None:
        """Says where to work, and shares the lock."""
        with contextlib.suppress(BrokenPipeError):  # Its listener says that it died.
            socket.send_fds(self._socket, [writer_process.LOCK], [lock_fd])
            self._say(json.dumps([root, directory]))

    def hand_out(self, waiting: list[plan.ShardTask]) -> int:
        """Gives it its next shard; 1 if there was one."""
        if not waiting:
            return 0
        try:
            self._say(str(waiting[-1].number))
        except BrokenPipeError:
            return 1  # It died; its listener says so in a moment.
        waiting.pop()
        return 1

    def wait(self) -> int:
        """Its exit status, when it ends."""
        return self._process.wait()

    def last_words(self) -> str:
        """What it said on standard error before it ended."""
        return errors.one_line(self._said) or "killed, or out of memory?"

    def stop(self) -> None:
        """Ends it; a shard that it is at is for the next run to write."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _say(self, line: str) -> None:
        self._socket.sendall(f"{line}\n".encode())


def _flush(task: plan.ShardTask, directory: str) -> None:
    with open(shard_writer.payload_path(directory, task), "rb") as f:
        os.fsync(f.fileno())


def default_workers() -> int:
    """One for each core that this process may use."""
    return resources.cores()
