"""The index of a split: its shard files, and one entry for each record in them."""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema, tfrecord


# Compared by identity: dataclass equality would compare arrays, and comparing two
# arrays gives an array, which is neither true nor false.
@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """The records of one split: where they are stored, and their labels.

    Attributes:
      paths: Shard files; ``entries["shard"]`` is a position in this list.
      entries: ``[n]`` of `schema.INDEX_DTYPE`, ordered by shard; entry i describes
        record number i.
      format: One of `schema.FORMATS`.
      stored_size: Side of the stored images in pixels; 0 if they differ in size.
      image_size: Side in pixels at which the data set is meant to be used; 0 if it is
        not known.
      pixel: As in `schema.Manifest.pixel`; empty for encoded images.
      dataset: Name of the pixels in HDF5 files; empty for TFRecord.
      labels: Which of ``age`` and ``gender`` the entries have.
      mean_rgb: Channel means in [0, 255]; None if they are not known.
      split: Name of the split.
      features: Names in TFRecord examples, by ``image``, ``age``, ``gender``.
      identity: SHA-256 of the index file, or of the entries if there is no file.
      exact_ages: float32 ``[n]``: ages with fractions of a year; None if the ages in
        the entries are exact.
      rows: int64 ``[n]``: the row of each record in its HDF5 file, if some rows were
        left out of the entries; None if none was.
      num_skipped: Bad records that were left out of the entries.
      is_whole: Whether the entries describe every record of the shards.
    """

    paths: tuple[str, ...]
    entries: np.ndarray
    format: str
    stored_size: int
    image_size: int
    pixel: dict[str, Any]
    dataset: str
    labels: tuple[str, ...]
    mean_rgb: tuple[float, float, float] | None
    split: str
    features: dict[str, str]
    identity: str = ""
    exact_ages: np.ndarray | None = None
    rows: np.ndarray | None = None
    num_skipped: int = 0
    is_whole: bool = True

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def local(self) -> bool:
        """Whether the operating system can open the shards."""
        return not any(files.is_remote(path) for path in self.paths)

    @property
    def contiguous(self) -> bool:
        """Whether an image's bytes are stored in its shard without a filter."""
        return self.pixel.get("compression", "none") == "none"

    @property
    def image_bytes(self) -> int:
        """Bytes of all images as they are stored (uncompressed for gzip)."""
        if self.pixel:
            item = np.dtype(self.pixel["dtype"]).itemsize
            return len(self) * self.stored_size**2 * 3 * item
        return int(self.entries["image_length"].sum(dtype=np.int64))

    @property
    def ages(self) -> np.ndarray:
        """Years, float32 ``[n]``."""
        if self.exact_ages is not None:
            return self.exact_ages
        return self.entries["age"].astype(np.float32)

    def rows_in_shards(self) -> np.ndarray:
        """int64 ``[n]``: number of each record within its shard."""
        if self.rows is not None:
            return self.rows
        return np.arange(len(self)) - self.shard_starts()[self.entries["shard"]]

    def shard_starts(self) -> np.ndarray:
        """The record number at which each shard begins, then the number of records.

        Returns:
          int64 ``[num_shards + 1]``.
        """
        # numpy would copy the whole column.  A binary search reads a few entries, which
        # matters if the index is mapped and has millions.
        shards = np.asarray(self.entries["shard"])  # A memmap is slow to index.
        starts = [bisect.bisect_left(shards, i) for i in range(len(self.paths) + 1)]
        return np.array(starts, np.int64)

    def describe(self, record: int) -> str:
        """Describes a record in messages: place in its shard, number and image file.

        Args:
          record: Record number.
        """
        shard = int(self.entries["shard"][record])
        row = int(self.rows_in_shards()[record])
        name = self._name_in_record(shard, row, record)
        file = f", file {name}" if name else ""
        return f"record {row} of {self.paths[shard]} (index {record}{file})"

    def filename(self, record: int) -> str:
        """Returns the name of a record's image file; empty if that is not known.

        Args:
          record: Record number.
        """
        shard = int(self.entries["shard"][record])
        row = record - int(self.shard_starts()[shard])
        return self._name_in_record(
            shard, row if self.rows is None else self.rows[record], record
        )

    def _name_in_record(self, shard: int, row: int, record: int) -> str:
        """Returns the name of the image's file; empty if that is not known.

        The name is read from the record itself, which may be damaged.  The index
        contains no names, because they would be most of its bytes.
        """
        try:
            if self.format == "hdf5":
                import h5py

                with h5py.File(self.paths[shard], "r") as f:
                    return os.fsdecode(bytes(f["filename"][row]))
            entry = self.entries[record]
            with open(self.paths[shard], "rb") as file:
                file.seek(int(entry["record_offset"]))
                framed = file.read(int(entry["record_length"]))
            # The checksum is not compared: if only the image is damaged, the name is
            # readable.
            example = tfrecord.parse_example(tfrecord.unchecked_data(framed))
            return os.fsdecode(bytes(example[schema.IMAGE_FILENAME]))
        except Exception:  # A damaged record can raise any exception.
            return ""


def first_records(index: RecordIndex, count: int) -> RecordIndex:
    """Returns the record index of the first records of a split.

    Records are stored in the order of hashes, so that the first ones are a random
    sample.

    Args:
      index: Of the whole split.
      count: How many records, at least one.
    """
    if count >= len(index):
        return index
    entries = index.entries[:count]
    return dataclasses.replace(
        index,
        entries=entries,
        # Shards without a record are not opened.
        paths=index.paths[: int(entries["shard"][-1]) + 1],
        identity=f"{index.identity}:{count}",
        exact_ages=None if index.exact_ages is None else index.exact_ages[:count],
        rows=None if index.rows is None else index.rows[:count],
        is_whole=False,
    )


def join_indexes(
    parts: Sequence[RecordIndex], mean_rgb: tuple[float, float, float]
) -> RecordIndex:
    """Joins the record indexes of several data sets, one after the other."""
    first = parts[0]
    total = sum(len(part.paths) for part in parts)
    limit = np.iinfo(schema.INDEX_DTYPE["shard"]).max
    if total > limit:
        raise errors.UsageError(
            f"--records_dir: the data sets have {total} shards together, and {limit}"
            " can be read as one: let afad-write-records write fewer, by --num_shards"
        )
    tables, num_paths = [], 0
    for part in parts:
        if part.labels != first.labels:
            raise errors.UsageError(
                "--records_dir: the data sets do not have the same labels"
                f" ({', '.join(first.labels)} and {', '.join(part.labels)}): write one"
                " data set of all images (afad-write-records --missing_labels=keep)"
            )
        entries = part.entries.copy()
        entries["shard"] += num_paths
        tables.append(entries)
        num_paths += len(part.paths)
    entries = np.concatenate(tables)
    entries.flags.writeable = False
    return dataclasses.replace(
        first,
        paths=tuple(path for part in parts for path in part.paths),
        entries=entries,
        mean_rgb=mean_rgb,
        identity="+".join(part.identity for part in parts),
        is_whole=all(part.is_whole for part in parts),
    )


def fractional_ages(ages: Sequence[float] | np.ndarray) -> np.ndarray | None:
    """Returns ages as float32 if one has a fraction, which the index cannot store."""
    exact = np.asarray(ages, np.float32)
    return exact if (exact != np.floor(exact)).any() else None
