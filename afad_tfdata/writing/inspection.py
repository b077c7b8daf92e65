"""What a data set holds, whether it is sound, and how it differs from another.

`verify` reads every byte once: sizes and SHA-256 of all files, the framing and checksum
of each record, its labels against the index, and each image by decoding it.  A fault
names the file, the record's position in it and the image's path, as far as they can
still be read; one bad record never hides the next.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from afad_tfdata import records
from afad_tfdata.common import errors, files, options
from afad_tfdata.images import codec
from afad_tfdata.storage import schema, tfrecord
from afad_tfdata.writing import dataset_pictures, writer_pool

_BAR_WIDTH = 40


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """What to look at.

    Attributes:
      records_dir: The data set.
      verify: Read everything and check it.
      diff: Another data set to compare with.
      histogram: PNG of ages by split to draw.
      sheet: PNG of faces with labels to draw.
      split: Split of the sheet.
      num_workers: Threads; 0 for one for each core.
    """

    records_dir: str = options.option("", "Directory of the data set.")
    verify: bool = options.option(
        False, "Read and check every record; exit status 2 if any is bad."
    )
    diff: str = options.option("", "Directory of another data set to compare with.")
    histogram: str = options.option("", "PNG file of ages by split to draw.")
    sheet: str = options.option("", "PNG file of faces with labels to draw.")
    split: str = options.option(
        "train", "Split of --sheet.", choices=("train", "validation", "test")
    )
    num_workers: int = options.option(0, "Threads; 0 for one for each core.")

    def __post_init__(self) -> None:
        options.check_choices(self)
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
      key: Path of the image, where it is known.
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
class Report:
    """What `inspect_records` found.

    Attributes:
      text: For people.
      value: The same as JSON values.
      faults: Of `verify`; empty where nothing is wrong or nobody asked.
    """

    text: str
    value: dict[str, Any]
    faults: list[Fault]


def inspect_records(config: InspectConfig) -> Report:
    """Looks at a data set.

    Raises:
      UsageError: It is no data set.
      DataError: Its manifest is damaged and `verify` was not asked for.
    """
    if config.verify:
        faults = verify(config.records_dir, num_workers=config.num_workers)
        if any(f.file == schema.MANIFEST_NAME for f in faults):
            named = [dataclasses.asdict(fault) for fault in faults]
            return Report("\n".join(map(str, faults)), {"faults": named}, faults)
    manifest = schema.load_manifest(config.records_dir)
    lines = [_heading(manifest), records.table(manifest), "", *_ages(manifest)]
    value: dict[str, Any] = dataclasses.asdict(manifest)
    if config.histogram:
        dataset_pictures.draw_histogram(config.histogram, manifest)
        lines += ["", f"ages by split: {config.histogram}"]
    if config.sheet:
        dataset_pictures.draw_sample(
            config.sheet,
            config.records_dir,
            manifest,
            config.split,
            count=80,
            columns=10,
        )
        lines += ["", f"faces with labels: {config.sheet}"]
    if config.diff:
        differences = diff(config.records_dir, config.diff)
        value["diff"] = differences
        lines += ["", f"against {config.diff}:", *(f"  {d}" for d in differences)]
        lines += [] if differences else ["  no difference"]
    if not config.verify:
        return Report("\n".join(lines), value, [])
    value["faults"] = [dataclasses.asdict(fault) for fault in faults]
    if faults:
        lines += ["", *map(str, faults), f"{len(faults)} fault(s)"]
    else:
        lines += ["", f"verified: all {manifest.written:,} records are as written"]
    return Report("\n".join(lines), value, faults)


def verify(records_dir: str, *, num_workers: int = 0) -> list[Fault]:
    """Reads every byte of a data set and checks it.

    Args:
      records_dir: The data set.
      num_workers: Threads; 0 for one for each core.

    Returns:
      The faults, by file and position; empty for a sound data set.

    Raises:
      UsageError: There is no manifest.
    """
    try:
        manifest = schema.load_manifest(records_dir)
    except errors.DataError as error:
        return [Fault(schema.MANIFEST_NAME, None, None, str(error))]
    jobs: list[tuple[schema.Shard, np.ndarray | None]] = []
    faults: list[Fault] = []
    for name, split in manifest.splits.items():
        index_faults = list(_check_file(records_dir, split.index))
        faults += index_faults
        index = None
        if not index_faults and split.num_examples:
            try:
                index = schema.load_index(records_dir, manifest, name)
            except errors.DataError as error:  # It changed since.
                faults.append(Fault(split.index.name, None, None, str(error)))
        for number, shard in enumerate(split.shards):
            rows = None if index is None else index[index["shard"] == number]
            jobs.append((shard, rows))
    workers = num_workers or writer_pool.default_workers()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for found in pool.map(
            lambda job: list(_check_shard(records_dir, manifest, *job)), jobs
        ):
            faults += found
    return faults + _check_mean(records_dir, manifest)


def diff(records_dir: str, other_dir: str) -> list[str]:
    """How two data sets differ, a line each; empty where they hold the same bytes."""
    one, other = schema.load_manifest(records_dir), schema.load_manifest(other_dir)
    lines = []
    for name in sorted({*one.config, *other.config}):
        mine, theirs = one.config.get(name), other.config.get(name)
        if mine != theirs:
            lines.append(f"configuration {name}: {mine} here, {theirs} there")
    for split in one.splits:
        mine_split, other_split = one.splits[split], other.splits[split]
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


def _heading(manifest: schema.Manifest) -> str:
    mean = ", ".join(f"{name} {value:.2f}" for name, value in manifest.mean.items())
    return (
        f"{manifest.name}: {manifest.format}, images {manifest.image_encoding}"
        f" (size {manifest.image_size}), mean {mean}"
    )


def _ages(manifest: schema.Manifest) -> list[str]:
    """A histogram in text: all splits together."""
    totals: dict[int, int] = {}
    for split in manifest.splits.values():
        for by_age in split.counts.values():
            for age, count in by_age.items():
                totals[int(age)] = totals.get(int(age), 0) + count
    top = max(totals.values(), default=1)
    return [
        f"age {age:>3} {totals[age]:>7,} {'#' * round(_BAR_WIDTH * totals[age] / top)}"
        for age in sorted(totals)
    ]


def _check_file(directory: str, expected: schema.Shard) -> Iterator[Fault]:
    path = files.join(directory, expected.name)
    try:
        size = os.path.getsize(path)
    except OSError as error:
        yield Fault(expected.name, None, None, f"cannot be read: {error.strerror}")
        return
    if size != expected.num_bytes:
        fault = f"{size} bytes instead of {expected.num_bytes}"
        yield Fault(expected.name, None, None, fault)
    elif files.sha256(path) != expected.sha256:
        fault = "its SHA-256 does not fit: bytes were changed"
        yield Fault(expected.name, None, None, fault)


def _check_mean(directory: str, manifest: schema.Manifest) -> list[Fault]:
    try:
        stored = files.read_json(
            os.path.join(directory, schema.MEAN_NAME), what="", advice=""
        )
    except errors.AfadError as error:
        return [Fault(schema.MEAN_NAME, None, None, str(error).strip())]
    if stored != manifest.mean:
        return [Fault(schema.MEAN_NAME, None, None, "differs from the manifest")]
    return []


def _check_shard(
    directory: str,
    manifest: schema.Manifest,
    shard: schema.Shard,
    rows: np.ndarray | None,
) -> Iterator[Fault]:
    faults = list(_check_file(directory, shard))
    yield from faults
    path = os.path.join(directory, shard.name)
    if not os.path.exists(path):
        return
    if rows is None:
        return  # A damaged index was named already; it cannot lead to the records.
    if len(rows) != shard.num_examples:
        fault = f"the index has {len(rows)} records, the shard {shard.num_examples}"
        yield Fault(shard.name, None, None, fault)
    check = _check_tfrecord if manifest.format == "tfrecord" else _check_hdf5
    yield from check(path, shard.name, manifest, rows)


def _check_tfrecord(
    path: str, name: str, manifest: schema.Manifest, rows: np.ndarray
) -> Iterator[Fault]:
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
    """Raises `RecordError` or `ImageError` where a record and its index disagree."""
    content = features[schema.IMAGE_ENCODED]
    if zlib.crc32(content) != row["crc32"]:
        raise tfrecord.RecordError("the image's checksum does not fit the index")
    for feature, field in (
        (schema.LABEL_AGE, "age"),
        (schema.LABEL_GENDER, "gender"),
        (schema.IMAGE_HEIGHT, "height"),
        (schema.IMAGE_WIDTH, "width"),
    ):
        if features[feature] != row[field]:
            raise tfrecord.RecordError(
                f"{feature} is {features[feature]}, the index says {row[field]}"
            )
    if manifest.image_encoding == "raw":
        if len(content) != 3 * int(row["height"]) * int(row["width"]):
            raise tfrecord.RecordError(f"{len(content)} bytes of pixels")
        return
    if codec.decode(content).shape[:2] != (row["height"], row["width"]):
        raise tfrecord.RecordError("the image has another size than the index says")


def _readable_key(framed: bytes) -> str | None:
    """The path inside a record, even if its checksum does not fit."""
    try:
        data = tfrecord.unchecked_data(framed)
        return os.fsdecode(tfrecord.parse_example(data)[schema.IMAGE_FILENAME])
    except (tfrecord.RecordError, KeyError, TypeError):
        return None


def _check_hdf5(
    path: str, name: str, manifest: schema.Manifest, rows: np.ndarray
) -> Iterator[Fault]:
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
                if zlib.crc32(content) != row["crc32"]:
                    fault = "the image's checksum does not fit the index"
                    yield Fault(name, position, key, fault)
                for field, values in labels.items():
                    if values[position] != row[field]:
                        fault = f"{field} is {values[position]}, not {row[field]}"
                        yield Fault(name, position, key, fault)
    except Exception as error:  # A damaged file raises whatever h5py meets first.
        fault = f"cannot be read as HDF5: {errors.one_line(error)}"
        yield Fault(name, None, None, fault)
