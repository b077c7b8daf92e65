"""Verifies a data set: reads every byte once, and names what is not as it was written.

`verify` checks the size and the SHA-256 of each file, the framing and the checksum of
each record, its labels against the index, and each image by decoding it.  A fault names
the file, the record's position in it and the image's path, as far as they can still be
read; one bad record never hides the next.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import crc32, errors, files, remote_files, resources
from afad_tfdata.images import codec
from afad_tfdata.storage import schema, tfrecord
from afad_tfdata.writing import dali_index

# Bytes of one request to a remote store.
_CHUNK_BYTES = 8 << 20
# With these errors the system refuses to open a file, whatever the file contains.
_REFUSED = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM)
_WRONG_CHECKSUM = "the image's checksum is not that of the index"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
      file: Name in the data set's directory.
      record: Position in the file, from 0; None for the file as a whole.
      key: Path of the image; None if it cannot be read, or for a whole file.
      fault: What is wrong.
    """

    file: str
    record: int | None
    key: str | None
    fault: str

    def __str__(self) -> str:
        where = (
            self.file if self.record is None else f"{self.file}, record {self.record}"
        )
        named = f" ({self.key})" if self.key else ""
        return errors.printable(f"{where}{named}: {self.fault}")


def verify(records_dir: str, *, num_threads: int = 0) -> list[Fault]:
    """Verifies a data set: reads every byte and checks it.

    Args:
      records_dir: The data set's directory.
      num_threads: Number of shards that are read at a time; 0 takes one for each core.

    Returns:
      The faults, by file and position; empty for a sound data set.

    Raises:
      UsageError: There is no manifest, or the system refuses to open or read a file.
    """
    records_dir = files.local_path(records_dir)
    try:
        manifest = schema.load_manifest(records_dir)
    except errors.DataError as error:
        return [Fault(schema.MANIFEST_NAME, None, None, str(error))]
    # Each shard with its rows of the index, which are None if the index is damaged.
    shards: list[tuple[schema.Shard, np.ndarray | None]] = []
    faults: list[Fault] = []
    for name, split in manifest.splits.items():
        index_faults = list(_check_file(records_dir, split.index))
        faults += index_faults
        index = None
        if not index_faults and split.num_examples:
            try:
                index = schema.load_index(records_dir, manifest, name)
            except errors.DataError as error:  # It has changed since `_check_file`.
                faults.append(Fault(split.index.name, None, None, str(error)))
        for number, shard in enumerate(split.shards):
            rows = None if index is None else index[index["shard"] == number]
            shards.append((shard, rows))
    with concurrent.futures.ThreadPoolExecutor(
        num_threads or resources.cores()
    ) as pool:
        for found in pool.map(
            lambda item: list(_check_shard(records_dir, manifest, *item)), shards
        ):
            faults += found
    faults += _check_mean(records_dir, manifest)
    if manifest.format == "tfrecord":
        faults += _check_dali_index(records_dir, shards)
    return faults


def _check_file(directory: str, expected: schema.Shard) -> Iterator[Fault]:
    """Yields a fault if a file of the data set is not that of the manifest."""
    try:
        with _local_copy(files.join(directory, expected.name)) as path:
            found = list(_check_digest(path, expected))
    except OSError as error:
        yield _missing_file(expected.name, directory, error)
        return
    yield from found


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
    """The file to verify, or a temporary copy of a remote one.

    Raises:
      OSError: The remote file cannot be read.
    """
    if not files.is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="afad-inspect-") as directory:
        copy = os.path.join(directory, os.path.basename(path))
        with open(copy, "wb") as f:
            for chunk in remote_files.read_chunks(path, _CHUNK_BYTES):
                f.write(chunk)
        yield copy


def _check_digest(path: str, expected: schema.Shard) -> Iterator[Fault]:
    """Yields a fault if the size or the digest of a file is wrong."""
    size = os.path.getsize(path)
    if size != expected.num_bytes:
        fault = f"{size} bytes instead of {expected.num_bytes}"
        yield Fault(expected.name, None, None, fault)
    elif files.sha256(path) != expected.sha256:
        fault = "its SHA-256 is not that of the manifest: bytes were changed"
        yield Fault(expected.name, None, None, fault)


def _check_mean(directory: str, manifest: schema.Manifest) -> list[Fault]:
    """The fault of the file of channel means, if it differs from the manifest."""
    path = files.join(directory, schema.MEAN_NAME)
    if not files.exists(path):
        return [Fault(schema.MEAN_NAME, None, None, "is missing")]
    try:
        stored = files.read_json(path, what="the means", advice="restore it")
    except errors.DataError as error:
        return [Fault(schema.MEAN_NAME, None, None, str(error))]
    if stored != manifest.mean:
        return [Fault(schema.MEAN_NAME, None, None, "differs from the manifest")]
    return []


def _check_dali_index(
    directory: str, shards: Sequence[tuple[schema.Shard, np.ndarray | None]]
) -> list[Fault]:
    """The faults of the index files of DALI, if there are any."""
    expected = {
        dali_index.file_name(shard.name): dali_index.content(rows)
        for shard, rows in shards
        if rows is not None
    }
    found: dict[str, bytes | None] = {}
    for name in expected:
        path = files.join(directory, name)
        try:
            found[name] = files.read_bytes(path) if files.exists(path) else None
        except OSError as error:
            raise files.read_error(path, error) from error
    if set(found.values()) <= {None}:
        return []
    faults = []
    for name, content in expected.items():
        if found[name] != content:
            fault = "is missing" if found[name] is None else "differs from the index"
            faults.append(Fault(name, None, None, fault))
    return faults


