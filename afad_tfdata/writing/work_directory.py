"""The work directory: the plan and the lock of a data set that is being written.

It is ``.work`` in the data set's directory.  A run that finds it continues there, if
its own plan is the same.  A finished data set has no work directory.
"""

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
# The processes of a killed writer keep the lock for a moment after the writer ended.
LOCK_SECS = 5.0
LOCK_NAME = "lock"


def finished_manifest(output_dir: str, work_plan: plan.Plan) -> schema.Manifest | None:
    """The manifest if the data set is finished; its work directory is then removed.

    Raises:
      UsageError: The directory has a finished data set of another configuration.
      DataError: Its manifest is damaged, or a file is missing.
    """
    if not os.path.exists(os.path.join(output_dir, schema.MANIFEST_NAME)):
        return None
    manifest = schema.load_manifest(output_dir)
    refuse_other_config(output_dir, manifest.config, work_plan, "a finished data set")
    for split in manifest.splits.values():
        for part in (*split.shards, split.index):
            path = os.path.join(output_dir, part.name)
            if not os.path.exists(path) or os.path.getsize(path) != part.num_bytes:
                raise errors.DataError(
                    f"{output_dir} has a manifest, but {part.name} is missing or of"
                    " another size: remove the directory and write it again"
                )
    # The writer may have been killed after it wrote the manifest and before this line.
    remove_work(os.path.join(output_dir, WORK_NAME))
    return manifest


def keep_plan(work_plan: plan.Plan, work_dir: str) -> bool:
    """Saves the plan in the work directory, or checks that the saved plan is the same.

    Returns:
      Whether no plan was saved there before.

    Raises:
      UsageError: The saved plan is of another configuration.
    """
    stored = plan.stored_json(work_dir)
    if stored is not None:
        directory = os.path.dirname(work_dir)
        refuse_other_config(directory, stored, work_plan, "an unfinished data set")
    # Every byte is compared, because a crash or a bad disk may have changed these
    # files, and writer processes do not check them.
    if stored is None or not plan.is_saved(work_plan, work_dir):
        plan.save(work_plan, work_dir)
    return stored is None


@contextlib.contextmanager
def lock(work_dir: str, *, shared: bool) -> Iterator[int]:
    """Keeps a second writer out of the work directory.

    Args:
      work_dir: Work directory; it is created.
      shared: Whether other writers with ``shared`` may work there at the same time.
        Writers of different shard ranges set it.

    Yields:
      The lock's file descriptor, for processes that must have the lock as well.

    Raises:
      UsageError: Another writer has the lock for longer than `LOCK_SECS`.
    """
    try:
        file_lock = locks.FileLock(
            os.path.join(work_dir, LOCK_NAME), shared=shared, wait_secs=LOCK_SECS
        )
    except BlockingIOError as error:
        raise errors.UsageError(
            f"another writer is at work in {os.path.dirname(work_dir)}: wait for it"
            " or end it; what it has written is kept"
        ) from error
    with file_lock:
        # A killed writer may have left temporary files.  No other writer is at work
        # here, so that they can be removed.
        files.remove_temporary(os.path.dirname(work_dir))
        yield file_lock.descriptor


def remove_work(work_dir: str) -> None:
    """Removes the work directory of a finished data set, plan and lock last.

    While the lock exists, a second writer waits.  While the plan exists, a writer that
    continues can check that the other files belong to its data set.
    """
    last = (plan.CONFIG_NAME, LOCK_NAME)
    try:
        for name in os.listdir(work_dir):
            if name not in last:
                files.remove_if_there(os.path.join(work_dir, name))
        for name in last:
            files.remove_if_there(os.path.join(work_dir, name))
        os.rmdir(work_dir)
    except OSError:
        pass  # Another process uses the directory.  The next run removes the rest.


def refuse_other_config(
    directory: str, stored: Mapping[str, Any], work_plan: plan.Plan, what: str
) -> None:
    """Refuses to continue in a directory whose data set has another configuration.

    Args:
      directory: The data set's directory, for the message.
      stored: `plan.Plan.to_json` of the data set in the directory.
      work_plan: The plan of this run.
      what: The state of the stored data set, for the message.

    Raises:
      UsageError: They differ; the message names the options.
    """
    # Converted through JSON like the stored values, because tuples become lists.
    own = json.loads(json.dumps(work_plan.to_json()))
    names = sorted({*stored, *own})
    differing = [name for name in names if stored.get(name) != own.get(name)]
    if differing:
        hint = "the source's files" if differing == ["source_sha256"] else ""
        raise errors.UsageError(
            f"{directory} contains {what} of another configuration; it differs in"
            f" {hint or ', '.join(differing)}: take another --output_dir, remove it, or"
            " replace it with --overwrite"
        )
