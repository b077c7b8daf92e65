"""The labels of a data set as a table, one row for each record.

The table names the shard of each record and its position there, so that any program
finds the image of a row.  It is written without a library, and read by every program
that reads CSV::

    for row in labels_csv.rows("records", manifest):
        row.key, row.age, row.gender
    labels_csv.write("records/labels.csv", "records", manifest)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import schema, tfrecord


class Row(NamedTuple):
    r"""A row of ``labels.csv``; the names of the fields are those of the columns.

    Attributes:
      key: Path of the image, with forward slashes.  Bytes that are not UTF-8 are
        written as ``\xff``.
      split: ``train``, ``validation`` or ``test``.
      shard: File name of the shard.
      position: Number of the record in its shard, from 0.
      age: Years; None without this label.
      gender: Name of the class; None without this label.
      gender_label: 0 or 1; None without this label.
      height: Of the stored image, in pixels.
      width: Of the stored image, in pixels.
      format: ``jpeg``, ``png`` or ``raw``.
    """

    key: str
    split: str
    shard: str
    position: int
    age: int | None
    gender: str | None
    gender_label: int | None
    height: int
    width: int
    format: str


def rows(records_dir: str, manifest: schema.Manifest) -> Iterator[Row]:
    """The rows of ``labels.csv`` for all splits, in the order of the shards.

    Args:
      records_dir: A local directory.
      manifest: Of this directory.

    Raises:
      DataError: A file is missing, damaged or changed.
    """
    for shard in shards_with_keys(records_dir, manifest):
        yield from rows_of_shard(shard, manifest)


def rows_of_shard(shard: ShardOfKeys, manifest: schema.Manifest) -> Iterator[Row]:
    """The rows of ``labels.csv`` for the records of one shard."""
    for position, (key, entry) in enumerate(
        zip(shard.keys, shard.entries, strict=True)
    ):
        gender = _label_or_none(entry["gender"])
        yield Row(
            key=_key_text(key),
            split=shard.split,
            shard=os.path.basename(shard.path),
            position=position,
            age=_label_or_none(entry["age"]),
            gender=None if gender is None else manifest.class_names[gender],
            gender_label=gender,
            height=int(entry["height"]),
            width=int(entry["width"]),
            format=schema.IMAGE_FORMATS[entry["image_format"]],
        )


class ShardOfKeys(NamedTuple):
    """One shard, with the keys of its records.

    Attributes:
      split: Its split.
      number: Its number in the split, from 0.
      num_shards: Number of shards of the split.
      path: The file.
      entries: Its rows of the index, `schema.INDEX_DTYPE`.
      keys: Of its records, as bytes.
    """

    split: str
    number: int
    num_shards: int
    path: str
    entries: np.ndarray
    keys: list[bytes]


def shards_with_keys(
    records_dir: str, manifest: schema.Manifest
) -> Iterator[ShardOfKeys]:
    """The shards of all splits, with the keys that ``labels.csv`` shows.

    Raises:
      DataError: A file is missing, damaged or changed.
    """
    for name, split in manifest.splits.items():
        if not split.num_examples:
            continue
        index = index_loading.load_split(records_dir, name)
        starts = index.shard_starts()
        for number, path in enumerate(index.paths):
            entries = index.entries[starts[number] : starts[number + 1]]
            keys = _keys_of_shard(path, manifest.format, entries)
            yield ShardOfKeys(name, number, len(index.paths), path, entries, keys)


def write(path: str, records_dir: str, manifest: schema.Manifest) -> None:
    """Writes ``labels.csv`` in UTF-8; a cell is empty if there is no label.

    Raises:
      UsageError: The file cannot be written.
      DataError: A record is missing, damaged or changed.
    """
    lines = [Row._fields, *rows(records_dir, manifest)]
    files.write_atomic(path, "".join(files.csv_line(line) + "\n" for line in lines))


def _keys_of_shard(path: str, format: str, entries: np.ndarray) -> list[bytes]:
    """The keys of a shard for ``labels.csv``; those of TFRecord are checked by CRC."""
    if format == "hdf5":
        import h5py

        try:
            with h5py.File(path, "r") as f:
                keys = f["filename"][:]
        except Exception as error:  # h5py raises errors of many types.
            raise _damaged_shard(path, errors.one_line(error)) from error
        if len(keys) != len(entries):
            raise _damaged_shard(path, f"{len(keys)} names for {len(entries)} records")
        return [bytes(key) for key in keys]
    keys = []
    with open(path, "rb") as f:
        for position, entry in enumerate(entries):
            f.seek(int(entry["record_offset"]))
            framed = f.read(int(entry["record_length"]))
            try:
                example = tfrecord.parse_example(tfrecord.check_record(framed))
                keys.append(bytes(example[schema.IMAGE_FILENAME]))
            except (tfrecord.RecordError, KeyError, TypeError) as error:
                reason = f"record {position}: {errors.one_line(error)}"
                raise _damaged_shard(path, reason) from error
    return keys


def _label_or_none(value: np.integer) -> int | None:
    """A label of the index for ``labels.csv``; None if it is missing."""
    return None if value == schema.MISSING else int(value)


def _key_text(key: bytes) -> str:
    """A key as text for ``labels.csv``, whatever bytes it has."""
    # Some file names are not UTF-8, and CSV is text.
    return key.decode(errors="backslashreplace")


def _damaged_shard(path: str, reason: str) -> errors.DataError:
    """The error of a shard or an index that ``labels.csv`` cannot be made from."""
    return errors.DataError(
        f"{path} is damaged: {reason}; afad-inspect-records --verify names every fault"
    )
