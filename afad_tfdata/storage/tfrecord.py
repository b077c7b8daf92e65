"""TFRecord framing and ``tf.train.Example``, without TensorFlow.

A record on disk (tensorflow/core/lib/io/record_writer.h)::

    length (8 bytes, little-endian) | masked CRC-32C of it (4) | data | masked CRC-32C

An example is a protocol buffer: a map from feature names to lists of bytes or integers
(tensorflow/core/example/example.proto).  This module writes one in a few microseconds,
and knows at which byte of the file the image begins.  The writer processes stay small,
because they do not load TensorFlow.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.storage import schema

HEADER_BYTES = 12
FOOTER_BYTES = 4
# Stored checksums are rotated and offset by this (tensorflow/core/lib/hash/crc32c.h):
# the CRC of data that ends with its own CRC is always the same number.
_MASK_DELTA = 0xA282EAD8


class RecordError(Exception):
    """A record whose framing or checksum is wrong; the text is the reason."""


class Record(NamedTuple):
    """One framed record.

    Attributes:
      data: The bytes in the file.
      image_offset: The position of the encoded image in them.
    """

    data: bytes
    image_offset: int


def encode_record(
    image: bytes,
    *,
    image_format: str,
    height: int,
    width: int,
    filename: bytes,
    sha256: bytes,
    age: int,
    gender: int,
    group: bytes | None = None,
) -> Record:
    """A TFRecord: a framed example with the features of `schema`.

    Args:
      image: Encoded image or raw pixels.
      image_format: One of `schema.IMAGE_FORMATS`.
      height: Pixels of that image.
      width: Pixels of that image.
      filename: Path relative to the data set's root, as the file system has it.
      sha256: 32 bytes: digest of `image`.
      age: Years.
      gender: 0 or 1.
      group: What the image belongs to, empty if unknown; None for a data set without
        groups.
    """
    head = b"".join(
        (
            _bytes_feature(schema.IMAGE_FILENAME, filename),
            _bytes_feature(schema.IMAGE_FORMAT, image_format.encode()),
            _int_feature(schema.IMAGE_HEIGHT, height),
            _int_feature(schema.IMAGE_WIDTH, width),
            _bytes_feature(schema.IMAGE_SHA256, sha256),
            _int_feature(schema.LABEL_AGE, age),
            _int_feature(schema.LABEL_GENDER, gender),
            b"" if group is None else _bytes_feature(schema.IMAGE_GROUP, group),
        )
    )
    # The image is the last entry, so that it ends where the record's data end.
    prefix = _bytes_prefix(schema.IMAGE_ENCODED, len(image))
    start = b"\n" + _varint(len(head) + len(prefix) + len(image)) + head + prefix
    return Record(frame(start + image), HEADER_BYTES + len(start))


def frame(data: bytes) -> bytes:
    """Frames bytes as one TFRecord: adds the length and the checksums."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (
            length,
            struct.pack("<I", masked_crc32c(length)),
            data,
            struct.pack("<I", masked_crc32c(data)),
        )
    )


