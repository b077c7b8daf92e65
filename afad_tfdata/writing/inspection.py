"""What a data set contains, whether it is damaged, and how it differs from another.

`verify` reads every byte once.  It checks the size and the SHA-256 of each file, the
framing and the checksum of each record, its labels against the index, and each image by
decoding it.  A fault names the file, the record's position in it and the image's path,
as far as they can still be read; one bad record never hides the next.
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

from afad_tfdata.common import crc32, errors, files, options, remote_files, resources
from afad_tfdata.images import codec
from afad_tfdata.storage import schema, sharding, tfrecord
from afad_tfdata.writing import dali_index, data_set_pictures, data_set_summary

_SHEET_FACES, _SHEET_COLUMNS = 80, 10
# Bytes of one request to a remote store.
_CHUNK_BYTES = 8 << 20
# With these errors the system refuses to open a file, whatever the file contains.
_REFUSED = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM)
_WRONG_CHECKSUM = "the image's checksum is not that of the index"


@dataclasses.dataclass(frozen=True, init=False)
class InspectConfig(options.Config):
    """Which data set to inspect, and what to do with it."""

    records_dir: str = options.option("", "Directory of the data set.")
    verify: bool = options.option(
        False,
        "Read and check every record; the exit status is 2 if any of them is bad.",
    )
    diff: str = options.option("", "Directory of another data set to compare with.")
    histogram: str = options.option(
        "", "PNG file that a histogram of the ages by split is written to."
    )
    sheet: str = options.option(
        "", "PNG file that a sample of the faces with their labels is written to."
    )
    split: str = options.option(
        "train", "Split that --sheet shows.", choices=sharding.SPLITS
    )
    num_threads: int = options.option(
        0,
        "Number of threads that read with --verify; 0 starts one for each core.",
        aliases=("num_workers",),  # The name of this flag in 0.1.
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.num_threads < 0:
            raise errors.UsageError(
                f"--num_threads must be 0 or more; got {self.num_threads}"
            )
        if not self.records_dir:
            raise errors.UsageError(
                "--records_dir is missing: name the directory that write_records filled"
            )


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


@dataclasses.dataclass(frozen=True)
class InspectResult:
    """What `inspect_records` found.

    Attributes:
      summary: Text for people.
      values: The same as JSON values, for programs.
      faults: From `verify`; empty if there are none, or without ``--verify``.
    """

    summary: str
    values: dict[str, Any]
    faults: list[Fault]


def inspect_records(config: InspectConfig) -> InspectResult:
    """Summarizes a data set; verifies, compares and draws it if the config says so.

    Raises:
      UsageError: The directory is not a data set.
      DataError: Its manifest is damaged, and ``--verify`` is not set.
    """
    faults: list[Fault] = []
    if config.verify:
        faults = verify(config.records_dir, num_threads=config.num_threads)
        if any(fault.file == schema.MANIFEST_NAME for fault in faults):
            # Without a manifest there is nothing else to show.
            text = "\n".join(map(str, faults))
            named = [dataclasses.asdict(fault) for fault in faults]
            return InspectResult(text, {"faults": named}, faults)
    manifest = schema.load_manifest(config.records_dir)
    lines = [data_set_summary.heading(manifest), data_set_summary.table(manifest), ""]
    lines += data_set_summary.ages(manifest)
    values: dict[str, Any] = dataclasses.asdict(manifest)
    lines += _draw(config, manifest, faults)
    if config.diff:
        differences = diff(config.records_dir, config.diff)
        values["diff"] = differences
        lines += ["", f"against {config.diff}:"]
        lines += [f"  {line}" for line in differences or ("no difference",)]
    if config.verify:
        values["faults"] = [dataclasses.asdict(fault) for fault in faults]
        lines += ["", *map(str, faults)]
        if faults:
            lines.append(f"{len(faults)} fault(s)")
        else:
            lines.append(f"verified: all {manifest.written:,} records are as written")
    return InspectResult("\n".join(lines), values, faults)


def _draw(
    config: InspectConfig, manifest: schema.Manifest, faults: list[Fault]
) -> list[str]:
    """Draws ``--histogram`` and ``--sheet``; returns lines that name the files."""
    lines = []
    if config.histogram:
        data_set_pictures.draw_histogram(config.histogram, manifest)
        lines += ["", f"ages by split: {config.histogram}"]
    if config.sheet and faults:
        # A damaged image would end the command before it names the faults.
        lines += ["", "faces with labels: not drawn, because of the faults"]
    elif config.sheet:
        data_set_pictures.draw_sample(
            config.sheet,
            config.records_dir,
            manifest,
            config.split,
            count=_SHEET_FACES,
            columns=_SHEET_COLUMNS,
        )
        lines += ["", f"faces with labels: {config.sheet}"]
    return lines


def verify(records_dir: str, *, num_threads: int = 0) -> list[Fault]:
    """Reads every byte of a data set and checks it.

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


