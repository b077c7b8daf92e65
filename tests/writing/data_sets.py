"""Small sources and data sets for the tests of the writer."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import pathlib

import h5py
import numpy as np
from PIL import Image

from afad_tfdata import records
from afad_tfdata.storage import schema, sharding
from afad_tfdata.writing import data_set_files, rejections


def config(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], /, **flags
) -> records.WriteConfig:
    """Images of 24 pixels in 3 shards, written by this process alone."""
    flags = {"image_size": 24, "num_shards": 3, "num_workers": 1, **flags}
    return records.WriteConfig(
        data_dir=str(source), output_dir=str(destination), **flags
    )


def write(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], /, **flags
) -> schema.Manifest | None:
    """Writes with `config`."""
    return records.write_records(config(source, destination, **flags))


def digests(directory: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of every file of a data set but the writer's log."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(directory).iterdir())
        if path.is_file() and path.name != data_set_files.LOG_NAME
    }


def rejected(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Reason by path of every file that was found and not written."""
    lines = (pathlib.Path(directory) / rejections.FILE_NAME).read_text().splitlines()
    return {row["path"]: row["reason"] for row in map(json.loads, lines)}


def keys_by_split(directory: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Image paths of an HDF5 data set in record order, read with h5py."""
    result: dict[str, list[str]] = {}
    for split in sharding.SPLITS:
        result[split] = []
        for path in sorted(glob.glob(f"{directory}/afad-{split}-*.h5")):
            with h5py.File(path) as f:
                result[split] += [name.decode() for name in f["filename"]]
    return result


def face_file(seed: int, form: str = "JPEG", size=(30, 20), **options) -> bytes:
    """An image file of noise; `size` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def make_tree(root: pathlib.Path, count: int = 24) -> pathlib.Path:
    """Writes `count` faces under three ages and both genders; returns `root`."""
    for i in range(count):
        folder = root / str(20 + i % 3) / ("111", "112")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}-0.jpg").write_bytes(face_file(i))
    return root
