"""The writer's longest stage: every image read, checked and stored, in parallel."""

from __future__ import annotations

import contextlib
import logging
import os

from afad_tfdata.common import errors, progress
from afad_tfdata.writing import (
    archive,
    beam_runner,
    plan,
    shard_writer,
    source,
    writer_pool,
)
from afad_tfdata.writing import config as write_config

_log = logging.getLogger(__name__)


def write(
    config: write_config.WriteConfig,
    listing: source.Listing,
    work_plan: plan.Plan,
    work_dir: str,
    lock_fd: int,
    workers: writer_pool.Workers,
) -> list[shard_writer.Payload] | None:
    """Writes the payloads that are missing.

    Args:
      config: Who writes, and which shards.
      listing: The source.
      work_plan: What goes where; saved in `work_dir`.
      work_dir: Where payloads lie.
      lock_fd: The writer's lock, which worker processes hold too.
      workers: Who writes, unless the config names another runner.

    Returns:
      The payloads of all shards, or None if the config asks for a range of them.

    Raises:
      UsageError: The range is wrong, another process is at the same shards, a worker
        could not go on, the disk is full.
    """
    tasks = _tasks(config, work_plan)
    found = {t.number: shard_writer.load_payload(work_dir, work_plan, t) for t in tasks}
    missing = [task for task in tasks if found[task.number] is None]
    with contextlib.ExitStack() as stack:
        if listing.parts and missing:
            # Held to the end: a second process would spool into the same files.
            for task in missing:
                path = os.path.join(work_dir, f"{task.name}.spool")
                stack.enter_context(shard_writer.locked(path))
            with progress.Progress(_images(missing), "reading the archive") as bar:
                archive.spool(listing, work_plan, missing, work_dir, bar.update)
        root = "" if listing.parts else listing.root
        if config.runner == "beam":
            options = config.beam_options
            beam_runner.run(root, missing, work_dir, beam_options=options)
        else:
            done = _images(tasks) - _images(missing)
            with progress.Progress(_images(tasks), "writing", initial=done) as bar:
                workers.run(
                    root,
                    work_plan,
                    missing,
                    work_dir,
                    lock_fd=lock_fd,
                    progress=bar.update,
                )
    if config.shard_range:
        _log.info(
            "shards %s of %d are written; when all are, run the same command without"
            " --shard_range",
            config.shard_range,
            len(work_plan.tasks),
        )
        return None
    return [found[task.number] or _written(work_dir, work_plan, task) for task in tasks]


def _tasks(
    config: write_config.WriteConfig, work_plan: plan.Plan
) -> tuple[plan.ShardTask, ...]:
    tasks = work_plan.tasks
    if not config.shard_range:
        return tasks
    first, last = map(int, config.shard_range.split(":"))
    if not first < last <= len(tasks):
        raise errors.UsageError(
            f"--shard_range={config.shard_range} must lie within 0:{len(tasks)}, the"
            " shards of this data set"
        )
    return tasks[first:last]


def _images(tasks: tuple[plan.ShardTask, ...] | list[plan.ShardTask]) -> int:
    return sum(task.last - task.first for task in tasks)


def _written(
    work_dir: str, work_plan: plan.Plan, task: plan.ShardTask
) -> shard_writer.Payload:
    """A payload of this run, which need not be read again to be trusted."""
    payload = shard_writer.load_payload(work_dir, work_plan, task, check=False)
    if payload is None:
        raise errors.DataError(
            f"the payload of {task.name} went away after it was written; run the same"
            " command again: it is written anew"
        )
    return payload