def diff(records_dir: str, other_dir: str) -> list[str]:
    """The differences between two data sets, one line for each.

    Args:
      records_dir: "here" in the lines.
      other_dir: "there" in the lines.

    Returns:
      The lines; empty for data sets with the same configuration and the same shards.
    """
    one, other = schema.load_manifest(records_dir), schema.load_manifest(other_dir)
    lines = []
    for name in sorted({*one.config, *other.config}):
        mine, theirs = one.config.get(name), other.config.get(name)
        if mine != theirs:
            lines.append(f"configuration {name}: {mine} here, {theirs} there")
    for split in sharding.SPLITS:
        mine_split, other_split = one.splits.get(split), other.splits.get(split)
        # A manifest need not name a split that has no examples.
        if mine_split is None or other_split is None:
            if mine_split or other_split:
                lines.append(f"{split}: only {'here' if mine_split else 'there'}")
            continue
        for label in sorted({*mine_split.counts, *other_split.counts}):
            ours = mine_split.counts.get(label, {})
            theirs = other_split.counts.get(label, {})
            ages = sorted({*ours, *theirs}, key=int)
            moved = [a for a in ages if ours.get(a, 0) != theirs.get(a, 0)]
            if moved:
                lines.append(
                    f"{split}, {label}: {sum(ours.values()):,} here,"
                    f" {sum(theirs.values()):,} there; differs at age"
                    f" {', '.join(moved)}"
                )
        mine_sums = [shard.sha256 for shard in mine_split.shards]
        other_sums = [shard.sha256 for shard in other_split.shards]
        if mine_sums != other_sums:
            same = len(set(mine_sums) & set(other_sums))
            lines.append(
                f"{split}: {len(mine_sums)} shards here, {len(other_sums)} there,"
                f" {same} of them the same"
            )
    if one.mean != other.mean:
        lines.append(f"mean: {one.mean} here, {other.mean} there")
    return lines


def _check_file(directory: str, expected: schema.Shard) -> Iterator[Fault]:
    """Yields a fault if a file's size or digest is not that of the manifest."""
    try:
        with _local_copy(files.join(directory, expected.name)) as path:
            found = list(_check_content(path, expected))
    except OSError as error:
        yield _missing(expected.name, directory, error)
        return
    yield from found


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[str]:
    """The file itself, or a temporary copy of a remote one.

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


def _check_content(path: str, expected: schema.Shard) -> Iterator[Fault]:
    """Checks size and digest of a file."""
    size = os.path.getsize(path)
    if size != expected.num_bytes:
        fault = f"{size} bytes instead of {expected.num_bytes}"
        yield Fault(expected.name, None, None, fault)
    elif files.sha256(path) != expected.sha256:
        fault = "its SHA-256 is not that of the manifest: bytes were changed"
        yield Fault(expected.name, None, None, fault)


def _check_mean(directory: str, manifest: schema.Manifest) -> list[Fault]:
    """Compares the file for other programs with the manifest."""
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
    """Compares the files of ``--dali_index``, if there are any, with the index."""
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
            yield from _check_content(path, shard)
            # A damaged index is a fault of its own, which `verify` has already found.
            if rows is not None:
                yield from _check_rows(path, manifest, shard, rows)
    except OSError as error:
        yield _missing(shard.name, directory, error)


def _missing(name: str, directory: str, error: OSError) -> Fault:
    """The fault of a missing file.

    Raises:
      UsageError: The file is there, but the system refuses to let this process read it.
    """
    if error.errno == errno.ENOENT:
        return Fault(name, None, None, f"is missing: {error.strerror or error}")
    raise files.read_error(files.join(directory, name), error) from error


def _check_rows(
    path: str, manifest: schema.Manifest, shard: schema.Shard, rows: np.ndarray
) -> Iterator[Fault]:
    """Checks the rows of an index against the manifest."""
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
    """Compares a record with its row of the index.

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
    """The path inside a record, even if its checksum is wrong; None if unreadable."""
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
