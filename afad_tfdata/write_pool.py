"""Worker processes that write payloads; this side of the pipe."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from afad_tfdata import errors, plan, shard_writer

_log = logging.getLogger(__name__)


def run(
    root: str,
    work_plan: plan.Plan,
    tasks: Sequence[plan.ShardTask],
    directory: str,
    *,
    num_workers: int,
    lock_fd: int,
    progress: Callable[[int], None],
) -> None:
    """Writes the payloads of these shards.

    Args:
      root: Directory of the source.
      work_plan: Saved in `directory` already.
      tasks: Shards that are still to be written.
      directory: Where payloads go.
      num_workers: Processes; 1 works in this process.
      lock_fd: The writer's lock. Workers hold it too, so that the next writer waits for
        those that outlive a killed one.
      progress: Called with numbers of images done.

    Raises:
      UsageError: A worker could not go on, or died.
    """
    if num_workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            shard_writer.write_payload(root, work_plan, task, directory, progress)
        return
    answers: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    # What workers say on their standard error; the last line says why one ended.
    said: list[list[str]] = [[] for _ in range(min(num_workers, len(tasks)))]
    workers = [
        _start(root, directory, number, answers, said[number], lock_fd)
        for number in range(min(num_workers, len(tasks)))
    ]
    # Handed out from the end: the largest first, so that all end at about one time.
    waiting = sorted(tasks, key=lambda task: task.last - task.first)
    by_number = {task.number: task for task in tasks}
    busy = 0
    # The disk takes shard by shard, while the next are made, and not all at the end;
    # not for HDF5, whose payloads never become the shard's file.
    flushes = work_plan.config["format"] == "tfrecord"
    flusher = concurrent.futures.ThreadPoolExecutor(1)
    try:
        for worker in workers:
            busy += _hand_out(worker, waiting)
        while busy:
            number, answer = answers.get()
            if answer is None:
                status = workers[number].wait()
                why = "".join(said[number]) or "killed, or out of memory?"
                raise errors.UsageError(
                    f"a writer process ended with status {status} before its shard was"
                    f" done ({errors.one_line(why)}); run the same command: it"
                    " continues, with fewer --num_workers it needs less memory"
                )
            if "error" in answer:
                raise errors.UsageError(answer["error"])
            if "images" in answer:
                progress(answer["images"])
            else:
                busy += _hand_out(workers[number], waiting) - 1
                if flushes:
                    flusher.submit(_flush, by_number[answer["shard"]], directory)
    finally:
        flusher.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            _stop(worker)


def _flush(task: plan.ShardTask, directory: str) -> None:
    with open(shard_writer.payload_path(directory, task), "rb") as f:
        os.fsync(f.fileno())


def default_workers() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0))


def _start(
    root: str,
    directory: str,
    number: int,
    answers: queue.Queue,
    said: list[str],
    lock_fd: int,
) -> subprocess.Popen[str]:
    pid = str(os.getpid())
    worker = subprocess.Popen(
        [sys.executable, "-m", "afad_tfdata.write_worker", root, directory, pid],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A signal to the terminal's group reaches the parent, which ends its workers.
        start_new_session=True,
        pass_fds=(lock_fd,),
    )

    def listen() -> None:
        output = worker.stdout
        if output is not None:
            for line in output:
                answers.put((number, json.loads(line)))
        complaints.join(timeout=5)
        answers.put((number, None))

    def hear() -> None:
        if worker.stderr is not None:
            for line in worker.stderr:
                said[-1:] = [line.strip()]

    complaints = threading.Thread(target=hear, daemon=True)
    complaints.start()
    threading.Thread(target=listen, daemon=True).start()
    return worker


def _hand_out(worker: subprocess.Popen[str], waiting: list[plan.ShardTask]) -> int:
    """Gives a worker its next shard; 1 if there was one."""
    if not waiting or worker.stdin is None:
        return 0
    try:
        worker.stdin.write(f"{waiting[-1].number}\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return 1  # It died; its listener says so in a moment.
    waiting.pop()
    return 1


def _stop(worker: subprocess.Popen[str]) -> None:
    """Ends a worker that waits for shards at once, and a busy one by force."""
    if worker.stdin is not None:
        try:
            worker.stdin.close()
        except BrokenPipeError:
            pass
    try:
        worker.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
