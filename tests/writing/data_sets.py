"""Small data sets for tests: written with few flags, and compared by their bytes."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

from afad_tfdata import records
from afad_tfdata.storage import schema
from afad_tfdata.writing import rejections


def config(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], **flags
) -> records.WriteConfig:
    """Images of 24 pixels in 3 shards, written by this process alone."""
    flags = {"image_size": 24, "num_shards": 3, "num_workers": 1, **flags}
    return records.WriteConfig(
        data_dir=str(source), output_dir=str(destination), **flags
    )


def write(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], **flags
) -> schema.Manifest | None:
    """Writes with `config`."""
    return records.write_records(config(source, destination, **flags))


def digests(directory: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 by name of every file of a data set but the writer's log."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(directory).iterdir())
        if path.is_file() and path.name != records.LOG_NAME
    }


def rejected(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Reason by path of every file that was found and not written."""
    lines = (pathlib.Path(directory) / rejections.FILE_NAME).read_text().splitlines()
    return {row["path"]: row["reason"] for row in map(json.loads, lines)}
