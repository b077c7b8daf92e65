"""Names of the files of a data set: shards, indexes, and the files that describe it.

The manifest names the shards and the indexes.  The files that describe a data set are
written after it.  They belong to it: a writer that replaces it removes them.
"""

from __future__ import annotations

import re

CROISSANT = "croissant.json"
LABELS = "labels.csv"
DATA_CARD = "data_card.md"
# Croissant needs a shell pattern; the exact pattern decides which files may be removed.
IMAGES_PATTERN = "images-*.parquet"
_IMAGES = re.compile(r"images-(?:train|validation|test)-\d{5}-of-\d{5}\.parquet")


def shard_name(name: str, split: str, shard: int, num_shards: int, format: str) -> str:
    """The file name of a shard.

    Args:
      name: The data set's name, such as ``afad``.
      split: One of `SPLITS`.
      shard: From 0.
      num_shards: How many the split has.
      format: ``tfrecord`` or ``hdf5``.
    """
    part = f"{shard:05d}-of-{num_shards:05d}"
    if format == "hdf5":
        return f"{name}-{split}-{part}.h5"
    return f"{name}-{split}.tfrecord-{part}"


def index_name(name: str, split: str) -> str:
    """The file name of a split's index."""
    return f"{name}-{split}.index.npy"


def images_name(split: str, shard: int, num_shards: int) -> str:
    """The name of a shard's file of images: ``images-train-00000-of-00004.parquet``."""
    return f"images-{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def is_images_name(name: str) -> bool:
    """Whether this is the name of a shard's file of images."""
    return _IMAGES.fullmatch(name) is not None


def is_description_name(name: str) -> bool:
    """Whether a file of this name describes a data set."""
    return name in (CROISSANT, LABELS, DATA_CARD) or is_images_name(name)
