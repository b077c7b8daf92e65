"""What an earlier run of the writer left: a data set, a plan, a lock, a mess."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from afad_tfdata.common import errors, files, locks
from afad_tfdata.storage import schema
from afad_tfdata.writing import plan

WORK_NAME = ".work"
LOCK_SECS = 5.0


def finished(output_dir: str, work_plan: plan.Plan) -> schema.Manifest | None:
    """The finished data set that lies there, if it is the one that is asked for."""
    if not os.path.exists(os.path.join(output_dir, schema.MANIFEST_NAME)):
        return None
    manifest = schema.load_manifest(output_dir)
    refuse_other(output_dir, manifest.config, work_plan.config, "a finished data set")
    for split in manifest.splits.values():
        for part in (*split.shards, split.index):
            path = os.path.join(output_dir, part.name)
            if not os.path.exists(path) or os.path.getsize(path) != part.num_bytes:
                raise errors.DataError(
                    f"{output_dir} has a manifest, but {part.name} is missing or of"
                    " another size: remove the directory and write it again"
                )
    remove_work(os.path.join(output_dir, WORK_NAME))
    return manifest


def keep_plan(work_plan: plan.Plan, work_dir: str) -> None:
    """Saves the plan, or checks that the one that lies there is the same.

    Raises:
      UsageError: It is another one.
    """
    stored = plan.stored_config(work_dir)
    if stored is not None:
        # What went through JSON once compares equal to what did.
        wanted = json.loads(json.dumps(work_plan.config))
        directory = os.path.dirname(work_dir)
        refuse_other(directory, stored, wanted, "an unfinished data set")
    # Workers believe what lies there: a crash or a bad disk may have changed it.
    if stored is None or not plan.is_saved(work_plan, work_dir):
        plan.save(work_plan, work_dir)


@contextlib.contextmanager
def lock(work_dir: str, *, shared: bool) -> Iterator[int]:
    """Keeps a second writer out; writers of shard ranges share the directory.

    Yields the lock's file descriptor.  A killed writer's processes hold it for a moment
    longer, hence the patience.
    """
    try:
        held = locks.FileLock(
            os.path.join(work_dir, "lock"), shared=shared, wait_secs=LOCK_SECS
        )
    except BlockingIOError as error:
        raise errors.UsageError(
            f"another writer is at work in {os.path.dirname(work_dir)}: wait for it"
            " or end it; what it has written is kept"
        ) from error
    with held:
        files.remove_temporary(os.path.dirname(work_dir))
        yield held.descriptor


def remove_work(work_dir: str) -> None:
    """Removes what a finished data set no longer needs, the plan and lock last."""
    last = ("plan.json", "lock")
    try:
        for name in os.listdir(work_dir):
            if name not in last:
                files.remove_if_there(os.path.join(work_dir, name))
        for name in last:
            files.remove_if_there(os.path.join(work_dir, name))
        os.rmdir(work_dir)
    except OSError:
        pass  # Another process is looking at it; the next run removes the rest.


def refuse_other(
    directory: str, stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    """Raises `UsageError` where two configurations differ, naming the fields."""
    names = sorted({*stored, *wanted})
    differing = [n for n in names if stored.get(n) != wanted.get(n)]
    if differing:
        hint = "the source's files" if differing == ["source_sha256"] else ""
        raise errors.UsageError(
            f"{directory} holds {what} of another configuration; it differs in"
            f" {hint or ', '.join(differing)}: take another --output_dir, or remove it"
        )
