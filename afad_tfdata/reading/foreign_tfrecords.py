"""Builds the index of other programs' TFRecord files, in one pass over them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import crc32, errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import (
    bad_records,
    foreign_features,
    foreign_labels,
    record_index,
)
from afad_tfdata.storage import schema, tfrecord

# If the user gives no name for a feature, the first of these that exists is read.
_USUAL_NAMES = {
    "image": (schema.IMAGE_ENCODED, "image", "image_raw"),
    "age": (schema.LABEL_AGE, "age"),
    "gender": (schema.LABEL_GENDER, "gender"),
}
# So many bytes after a damaged record are searched for the next good one.
_SEARCHED_BYTES = 16 << 20
_COMPRESSIONS = {
    b"\x1f\x8b": ("GZIP", "gunzip FILE.gz, or "),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd, or "),
}


_log = logging.getLogger(__name__)


def build_index(
    paths: Sequence[str],
    names: Mapping[str, str],
    mean: tuple[float, float, float] | None,
    split: str,
    skipped: bad_records.SkippedRecords,
) -> record_index.RecordIndex:
    """Builds the record index of TFRecord files that another program wrote.

    Args:
      paths: Local files.
      names: Names of features that the user gave, by field.
      mean: Channel means; None if they are not known.
      split: Name of the split.
      skipped: Takes the unusable records.

    Raises:
      UsageError: The meaning of the files' contents is ambiguous.
      DataError: A file is damaged.
    """
    rows: list[tuple] = []
    ages: list[float] = []
    # A file without records is left out: it has no first record to describe it.
    filled: list[str] = []
    readers: dict[str, foreign_labels.ForeignLabel] = {}
    for path in paths:
        _log.info("input: indexing %s", path)
        shard = len(filled)
        for number, offset, framed in _good_tfrecords(path, skipped):
            what = f"record {number} of {path}"
            try:
                example = _parse_foreign_example(framed)
                if not readers and not rows:
                    names = foreign_features.resolve_names(
                        names, set(example), _USUAL_NAMES, path
                    )
                    readers = {
                        label: foreign_labels.ForeignLabel(
                            label, names[label], set(example)
                        )
                        for label in foreign_features.LABELS
                        if label in names
                    }
                image, header = _encoded_image(example, names["image"])
                values = {
                    label: reader.read(example.get(reader.name), what)
                    for label, reader in readers.items()
                }
            except (_UnusableError, foreign_labels.LabelError) as error:
                wrong_label = isinstance(error, foreign_labels.LabelError)
                skipped.add(f"{what}: {error}", label=wrong_label)
                continue
            age = values.get("age", 0.0)
            ages.append(age)
            rows.append(
                (
                    # `place` stays 0: only the writer uses it, to order records.
                    *(offset, offset + framed.index(image), 0, len(framed)),
                    *(len(image), crc32.crc32(image), shard),
                    *(header.height, header.width, int(age), values.get("gender", 0)),
                    schema.IMAGE_FORMATS.index(header.format),
                )
            )
        if rows and rows[-1][6] == shard:
            filled.append(path)
    skipped.check_labels(len(rows))
    if not rows:
        raise errors.UsageError(
            f"--files: {len(paths)} files without a usable record; the first is"
            f" {paths[0]}"
        )
    if "age" in readers:
        readers["age"].check_all(ages, paths[0])
    entries = np.array(rows, schema.INDEX_DTYPE)
    sides = np.unique([entries["height"], entries["width"]])
    side = int(sides[0]) if len(sides) == 1 else 0
    return record_index.RecordIndex(
        paths=tuple(filled),
        entries=entries,
        format="tfrecord",
        stored_size=side,
        image_size=side,
        pixel={},
        dataset="",
        labels=tuple(readers),
        mean_rgb=mean,
        split=split,
        features=dict(names),
        exact_ages=record_index.fractional_ages(ages),
        num_skipped=skipped.count,
        # The hash differs if the same files are indexed with other images or records.
        identity=hashlib.sha256(entries.tobytes()).hexdigest(),
    )


class _UnusableError(Exception):
    """A record that cannot be used; the text is the reason."""


def _good_tfrecords(
    path: str, skipped: bad_records.SkippedRecords
) -> Iterator[tuple[int, int, bytes]]:
    """Yields ``(number, offset, framed record)`` of each good record of a file.

    Raises:
      UsageError: The file is compressed or no TFRecord file.
      DataError: A record is damaged, beyond what `skipped` allows.
    """
    size = os.path.getsize(path)
    if size and not tfrecord.starts_record(path):
        _refuse_other_format(path)
    offset = number = 0
    # A loop is needed, because the generator ends at a record with a damaged length.
    while offset < size:
        try:
            for start, framed in tfrecord.framed_records(path, offset):
                offset = start
                try:
                    tfrecord.check_record(framed)
                except tfrecord.RecordError as error:
                    if not tfrecord.sound_length(framed):
                        raise errors.DataError(f"{path}: {error}") from error
                    skipped.add(f"record {number} of {path} is damaged: {error}")
                else:
                    yield number, start, framed
                offset, number = start + len(framed), number + 1
            return
        except errors.DataError as error:
            if skipped.count >= skipped.budget:
                raise
            found = tfrecord.next_record(path, offset + 1, _SEARCHED_BYTES)
            lost = (size if found is None else found) - offset
            # The number of lost records is estimated from the size of the earlier ones.
            many = max(1, round(lost * number / offset)) if offset else 1
            skipped.add(
                f"record {number} of {path} and what follows it, {lost} bytes, about"
                f" {many} records: {error}",
                many,
            )
            if found is None:
                return
            offset, number = found, number + many


def _refuse_other_format(path: str) -> None:
    """Raises an error that says what a file is that begins with no TFRecord.

    Raises:
      UsageError: It is compressed, or of another known kind.
      DataError: Its first record is damaged, or it is not a TFRecord file.
    """
    with open(path, "rb") as f:
        start = f.read(1 << 16)
    name, tool = next(
        (v for magic, v in _COMPRESSIONS.items() if start.startswith(magic)), ("", "")
    )
    if not name and start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0:
        # A header of zlib has only two bytes.  A damaged record could begin with them.
        with contextlib.suppress(zlib.error):
            if zlib.decompressobj().decompress(start, 16):
                name = "ZLIB"
    if name:
        raise errors.UsageError(
            f"--files: {path} is compressed ({name}), and records are read in any"
            f" order: unpack it first ({tool}copy its records from"
            " tf.data.TFRecordDataset(FILE, compression_type) to"
            " tf.io.TFRecordWriter(NEW_FILE))"
        )
    if start.startswith(b"version https://git-lfs"):
        raise errors.UsageError(
            f"--files: {path} is a pointer of Git LFS, not the file: git lfs pull"
        )


def _parse_foreign_example(framed: bytes) -> dict[str, Any]:
    """Returns an example's features by name: a value, a list, or None for none.

    Raises:
      _UnusableError: The record contains something else.
    """
    try:
        example = tf.train.Example.FromString(tfrecord.unchecked_data(framed))
    except Exception as error:  # protobuf's own classes differ between versions.
        raise _UnusableError("it is no tf.train.Example") from error
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        found[name] = values[0] if len(values) == 1 else (values or None)
    return found


def _encoded_image(
    example: Mapping[str, Any], name: str
) -> tuple[bytes, codec.ImageHeader]:
    """Returns the encoded image of another program's example, and its header.

    Raises:
      _UnusableError: The record has no image that can be used.
    """
    image = example.get(name)
    if not isinstance(image, bytes):
        raise _UnusableError(f"there is no image in {name!r}")
    try:
        header = codec.read_header(image)
        codec.check_header(header, as_stored=True)
    except codec.ImageError as error:
        raise _UnusableError(f"its image cannot be used: {error}") from error
    # Entropy-coded data never contain these bytes, but a thumbnail before them does.
    if header.format == "jpeg" and image.rfind(b"\xff\xd9") <= image.rfind(b"\xff\xda"):
        raise _UnusableError("its image cannot be used: the JPEG is cut short")
    return image, header
