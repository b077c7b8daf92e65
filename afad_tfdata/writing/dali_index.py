"""Index files for the TFRecord reader of NVIDIA DALI, which needs one for each shard.

A line gives the offset and the length of a record in bytes, with its framing, as DALI's
program ``tfrecord2idx`` writes it.
"""

from __future__ import annotations

import os

import numpy as np

from afad_tfdata.common import files
from afad_tfdata.storage import schema


def write(directory: str, manifest: schema.Manifest) -> None:
    """Writes DALI's index file of each shard next to it.

    Args:
      directory: The data set's directory, on a local disk.
      manifest: Its manifest; the shards are TFRecords.

    Raises:
      DataError: The data set's own index is missing or damaged.
      UsageError: The disk is full or cannot be written.
    """
    for split, found in manifest.splits.items():
        if not found.num_examples:
            continue
        entries = schema.load_index(directory, manifest, split)
        for number, shard in enumerate(found.shards):
            rows = entries[entries["shard"] == number]
            files.write_atomic(
                os.path.join(directory, file_name(shard.name)), content(rows)
            )


def content(rows: np.ndarray) -> bytes:
    """The content of DALI's index file of a shard.

    Args:
      rows: The shard's rows of the data set's own index.
    """
    offsets, lengths = rows["record_offset"], rows["record_length"]
    places = zip(offsets.tolist(), lengths.tolist(), strict=True)
    return "".join(f"{offset} {length}\n" for offset, length in places).encode()


def file_name(shard: str) -> str:
    """The name of DALI's index file of a shard.

    It does not match ``*.tfrecord-*``, by which programs find the shards.
    """
    return shard.replace(".tfrecord-", ".idx-")
