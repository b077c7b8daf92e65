"""What a data set consists of: the public names of `afad_tfdata.storage.schema`."""

from afad_tfdata.storage.schema import (
    CLASS_NAMES,
    ENCODINGS,
    FORMATS,
    INDEX_DTYPE,
    MANIFEST_NAME,
    MEAN_NAME,
    TASKS,
    Manifest,
    Shard,
    Split,
    labels_of,
    load_index,
    load_manifest,
)

__all__ = [
    "CLASS_NAMES",
    "ENCODINGS",
    "FORMATS",
    "INDEX_DTYPE",
    "MANIFEST_NAME",
    "MEAN_NAME",
    "TASKS",
    "Manifest",
    "Shard",
    "Split",
    "labels_of",
    "load_index",
    "load_manifest",
]
