"""Writes one shard's file from its payload, without the images that were dropped."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from afad_tfdata.common import crc32, files
from afad_tfdata.storage import hdf5, schema
from afad_tfdata.writing import data_set_config, payloads, plan

_BLOCK_ROWS = 64  # Number of rows of an HDF5 shard that are in memory at a time.
_BUFFER_BYTES = 1 << 20  # Joins records, of a few kilobytes each, into large writes.


class Written(NamedTuple):
    """A shard that is in the data set's directory.

    Attributes:
      rows: Rows of the index, of `schema.INDEX_DTYPE`, with the offsets in the shard.
      shard: The manifest's description of the shard.
    """

    rows: np.ndarray
    shard: schema.Shard


def write_all(
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
    keep: Sequence[np.ndarray],
    *,
    work_dir: str,
    output_dir: str,
    num_threads: int,
) -> list[Written]:
    """Writes all shards, in threads: copying and hashing release Python's lock."""

    def write_one(
        task: plan.ShardTask, payload: payloads.Payload, kept: np.ndarray
    ) -> Written:
        """Writes one shard, in one of the threads."""
        return write(
            work_plan, task, payload, kept, work_dir=work_dir, output_dir=output_dir
        )

    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(write_one, work_plan.tasks, found, keep))


def write(
    work_plan: plan.Plan,
    task: plan.ShardTask,
    payload: payloads.Payload,
    keep: np.ndarray,
    *,
    work_dir: str,
    output_dir: str,
) -> Written:
    """Writes a shard from its payload.  The file gets its name only when it is whole.

    Args:
      work_plan: The plan that the payload belongs to.
      task: The shard.
      payload: From `payloads.load`.
      keep: bool ``[n]``: which records of the payload stay.
      work_dir: Directory of the payload's file.
      output_dir: The data set's directory.

    Raises:
      UsageError: The disk is full or cannot be written.
    """
    source = payloads.path(work_dir, task)
    kept = payload.index[keep]
    index = kept.copy()
    part = os.path.join(work_dir, f"{task.name}.part")
    hdf5_config = work_plan.config.hdf5
    unchanged = hdf5_config is None and bool(keep.all())
    try:
        files.remove_if_there(part)
        if hdf5_config is not None:
            numbers = payload.rows[keep].tolist()
            names = [work_plan.key(row) for row in numbers]
            groups = [work_plan.groups[row] for row in numbers if work_plan.groups]
            side = work_plan.config.images.size
            _write_hdf5_shard(
                *(source, part, kept, index, names, groups, side, hdf5_config)
            )
        elif unchanged:
            _link_or_copy_payload(source, part)
        else:
            _copy_kept_records(source, part, kept, index)
        # The content must reach the disk before the rename does.
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        size = os.path.getsize(part)
        digest = payload.digest if unchanged else files.sha256(part)
        os.replace(part, os.path.join(output_dir, task.name))
    except (OSError, RuntimeError) as error:  # h5py raises both for a full disk.
        files.remove_if_there(part)
        raise files.write_error(part, error) from error
    return Written(index, schema.Shard(task.name, len(index), size, digest))


def _link_or_copy_payload(source: str, part: str) -> None:
    """Gives the payload a second name, which becomes that of the shard.

    The payload itself stays until the manifest is written.  If the writer is killed
    before that, the next run needs the payload.
    """
    try:
        os.link(source, part)
    except OSError:  # Not every file system supports links.
        shutil.copyfile(source, part)


def _copy_kept_records(
    source: str, part: str, kept: np.ndarray, index: np.ndarray
) -> None:
    """Copies the kept records into the shard; `index` gets their new offsets."""
    offset = 0
    with open(source, "rb") as f, open(part, "wb", buffering=_BUFFER_BYTES) as out:
        for i, row in enumerate(kept):
            f.seek(int(row["record_offset"]))
            out.write(f.read(int(row["record_length"])))
            index[i]["record_offset"] = offset
            image_shift = int(row["image_offset"]) - int(row["record_offset"])
            index[i]["image_offset"] = offset + image_shift
            offset += int(row["record_length"])


def _write_hdf5_shard(
    source: str,
    part: str,
    kept: np.ndarray,
    index: np.ndarray,
    names: list[bytes],
    groups: list[bytes],
    side: int,
    config: data_set_config.Hdf5Config,
) -> None:
    """Writes the kept pixels as an HDF5 shard; `index` gets offsets and checksums.

    Args:
      source: The payload: uint8 ``[side, side, 3]`` for each image.
      part: The file to write.
      kept: Index rows of the payload that stay.
      index: The same rows, to be changed into those of the shard.
      names: Keys of the kept images.
      groups: Their groups; empty if the source has none.
      side: Pixels.
      config: How the shard stores them.
    """
    layout = hdf5.RowLayout(side, config.dtype, config.channels)
    with open(source, "rb") as f:
        offset = hdf5.write(
            part,
            _kept_pixel_blocks(f, kept, side),
            layout=layout,
            ages=kept["age"],
            genders=kept["gender"],
            filenames=names,
            groups=groups,
            compression=config.compression,
            labels=config.labels,
        )
        # The payload has the checksums of uint8 pixels with the channels last.
        if not layout.plain:
            rows = (
                row
                for block in _kept_pixel_blocks(f, kept, side)
                for row in layout.to_rows(block)
            )
            for position, row in enumerate(rows):
                index[position]["crc32"] = crc32.crc32(row)
    if config.compression == "none":
        stride = layout.num_bytes
        at = offset + np.arange(len(index), dtype=np.uint64) * np.uint64(stride)
        index["record_offset"] = index["image_offset"] = at
        index["record_length"] = index["image_length"] = stride
    else:  # The pixels of a compressed row are not in the file as they are.
        index["record_offset"] = index["image_offset"] = 0
        index["record_length"] = index["image_length"] = 0


def _kept_pixel_blocks(
    f: BinaryIO, kept: np.ndarray, side: int
) -> Iterator[np.ndarray]:
    """Yields the kept images of a payload: uint8 ``[up to 64, side, side, 3]``."""
    for start in range(0, len(kept), _BLOCK_ROWS):
        rows = kept[start : start + _BLOCK_ROWS]
        block = np.empty((len(rows), side, side, 3), np.uint8)
        for i, row in enumerate(rows):
            f.seek(int(row["image_offset"]))
            f.readinto(block[i].data)  # type: ignore[attr-defined]
        yield block
