"""Spools: the images of an archive in one file for each shard.

An archive is read twice: first for the names and sizes, from which the plan is made,
then for the images.  The images come in the archive's order but are needed in the
plan's order, so each is appended to the spool of its shard.  A spool is removed as soon
as the shard's payload is written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.images import codec
from afad_tfdata.writing import archive_members, plan, source

# Bytes of images that are collected in memory before they are appended to the spools.
_WAITING_BYTES = 64 << 20


def copy_images(
    listing: source.Listing,
    work_plan: plan.Plan,
    tasks: Sequence[plan.ShardTask],
    directory: str,
    progress: Callable[[int], None],
) -> None:
    """Copies the images of these shards from the archive into a spool for each shard.

    Args:
      listing: From `archive_members.scan`.
      work_plan: Says which image belongs to which shard.
      tasks: Shards that are still to be written.
      directory: Directory of the spools.
      progress: Called with numbers of images read.

    Raises:
      DataError: The archive is damaged, or was changed since the scan.
      UsageError: The disk is full.
    """
    places = {
        work_plan.key(row): (number, row - task.first)
        for number, task in enumerate(tasks)
        for row in range(task.first, task.last)
    }
    # Each row has the offset of an image in the spool, -1 if it is too large, and its
    # length.
    tables = [np.zeros((task.num_images, 2), np.int64) for task in tasks]
    paths = [path_of(directory, task) for task in tasks]
    ends = [0] * len(tasks)
    # The images are collected in memory and appended to one file after the other,
    # because there may be more shards than file descriptors.
    waiting: list[list[bytes]] = [[] for _ in tasks]
    for path in paths:
        files.remove_if_there(path)
    waiting_bytes = 0
    for member, content in archive_members.members(listing.parts):
        name = member.name.removeprefix(listing.prefix)
        # A link of the same name is not the file that was listed.
        listed = member.is_file and member.name.startswith(listing.prefix)
        place = places.pop(os.fsencode(name), None) if listed else None
        if place is None:
            continue
        number, row = place
        if member.size > work_plan.config.images.max_file_bytes:
            tables[number][row] = -1, member.size  # Not read: it is too large.
            continue
        data = content()
        tables[number][row] = ends[number], len(data)
        ends[number] += len(data)
        waiting[number].append(data)
        waiting_bytes += len(data)
        progress(1)
        if waiting_bytes > _WAITING_BYTES:
            _append_waiting(paths, waiting)
            waiting_bytes = 0
    _append_waiting(paths, waiting)
    if places:
        raise errors.DataError(
            f"the archive {listing.parts[0]} was changed while it was read:"
            f" {len(places)} images are missing, the first {os.fsdecode(min(places))};"
            " run the same command again"
        )
    # The tables are written last: a spool without a table is incomplete.
    for task, table in zip(tasks, tables, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, table)
        files.write_atomic(f"{path_of(directory, task)}.npy", buffer.getvalue())


def reader(
    directory: str, task: plan.ShardTask, max_file_bytes: int
) -> Callable[[int, bytes], bytes]:
    """A function that reads the archive's images of a shard from its spool.

    Returns:
      A function from a row of the plan and its key to the file's bytes.  It raises
      `codec.ImageError` for a file that was too large to be spooled.

    Raises:
      UsageError: The spool is missing or damaged.
    """
    path = path_of(directory, task)
    try:
        table = np.load(f"{path}.npy")
        # An empty file cannot be mapped.
        empty = not (table[:, 0] >= 0).any() or not os.path.getsize(path)
        content = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise errors.UsageError(
            f"the spool {path} is missing or damaged ({errors.one_line(error)}): is"
            " another process writing the same shards? Run the same command again"
        ) from error

    def read(row: int, key: bytes) -> bytes:
        """The bytes of an image in the spool."""
        del key
        start, length = table[row - task.first].tolist()
        if start < 0:
            raise codec.too_large(length, max_file_bytes)
        return content[start : start + length].tobytes()

    return read


def remove(directory: str, task: plan.ShardTask) -> None:
    """Removes the spool of a shard, if there is one."""
    path = path_of(directory, task)
    files.remove_if_there(f"{path}.npy")
    files.remove_if_there(path)


def path_of(directory: str, task: plan.ShardTask) -> str:
    """Path of the spool, which collects the archive's images of a shard."""
    return os.path.join(directory, f"{task.name}.spool")


def _append_waiting(paths: Sequence[str], waiting: list[list[bytes]]) -> None:
    """Appends to each spool the images that wait for it, and empties the lists."""
    for path, pieces in zip(paths, waiting, strict=True):
        try:
            with open(path, "ab") as f:
                f.write(b"".join(pieces))
        except OSError as error:
            raise files.write_error(path, error) from error
        pieces.clear()
