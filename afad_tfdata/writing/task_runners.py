"""What runs the tasks that write payloads: processes of this machine, or Apache Beam.

Both call `payloads.write` for each shard, so the bytes are the same.  With Beam, which
includes Dataflow, Flink and Spark, all processes of Beam must reach the file system of
the source and of the output.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from typing import Any, Protocol

from afad_tfdata.common import errors, lazy_imports, progress
from afad_tfdata.writing import archive_spools, payloads, plan, source, writer_processes

NAMES = ("local", "beam")


class Runner(Protocol):
    """Runs shard tasks once; a context manager that ends the processes it started."""

    def __enter__(self) -> Runner:
        """Returns itself."""

    def __exit__(self, *exception: object) -> None:
        """Ends the processes that are left."""

    def run(
        self,
        root: str,
        work_plan: plan.Plan,
        tasks: Sequence[plan.ShardTask],
        directory: str,
        *,
        lock_fd: int,
        num_done: int,
    ) -> None:
        """Runs these shard tasks: writes their payloads.

        Args:
          root: Directory of the source; empty for an archive, whose images are spooled.
          work_plan: Saved in `directory`.
          tasks: The shards.
          directory: The work directory.
          lock_fd: The writer's lock, which every process that writes must have.
          num_done: Number of images that an earlier run has written, for the progress.

        Raises:
          UsageError: The runner could not finish; the next run continues.
        """


class LocalRunner:
    """Runs tasks in processes of this machine, which it starts at once.

    Args:
      num_processes: With 1 the tasks run in this process.

    Raises:
      UsageError: A process could not be started.
    """

    def __init__(self, num_processes: int) -> None:
        self._pool = writer_processes.WriterPool(num_processes)

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.stop()

    def run(
        self,
        root: str,
        work_plan: plan.Plan,
        tasks: Sequence[plan.ShardTask],
        directory: str,
        *,
        lock_fd: int,
        num_done: int,
    ) -> None:
        """Runs these shard tasks in processes of this machine; see `Runner.run`."""
        total = num_done + plan.num_images(tasks)
        with progress.Progress(total, "writing", initial=num_done) as bar:
            self._pool.run(
                root,
                work_plan,
                tasks,
                directory,
                lock_fd=lock_fd,
                progress=bar.update,
            )


class BeamRunner:
    """Runs tasks on Apache Beam.

    Args:
      options: Options of the Beam pipeline, such as
        ``--runner=DirectRunner --direct_num_workers=2``.
    """

    def __init__(self, options: str) -> None:
        self._options = options

    def __enter__(self) -> BeamRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(
        self,
        root: str,
        work_plan: plan.Plan,
        tasks: Sequence[plan.ShardTask],
        directory: str,
        *,
        lock_fd: int,
        num_done: int,
    ) -> None:
        """Runs these shard tasks on Beam, whose processes have no lock."""
        del work_plan, lock_fd, num_done
        beam = lazy_imports.import_optional(
            "apache_beam", extra="beam", purpose="--runner=beam"
        )
        pipeline_options = lazy_imports.import_optional(
            "apache_beam.options.pipeline_options",
            extra="beam",
            purpose="--runner=beam",
        )
        if not tasks:
            return
        numbers = [task.number for task in tasks]
        write = _WriteShard(root, directory)
        try:
            options = pipeline_options.PipelineOptions(shlex.split(self._options))
            with beam.Pipeline(options=options) as pipeline:
                (
                    pipeline
                    | "shards" >> beam.Create(numbers)
                    # Without this, Beam may fuse the steps and write all shards in
                    # one process.
                    | "spread" >> beam.Reshuffle()
                    | "write" >> beam.Map(write)
                )
        except errors.AfadError:
            raise
        except Exception as error:  # Beam wraps the errors of its processes.
            raise errors.UsageError(
                f"Beam could not write the shards: {_beam_reason(error)}; run the same"
                " command again: it continues"
            ) from error


class _WriteShard:
    """Writes one shard's payload; picklable.  Each process loads the plan once."""

    def __init__(self, root: str, directory: str) -> None:
        self._root, self._directory = root, directory
        self._plan: plan.Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The plan is left out, because it has megabytes, and each process can map it.
        return {"_root": self._root, "_directory": self._directory, "_plan": None}

    def __call__(self, number: int) -> int:
        if self._plan is None:
            self._plan = plan.load(self._directory)
        task = self._plan.tasks[number]
        payloads.write(
            self._root, self._plan, task, self._directory, lambda count: None
        )
        return number


def _beam_reason(error: Exception) -> str:
    """The text of this package's own error inside Beam's, if there is one."""
    text = str(error)
    for line in text.splitlines():
        if "errors.UsageError:" in line:
            return line.split("errors.UsageError:")[1].strip()
    return errors.one_line(text)


def start(name: str, *, num_processes: int, beam_options: str) -> Runner:
    """Starts the runner that ``--runner`` names.

    Args:
      name: One of `NAMES`.
      num_processes: Number of processes of the local runner.
      beam_options: Options of the Beam runner.

    Raises:
      UsageError: A process could not be started.
    """
    if name == "beam":
        return BeamRunner(beam_options)
    return LocalRunner(num_processes)


def run_tasks(
    runner: Runner,
    listing: source.Listing,
    work_plan: plan.Plan,
    tasks: Sequence[plan.ShardTask],
    work_dir: str,
    *,
    lock_fd: int,
) -> list[payloads.Payload]:
    """Runs the tasks of shards whose payloads are missing or damaged.

    Args:
      runner: Runs the tasks.
      listing: The source.
      work_plan: The plan; saved in `work_dir`.
      tasks: The shards to write.
      work_dir: Directory of the payloads.
      lock_fd: The writer's lock.

    Returns:
      The payloads of `tasks`.

    Raises:
      UsageError: Another process is writing the same shards, a process could not
        finish, or the disk is full.
    """
    found = {task.number: payloads.load(work_dir, work_plan, task) for task in tasks}
    missing = [task for task in tasks if found[task.number] is None]
    with contextlib.ExitStack() as stack:
        if listing.parts and missing:
            # The spools stay locked until everything is written.  A second process
            # would otherwise write into the same files.
            for task in missing:
                stack.enter_context(
                    payloads.locked(archive_spools.path_of(work_dir, task))
                )
            with progress.Progress(
                plan.num_images(missing), "reading the archive"
            ) as bar:
                archive_spools.copy_images(
                    listing, work_plan, missing, work_dir, bar.update
                )
        runner.run(
            "" if listing.parts else listing.root,
            work_plan,
            missing,
            work_dir,
            lock_fd=lock_fd,
            num_done=plan.num_images(tasks) - plan.num_images(missing),
        )
    return [
        found[task.number] or _payload_just_written(work_dir, work_plan, task)
        for task in tasks
    ]


def _payload_just_written(
    work_dir: str, work_plan: plan.Plan, task: plan.ShardTask
) -> payloads.Payload:
    """A payload that a runner has just written; its digest is not checked."""
    payload = payloads.load(work_dir, work_plan, task, check=False)
    if payload is None:
        raise errors.DataError(
            f"the payload of {task.name} disappeared after it was written; run the same"
            " command again: it is written anew"
        )
    return payload
