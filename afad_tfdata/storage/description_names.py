"""Names of the files that describe a data set, and are written after it.

They belong to the data set that they describe: a writer that replaces it removes them.
"""

from __future__ import annotations

import re

CROISSANT = "croissant.json"
LABELS = "labels.csv"
DATA_CARD = "data_card.md"
# Croissant needs a shell pattern; the exact pattern decides which files may be removed.
IMAGES_PATTERN = "images-*.parquet"
_IMAGES = re.compile(r"images-(?:train|validation|test)-\d{5}-of-\d{5}\.parquet")


def images_name(split: str, shard: int, num_shards: int) -> str:
    """Name of the images of a shard: ``images-train-00000-of-00004.parquet``."""
    return f"images-{split}-{shard:05d}-of-{num_shards:05d}.parquet"


def is_images(name: str) -> bool:
    """Whether a file has such a name."""
    return _IMAGES.fullmatch(name) is not None


def is_description(name: str) -> bool:
    """Whether a file has one of the names above."""
    return name in (CROISSANT, LABELS, DATA_CARD) or is_images(name)