def _check_shard(
    directory: str,
    manifest: schema.Manifest,
    shard: schema.Shard,
    rows: np.ndarray | None,
) -> Iterator[Fault]:
    """Yields the faults of a shard as a file, and then of its records.

    Args:
      directory: The data set's directory.
      manifest: The data set's manifest.
      shard: The shard.
      rows: Its rows of the index; None if the index is damaged.
    """
    try:
        with _local_copy(files.join(directory, shard.name)) as path:
            yield from _check_digest(path, shard)
            # A damaged index is a fault of its own, which `verify` has already found.
            if rows is not None:
                yield from _check_records(path, manifest, shard, rows)
    except OSError as error:
        yield _missing_file(shard.name, directory, error)


def _missing_file(name: str, directory: str, error: OSError) -> Fault:
    """The fault of a missing file of a data set.

    Raises:
      UsageError: The file is there, but the system refuses to let this process read it.
    """
    if error.errno == errno.ENOENT:
        return Fault(name, None, None, f"is missing: {error.strerror or error}")
    raise files.read_error(files.join(directory, name), error) from error


def _check_records(
    path: str, manifest: schema.Manifest, shard: schema.Shard, rows: np.ndarray
) -> Iterator[Fault]:
    """Yields the faults of the records of a shard."""
    if len(rows) != shard.num_examples:
        fault = f"the index has {len(rows)} records, the shard {shard.num_examples}"
        yield Fault(shard.name, None, None, fault)
    check = _check_tfrecord if manifest.format == "tfrecord" else _check_hdf5
    yield from check(path, shard.name, manifest, rows)


def _check_tfrecord(
    path: str, name: str, manifest: schema.Manifest, rows: np.ndarray
) -> Iterator[Fault]:
    """Yields the faults of the records of a TFRecord shard."""
    with open(path, "rb") as f:
        for position, row in enumerate(rows):
            f.seek(int(row["record_offset"]))
            framed = f.read(int(row["record_length"]))
            key = _readable_key(framed)
            try:
                features = tfrecord.parse_example(tfrecord.check_record(framed))
                _check_features(features, row, manifest)
            except (tfrecord.RecordError, codec.ImageError) as error:
                yield Fault(name, position, key, str(error))


def _check_features(
    features: dict[str, Any], row: np.void, manifest: schema.Manifest
) -> None:
    """Compares the features of a record with its row of the index.

    Raises:
      tfrecord.RecordError: They differ.
      codec.ImageError: The image cannot be decoded.
    """
    content = features[schema.IMAGE_ENCODED]
    if crc32.crc32(content) != row["crc32"]:
        raise tfrecord.RecordError(_WRONG_CHECKSUM)
    for feature, field in (
        (schema.LABEL_AGE, "age"),
        (schema.LABEL_GENDER, "gender"),
        (schema.IMAGE_HEIGHT, "height"),
        (schema.IMAGE_WIDTH, "width"),
    ):
        if features[feature] != row[field]:
            raise tfrecord.RecordError(
                f"{feature} is {features[feature]}, but {row[field]} in the index"
            )
    if manifest.image_encoding == "raw":
        if len(content) != 3 * int(row["height"]) * int(row["width"]):
            raise tfrecord.RecordError(
                f"{len(content)} bytes of pixels for {row['height']} x {row['width']}"
            )
        return
    size = codec.check_whole(content, codec.read_header(content))
    if size != (row["height"], row["width"]):
        raise tfrecord.RecordError("its height or width is not that of the index")


def _readable_key(framed: bytes) -> str | None:
    """The path inside a record that may be damaged; None if it cannot be read."""
    try:
        data = tfrecord.unchecked_data(framed)
        return os.fsdecode(tfrecord.parse_example(data)[schema.IMAGE_FILENAME])
    except (tfrecord.RecordError, KeyError, TypeError):
        return None


def _check_hdf5(
    path: str, name: str, manifest: schema.Manifest, rows: np.ndarray
) -> Iterator[Fault]:
    """Yields the faults of the records of an HDF5 shard."""
    del manifest  # Not needed: the index has the checksums of all pixels.
    import h5py

    try:
        with h5py.File(path, "r") as f:
            data, keys = f["data"], f["filename"][:]
            labels = {field: f[field][:] for field in ("age", "gender")}
            for position, row in enumerate(rows):
                key = os.fsdecode(bytes(keys[position]))
                try:
                    content = data[position].tobytes()
                except OSError as error:
                    yield Fault(name, position, key, errors.one_line(error))
                    continue
                if crc32.crc32(content) != row["crc32"]:
                    yield Fault(name, position, key, _WRONG_CHECKSUM)
                for field, values in labels.items():
                    if values[position] != row[field]:
                        fault = (
                            f"{field} is {values[position]}, but {row[field]} in the"
                            " index"
                        )
                        yield Fault(name, position, key, fault)
    except Exception as error:  # h5py raises errors of many types for damaged files.
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise
        fault = f"cannot be read as HDF5: {errors.one_line(error)}"
        yield Fault(name, None, None, fault)
