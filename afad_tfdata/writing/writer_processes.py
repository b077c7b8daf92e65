"""Writer processes, which write payloads: the parent's pool and the process itself.

`WriterPool` is the parent's side, and `main` is what a writer process runs.  A process
gets the number of its parent and the descriptor of a socket, on which the parent
sends

1. the writer's lock, which the process keeps until it ends;
2. a line of JSON, ``[root, work_dir]``;
3. the numbers of shards, one a line.

It answers on the same socket with lines of JSON: ``{"images": n}`` while it works,
``{"shard": number}`` after each shard, and ``{"error": text}`` before it gives up.
Libraries may print what they like on its standard output.

It is a new process and not a fork, so that it loads only numpy and the library that
decodes, whatever its parent has loaded.  It ends when its parent ends.  The next run
writes the missing shards.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from afad_tfdata.common import child_process, errors
from afad_tfdata.writing import payloads, plan

# The number of a process and its answer, which is None after its last answer.
_Answers = queue.Queue[tuple[int, dict[str, Any] | None]]
# A file descriptor can only be sent together with at least one byte.
_LOCK_BYTE = b"L"
_LAST_WORDS_SECS = 5.0
# How much of a process's output is kept; an error quotes its last line.
_LAST_BYTES = 4096
_LOOK_EVERY_SECS = 10.0


class WriterPool:
    """Processes that write payloads, until `stop`.

    They start early, so that they import their libraries while their parent lists the
    source.

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
        except (OSError, RuntimeError) as error:  # Threads raise RuntimeError.
            self.stop()
            reason = getattr(error, "strerror", None) or errors.one_line(error)
            raise errors.UsageError(
                f"cannot start a writer process: {reason}; fewer --num_workers need"
                " less, and --num_workers=1 starts none"
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
        """Writes the payloads of these shards in the processes, and ends them.

        Args:
          root: Directory of the source; empty for an archive, whose images are spooled.
          work_plan: Saved in `directory` already.
          tasks: Shards that are still to be written.
          directory: Where payloads are stored.
          lock_fd: The writer's lock.  The processes share it, so that the next writer
            waits until all processes of a killed writer have ended.
          progress: Called with numbers of images done.

        Raises:
          UsageError: A process could not finish its shard, or died.
        """
        if not self._processes or len(tasks) <= 1:
            for task in tasks:
                payloads.write(root, work_plan, task, directory, progress)
            return
        # Each payload goes to the disk while the next payloads are made, instead of all
        # at the end.  HDF5 does not need this: its payloads never become shard files.
        flush = work_plan.config.format == "tfrecord"
        by_number = {task.number: task for task in tasks}
        with _PayloadFlusher() as flusher:
            try:
                for process in self._processes:
                    process.open(root, directory, lock_fd)
                for number in self._work(tasks, progress):
                    if flush:
                        flusher.submit(payloads.path(directory, by_number[number]))
            finally:
                self.stop()

    def stop(self) -> None:
        """Ends the writer processes.  The next run writes their unfinished shards."""
        for process in self._processes:
            process.stop()
        self._processes = []

    def _work(
        self, tasks: Sequence[plan.ShardTask], progress: Callable[[int], None]
    ) -> Iterator[int]:
        """Hands shards out to the processes; yields the number of each written one."""
        # `hand_out` takes the last and thus largest shard first, so that all processes
        # end at about the same time.
        waiting = sorted(tasks, key=lambda task: task.num_images)
        busy = sum(process.hand_out(waiting) for process in self._processes)
        while busy:
            try:
                number, answer = self._answers.get(timeout=_LOOK_EVERY_SECS)
            except queue.Empty:
                # If a listener thread has ended, no answer will come from it.
                deaf = [p for p in self._processes if not p.is_heard()]
                if not deaf:
                    continue
                number, answer = self._processes.index(deaf[0]), None
                deaf[0].kill()
            process = self._processes[number]
            if answer is None:
                raise errors.UsageError(
                    f"a writer process ended with status {process.wait()} before its"
                    f" shard was done ({process.last_words()}); run the same command:"
                    " it continues; with fewer --num_workers it needs less memory"
                )
            if "error" in answer:
                raise errors.UsageError(answer["error"])
            if "images" in answer:
                progress(answer["images"])
            else:
                busy += process.hand_out(waiting) - 1
                yield answer["shard"]


# A detector of faces loads TensorFlow in each process, which would start a thread for
# each core and take all memory of a GPU.
_TENSORFLOW = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class _WriterProcess:
    """One process, with a socket to talk to it and a pipe for what it prints."""

    def __init__(self, number: int, answers: _Answers) -> None:
        self._number, self._answers = number, answers
        self._printed = b""  # The end of what it printed.
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                child_process.command(
                    f"{__name__}:main",
                    str(os.getpid()),
                    str(theirs.fileno()),
                ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Libraries print messages for people to either of them.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # numpy's matrix library is not needed here.  It starts a thread for
                # each core, and hangs if there is no memory for a thread.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **_TENSORFLOW},
                # A signal to the terminal's process group must reach only the parent,
                # which ends its processes in order.
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        # A thread empties the pipe, because a process that writes to a full pipe waits.
        self._print_reader = threading.Thread(target=self._read_printed, daemon=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        try:
            self._print_reader.start()
            self._listener.start()
        except RuntimeError:  # The system allows no more threads.
            self.stop()
            raise

    def open(self, root: str, directory: str, lock_fd: int) -> None:
        """Sends the directories to the process, and shares the lock with it."""
        # If the process has ended already, `_listen` reports that.
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._socket, [_LOCK_BYTE], [lock_fd])
            self._send(json.dumps([root, directory]))

    def hand_out(self, waiting: list[plan.ShardTask]) -> int:
        """Gives the process the last waiting shard; returns 1, or 0 if none waits."""
        if not waiting:
            return 0
        try:
            self._send(str(waiting[-1].number))
        except ConnectionError:
            return 1  # The process has ended; `_listen` will report that.
        waiting.pop()
        return 1

    def wait(self) -> int:
        """Waits for the end of the process; returns its exit status."""
        return self._process.wait()

    def is_heard(self) -> bool:
        """Whether the thread that reads its answers still runs."""
        return self._listener.is_alive()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def last_words(self) -> str:
        """The last line that the process printed before it ended."""
        lines = self._printed.decode(errors="replace").split("\n")
        spoken = [line for line in lines if line.strip()]
        return errors.one_line(spoken[-1]) if spoken else "killed, or out of memory?"

    def stop(self) -> None:
        """Kills the process.  The next run writes its unfinished shard."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, line: str) -> None:
        """Sends a line to the writer process."""
        self._socket.sendall(f"{line}\n".encode())

    def _listen(self) -> None:
        """Passes on the answers of the process, and reports its end in any case."""
        try:
            # A copy is read, because `stop` closes the socket in another thread.
            with self._socket.dup() as channel, channel.makefile("rb") as lines:
                for line in lines:
                    self._answers.put((self._number, json.loads(line)))
        except (OSError, ValueError):
            self._process.kill()  # No thread would read its answers any more.
        finally:
            # `last_words` needs the whole output when the end is reported.
            self._print_reader.join(timeout=_LAST_WORDS_SECS)
            self._answers.put((self._number, None))

    def _read_printed(self) -> None:
        """Keeps the end of the output as bytes, in any encoding."""
        pipe = self._process.stdout
        while pipe and (piece := os.read(pipe.fileno(), _LAST_BYTES)):
            self._printed = (self._printed + piece)[-_LAST_BYTES:]


class _PayloadFlusher:
    """A thread that makes payloads durable; the end of the context does not wait.

    Its errors are ignored, because `shard_writer.write` makes the shards durable again.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> _PayloadFlusher:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, path: str) -> None:
        """Makes a payload durable, some time later."""
        self._pool.submit(self._fsync, path)

    def _fsync(self, path: str) -> None:
        """Waits until the payload of a writer process is on the disk."""
        with open(path, "rb") as f:
            os.fsync(f.fileno())


def main(argv: list[str]) -> int:
    """Runs a writer process, until its input ends; returns its exit status."""
    parent, descriptor = map(int, argv)
    payloads.prepare()
    channel = socket.socket(fileno=descriptor)
    # The received descriptor stays open until this process ends, and keeps the lock.
    if socket.recv_fds(channel, len(_LOCK_BYTE), 1)[0] != _LOCK_BYTE:
        return 0  # There was nothing to write.
    lines = channel.makefile()
    root, directory = json.loads(lines.readline())
    work_plan = plan.load(directory)

    def send(**value: Any) -> None:
        """Sends an answer of the writer process to its parent."""
        # If the parent was killed, this process has another parent.
        if os.getppid() != parent:
            os._exit(1)
        try:
            channel.sendall(f"{json.dumps(value)}\n".encode())
        except OSError:  # The parent has ended, or has closed the socket.
            os._exit(1)

    for line in lines:
        send(images=0)
        task = work_plan.tasks[int(line)]
        try:
            payloads.write(
                root, work_plan, task, directory, lambda count: send(images=count)
            )
        except errors.AfadError as error:
            send(error=str(error))
            return error.exit_status
        except MemoryError:
            send(error=f"a writer process ran out of memory in {task.name}")
            return 1
        except Exception as error:  # A library cannot be loaded, for example.
            reason = errors.one_line(repr(error))
            send(error=f"a writer process failed in {task.name}: {reason}")
            return 1
        send(shard=task.number)
    return 0