def framed_records(path: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """``(offset, framed record)`` of each TFRecord of a local file, unchecked.

    Args:
      path: The file.
      start: Offset of the first record.

    Raises:
      DataError: The last record is cut short, or the file is no TFRecord file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        f.seek(start)
        offset = start
        while offset < size:
            header = f.read(HEADER_BYTES)
            whole = len(header) == HEADER_BYTES
            length = struct.unpack("<Q", header[:8])[0] if whole else size
            rest = length + FOOTER_BYTES
            # Checked before the read, because a damaged length may be exabytes.
            if offset + HEADER_BYTES + rest > size:
                raise errors.DataError(
                    f"{path} is cut short or no TFRecord file: the record at byte"
                    f" {offset} reaches past its end"
                )
            framed = header + f.read(rest)
            yield offset, framed
            offset += len(framed)


def starts_record(path: str) -> bool:
    """Whether a local file begins with the length of a TFRecord and its checksum."""
    with open(path, "rb") as f:
        return sound_length(f.read(HEADER_BYTES))


def sound_length(framed: bytes) -> bool:
    """Whether the checksum of a TFRecord's length is right."""
    if len(framed) < HEADER_BYTES:
        return False
    return masked_crc32c(framed[:8]) == struct.unpack("<I", framed[8:HEADER_BYTES])[0]


def next_record(path: str, start: int, num_bytes: int) -> int | None:
    """Offset of the first sound TFRecord at or after a byte; None if none is found.

    Args:
      path: A local file.
      start: Offset in it.
      num_bytes: How many bytes are searched.
    """
    with open(path, "rb") as f:
        f.seek(start)
        searched = f.read(num_bytes)
        for i in range(len(searched) - HEADER_BYTES):
            # The upper half of a length is zero, which rules out almost all places.
            if searched[i + 4 : i + 8] != bytes(4):
                continue
            if not sound_length(searched[i : i + HEADER_BYTES]):
                continue
            (length,) = struct.unpack("<Q", searched[i : i + 8])
            f.seek(start + i)
            framed = f.read(HEADER_BYTES + length + FOOTER_BYTES)
            try:
                check_record(framed)
            except RecordError:
                continue
            return start + i
    return None


def check_record(framed: bytes) -> bytes:
    """The data of a TFRecord, whose checksums must be right.

    Raises:
      RecordError: A length or checksum is wrong.
    """
    if len(framed) < HEADER_BYTES + FOOTER_BYTES:
        raise RecordError("the record is cut short")
    length, crc = struct.unpack("<QI", framed[:HEADER_BYTES])
    if masked_crc32c(framed[:8]) != crc:
        raise RecordError("the checksum of its length does not match")
    if length != len(framed) - HEADER_BYTES - FOOTER_BYTES:
        raise RecordError(f"its length says {length} bytes")
    data = unchecked_data(framed)
    if masked_crc32c(data) != struct.unpack("<I", framed[-FOOTER_BYTES:])[0]:
        raise RecordError("the checksum of its data does not match")
    return data


def unchecked_data(framed: bytes) -> bytes:
    """The data of a TFRecord that may be damaged, to find out which image it is."""
    return framed[HEADER_BYTES:-FOOTER_BYTES]


def parse_example(data: bytes) -> dict[str, Any]:
    """Features of an example in a TFRecord: bytes or int by name.

    Raises:
      RecordError: The bytes are not such an example.
    """
    try:
        features: dict[str, Any] = {}
        for entry in _message_fields(_only_field(_message_fields(data))[1]):
            key, value = _message_fields(entry[1])
            kind, items = _only_field(_message_fields(value[1]))
            (item,) = [content for _, content in _message_fields(items)]
            name = bytes(key[1]).decode()
            # Field 3 of a Feature is its Int64List, field 1 its BytesList.
            features[name] = (
                _signed_int64(_read_varint(item, 0)[0]) if kind == 3 else item
            )
        return features
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise RecordError(f"it is not an example of this schema ({error})") from error


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and offset as in TFRecord files."""
    # Imported here, so that --help of the commands does not load it.
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _name_prefix(name: str) -> bytes:
    """The bytes of a feature's name in a ``tf.train.Example``."""
    encoded = name.encode()
    return b"\n" + _varint(len(encoded)) + encoded


# Lengths repeat from image to image.  The cache has more entries than AFAD has
# different file sizes.
@functools.lru_cache(1 << 15)
def _bytes_prefix(name: str, length: int) -> bytes:
    """The bytes of a map entry of an example that precede its only value."""
    item = b"\n" + _varint(length)  # BytesList.value
    items = b"\n" + _varint(len(item) + length)  # Feature.bytes_list
    value = b"\x12" + _varint(len(items) + len(item) + length)  # entry.value
    entry = _name_prefix(name) + value + items + item
    return b"\n" + _varint(len(entry) + length) + entry


def _bytes_feature(name: str, value: bytes) -> bytes:
    """A feature of bytes, as ``tf.train.Example`` has it."""
    return _bytes_prefix(name, len(value)) + value


# Cached, because the ages, genders and sides of all records take few values.
@functools.lru_cache(4096)
def _int_feature(name: str, value: int) -> bytes:
    """A feature of an integer, as ``tf.train.Example`` has it."""
    item = _varint(value % (1 << 64))  # A negative number in two's complement.
    items = b"\n" + _varint(len(item)) + item  # Int64List.value, packed
    feature = b"\x1a" + _varint(len(items)) + items  # Feature.int64_list
    entry = _name_prefix(name) + b"\x12" + _varint(len(feature)) + feature
    return b"\n" + _varint(len(entry)) + entry


def _varint(value: int) -> bytes:
    """A number as a varint of a protocol buffer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed_int64(value: int) -> int:
    """The int64 of a protocol buffer from the 64 bits that represent it."""
    return value - (1 << 64) if value >> 63 else value


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads a protocol buffer's varint; returns it and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:  # This also ends the loop for damaged bytes.
            raise ValueError("a number of more than 64 bits")


def _message_fields(data: bytes) -> list[tuple[int, bytes]]:
    """Fields of a protocol buffer's message: (field number, content)."""
    position, out = 0, []
    while position < len(data):
        tag, position = _read_varint(data, position)
        if tag & 7 != 2:  # Wire type 2 is length-delimited; nothing else is written.
            raise ValueError(f"wire type {tag & 7}")
        length, position = _read_varint(data, position)
        if position + length > len(data):
            raise ValueError("a field reaches past its end")
        out.append((tag >> 3, data[position : position + length]))
        position += length
    return out


def _only_field(fields: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """The only field of a protocol buffer's message."""
    (field,) = fields
    return field
