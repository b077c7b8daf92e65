"""The faces on the page: read from records by number, and shown as pictures.

::

    for face in page_faces.read("records", manifest, "test", [0, 17]):
        page_faces.figure(face, face.key)

A picture is part of the page as a data URI, so that nothing is requested.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.images import codec
from afad_tfdata.reporting import html_elements
from afad_tfdata.storage import joined_data_sets, schema, tfrecord
from afad_tfdata.writing import data_set_pictures

# Pixels and JPEG quality of the faces of a contact sheet.
_SIDE, _QUALITY = 96, 80


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """One face of a data set, by its record.

    Attributes:
      directory: Directory of its data set.
      split: Its split.
      record: Number of its record in the index of the split.
      shard: File name of its shard.
      position: Number of its record in the shard.
      age: Years; `schema.MISSING` without this label.
      gender: 0 or 1; `schema.MISSING` without this label.
      crc32: CRC-32 of the stored image, from the index.
      key: Path of its file in the source; empty if it cannot be read.
      sha256: SHA-256 of the stored image, hexadecimal; empty in HDF5.
      image: uint8 ``[S, S, 3]``; None if it cannot be read.
      fault: Why it cannot be read; empty if it can.
    """

    directory: str
    split: str
    record: int
    shard: str
    position: int
    age: int
    gender: int
    crc32: int
    key: str = ""
    sha256: str = ""
    image: np.ndarray | None = None
    fault: str = ""


def even_sample(total: int, count: int) -> np.ndarray:
    """Numbers of at most `count` faces that are spread evenly over all records.

    Records are stored in the order of hashes of their keys.  Therefore an even sample
    is a random one, but the same each time.
    """
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def read(
    directory: str,
    manifest: schema.Manifest,
    split: str,
    records: Sequence[int] | np.ndarray,
    *,
    images: bool = True,
) -> Iterator[Face]:
    """Reads faces for the page, in the order of `records`.

    Args:
      directory: A local data set.
      manifest: Its manifest.
      split: Its split.
      records: Numbers of records in the index.
      images: Whether to read the images, too.

    Raises:
      UsageError: The split has no examples.
      DataError: The index is damaged.
    """
    index = schema.load_index(directory, manifest, split)
    shards = manifest.split(split).shards
    starts = np.cumsum([0, *(shard.num_examples for shard in shards)])
    opened = _FaceKeys(manifest.format)
    with opened:
        for record in records:
            row = index[int(record)]
            shard = int(row["shard"])
            face = Face(
                directory=directory,
                split=split,
                record=int(record),
                shard=shards[shard].name,
                position=int(record) - int(starts[shard]),
                age=int(row["age"]),
                gender=int(row["gender"]),
                crc32=int(row["crc32"]),
            )
            path = files.join(directory, face.shard)
            found: dict = {}
            try:
                found["key"], found["sha256"] = opened.read_key(
                    path, row, face.position
                )
                if images:
                    found["image"] = data_set_pictures.read_picture(
                        path, row, face.position, manifest
                    )
            # A damaged record may raise any error, which must not hide other faces.
            except Exception as error:
                if isinstance(error, (MemoryError, errors.UsageError)):
                    raise
                found["fault"] = errors.one_line(error) or type(error).__name__
            yield dataclasses.replace(face, **found)


def read_rows(
    records_dir: str, split: str, rows: Sequence[int], *, max_examples: int = 0
) -> Iterator[Face]:
    """Reads faces for the page by their row in a split of one or several data sets.

    Args:
      records_dir: Directories, separated by commas.
      split: The split.
      rows: Numbers of rows, ascending; those beyond the last record are left out.
      max_examples: How many records of the split count at most; 0 for all.

    Raises:
      UsageError: There is no such data set, or it is remote.
      DataError: It is damaged.
    """
    places = joined_data_sets.directories(records_dir)
    manifests = [schema.load_manifest(place) for place in places]
    lengths = [
        manifest.splits[split].num_examples if split in manifest.splits else 0
        for manifest in manifests
    ]
    start = 0
    shares = joined_data_sets.shares_of(lengths, max_examples)
    for place, manifest, length in zip(places, manifests, shares, strict=True):
        if files.is_remote(place):
            raise errors.UsageError(f"{place} is not on this machine")
        here = [row - start for row in rows if start <= row < start + length]
        if here:
            yield from read(place, manifest, split, here)
        start += length


def thumbnail(face: Face, side: int, quality: int) -> bytes:
    """A JPEG of a face; empty if there is no image."""
    if face.image is None:
        return b""
    small = codec.resize(face.image, side, antialias=True)
    return codec.encode_jpeg(small, quality)


def jpeg_uri(content: bytes) -> str:
    """A data URI with the JPEG of a face on the page, which needs no file."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def figure(shown: Face, *caption: html_elements.Element | str) -> html_elements.Element:
    """A face on the page with a caption; a box with the reason if it has no image."""
    content = thumbnail(shown, _SIDE, _QUALITY)
    text = html_elements.extend(html_elements.new("figcaption"), caption)
    if not content:
        reason = shown.fault or "without image"
        return html_elements.new(
            "figure", html_elements.new("span", reason, class_="no-face"), text
        )
    image = html_elements.new(
        "img",
        src=jpeg_uri(content),
        alt=shown.key,
        width=_SIDE,
        height=_SIDE,
    )
    return html_elements.new("figure", image, text)


def sheet(faces: list[html_elements.Element]) -> html_elements.Element:
    """Faces on the page in rows, as many in a row as fit on the screen."""
    return html_elements.new("div", *faces, class_="faces")


class _FaceKeys:
    """Reads the keys of faces, with one shard open at a time."""

    def __init__(self, format: str) -> None:
        self._format, self._path = format, ""
        self._file: Any = None  # A binary file, or one of h5py.

    def __enter__(self) -> _FaceKeys:
        return self

    def __exit__(self, *unused: object) -> None:
        self._close_shard()

    def read_key(self, path: str, row: np.void, position: int) -> tuple[str, str]:
        """Key and SHA-256 of the image of a face."""
        if path != self._path:
            self._close_shard()
            self._file, self._path = self._open_shard(path), path
        if self._format == "hdf5":
            return os.fsdecode(bytes(self._file["filename"][position])), ""
        self._file.seek(int(row["record_offset"]))
        framed = self._file.read(int(row["record_length"]))
        example = tfrecord.parse_example(tfrecord.unchecked_data(framed))
        digest = bytes(example.get(schema.IMAGE_SHA256, b""))
        return os.fsdecode(bytes(example[schema.IMAGE_FILENAME])), digest.hex()

    def _open_shard(self, path: str) -> Any:
        """Opens a shard to read the keys of faces."""
        if self._format == "hdf5":
            import h5py

            return h5py.File(path, "r")
        return open(path, "rb")

    def _close_shard(self) -> None:
        """Closes the shard that is open."""
        if self._file is not None:
            self._file.close()
        self._file, self._path = None, ""
