"""Where the examples of a split lie: shard files and an index over them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.reading import shard_cache
from afad_tfdata.storage import schema, tfrecord


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one split.

    Attributes:
      paths: Shard files; ``index["shard"]`` counts through them.
      index: ``[n]`` of `schema.INDEX_DTYPE`, ordered by shard.
      format: One of `schema.FORMATS`.
      stored_size: Side of the stored images in pixels; 0 where they differ.
      image_size: Side at which the data set is meant to be used.
      pixel: As in `schema.Manifest.pixel`; empty for encoded images.
      dataset: Name of the pixels in HDF5 files.
      labels: Which of ``age`` and ``gender`` the index has.
      mean_rgb: Channel means in [0, 255]; None if nobody knows them.
      split: Name of the split.
      features: Names in TFRecord examples, by ``image``, ``age``, ``gender``.
    """

    paths: tuple[str, ...]
    index: np.ndarray
    format: str
    stored_size: int
    image_size: int
    pixel: dict[str, Any]
    dataset: str
    labels: tuple[str, ...]
    mean_rgb: tuple[float, float, float] | None
    split: str
    features: dict[str, str]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def local(self) -> bool:
        """Whether the operating system can open the shards."""
        return not any(files.is_remote(path) for path in self.paths)

    @property
    def contiguous(self) -> bool:
        """Whether an image's bytes lie in its shard as they are."""
        return self.pixel.get("compression", "none") == "none"

    @property
    def image_bytes(self) -> int:
        """Bytes of all images as they are stored (uncompressed for gzip)."""
        if self.pixel:
            item = np.dtype(self.pixel["dtype"]).itemsize
            return len(self) * self.stored_size**2 * 3 * item
        return int(self.index["image_length"].sum(dtype=np.int64))

    def first_of_shard(self) -> np.ndarray:
        """int64 ``[num_shards + 1]``: where in the index each shard begins."""
        shards = np.arange(len(self.paths) + 1)
        return np.searchsorted(self.index["shard"], shards).astype(np.int64)

    def describe(self, record: int) -> str:
        """Shard, number in it, index and file of a record, for messages."""
        shard = int(self.index["shard"][record])
        row = record - int(self.first_of_shard()[shard])
        key = self._key(shard, row, record)
        name = f", file {key}" if key else ""
        return f"record {row} of {self.paths[shard]} (index {record}{name})"

    def _key(self, shard: int, row: int, record: int) -> str:
        """The image's own file name, as far as the damaged record still tells it."""
        try:
            if self.format == "hdf5":
                import h5py

                with h5py.File(self.paths[shard], "r") as f:
                    return os.fsdecode(bytes(f["filename"][row]))
            entry = self.index[record]
            with open(self.paths[shard], "rb") as file:
                file.seek(int(entry["record_offset"]))
                framed = file.read(int(entry["record_length"]))
            data = tfrecord.unchecked_data(framed)
            name = tfrecord.parse_example(data)[schema.IMAGE_FILENAME]
            return os.fsdecode(bytes(name))
        except Exception:  # It is damaged in ways that cannot be listed.
            return ""


def load(
    records_dir: str, split: str, cache_dir: str = "", cache_dir_gib: float = 0.0
) -> Examples:
    """The examples of a split of a data set that ``write_records`` made.

    Args:
      records_dir: Where the data set is.
      split: One of `sharding.SPLITS`.
      cache_dir: Local directory for shards that are remote; empty to leave them there.
      cache_dir_gib: As for `shard_cache.localize`.

    Raises:
      UsageError: There is no such data set, or the split is empty.
      DataError: The manifest, the index or a shard is not what it was.
    """
    manifest = schema.load_manifest(records_dir)
    found = manifest.split(split)
    index = schema.load_index(records_dir, manifest, split)
    if cache_dir and files.is_remote(records_dir):
        paths = shard_cache.localize(
            records_dir, found.shards, cache_dir, cache_dir_gib
        )
    else:
        paths = tuple(files.join(records_dir, shard.name) for shard in found.shards)
    for path, shard in zip(paths, found.shards, strict=True):
        _check_size(path, shard.num_bytes)
    return Examples(
        paths=paths,
        index=index,
        format=manifest.format,
        stored_size=0 if manifest.image_encoding == "original" else manifest.image_size,
        image_size=manifest.image_size,
        pixel=manifest.pixel,
        dataset="data",
        labels=("age", "gender"),
        mean_rgb=manifest.mean_rgb,
        split=split,
        features={
            "image": schema.IMAGE_ENCODED,
            "age": schema.LABEL_AGE,
            "gender": schema.LABEL_GENDER,
        },
    )


def _check_size(path: str, expected: int) -> None:
    """A shard that was cut at a record's end would read as a whole one."""
    if files.is_remote(path):
        return  # One request for each shard; the graph engine counts the records.
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise errors.DataError(
            f"cannot read the shard {path}: {error.strerror}; restore it, or write the"
            " records again"
        ) from error
    if size != expected:
        raise errors.DataError(
            f"{path} has {size} bytes, the manifest says {expected}: restore it, or"
            " write the records again"
        )
