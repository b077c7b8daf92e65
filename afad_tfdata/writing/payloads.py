"""One shard's payload: its images, read, checked and stored, duplicates included.

The writer knows which images are byte-identical only after it has read every image of
the data set.  Writing therefore has two parts.  `write` reads the images of a shard
once and stores them as a payload.  Later `shard_writer.write` makes the shard from the
payload, without the images that were dropped.  A payload depends only on the plan and
the images, not on the process that writes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import crc32, errors, files, locks
from afad_tfdata.images import codec, face_crop
from afad_tfdata.storage import schema, tfrecord
from afad_tfdata.writing import archive_spools, data_set_config, face_images, plan

_PROGRESS_EVERY = 64  # Images; one message for each image would cost too much time.
_BUFFER_BYTES = 1 << 20  # Joins images, of a few kilobytes each, into large writes.


@dataclasses.dataclass(frozen=True)
class Payload:
    """What the writer knows of a shard after it has read the shard's images.

    Attributes:
      index: ``[n]`` rows of `schema.INDEX_DTYPE`; offsets are those in the payload.
      sha256: uint8 ``[n, 32]``: digest of each image's source bytes.
      sums: uint64 ``[n, 3]``: channel sums at the image size; zero outside
        `plan.Plan.mean_splits`.
      rows: int64 ``[n]``: rows of the plan.
      rejected: ``(row, reason)`` of images that cannot be used.
      digest: Hexadecimal SHA-256 of the payload's file.
    """

    index: np.ndarray
    sha256: np.ndarray
    sums: np.ndarray
    rows: np.ndarray
    rejected: list[tuple[int, str]]
    digest: str


def prepare() -> None:
    """Imports the libraries that write payloads, before there is one to write."""
    codec.load_decoders()
    tfrecord.masked_crc32c(b"")


def write(
    root: str,
    work_plan: plan.Plan,
    task: plan.ShardTask,
    directory: str,
    progress: Callable[[int], None],
) -> None:
    """Writes a shard's payload, unless another process has done so.

    Args:
      root: Directory of the source; empty for an archive, whose images are spooled.
      work_plan: Says which images belong to the shard.
      task: The shard.
      directory: Work directory, where the payload is stored.
      progress: Called with numbers of images done.

    Raises:
      UsageError: The disk is full or cannot be written, another process is writing the
        same shard, or the spool is missing.
    """
    target = path(directory, task)
    with locked(target):
        if load(directory, work_plan, task) is not None:
            progress(task.num_images)  # Another process has written the payload.
            return
        # The file is not truncated, because a finished shard may be a link to it.
        files.remove_if_there(target)
        _write_new(root, work_plan, task, directory, progress)
    archive_spools.remove(directory, task)


def _write_new(
    root: str,
    work_plan: plan.Plan,
    task: plan.ShardTask,
    directory: str,
    progress: Callable[[int], None],
) -> None:
    """Writes a payload, for a process that has the payload's lock."""
    images = work_plan.config.images
    if root:
        read = _tree_reader(root, images.max_file_bytes)
    else:
        read = archive_spools.reader(directory, task, images.max_file_bytes)
    keep_pixels = task.split in work_plan.mean_splits
    as_record = work_plan.config.format == "tfrecord"
    stored = _PayloadTable(task.shard)
    target = path(directory, task)
    pending = 0  # Images that are not yet reported to `progress`.
    try:
        with open(target, "wb", buffering=_BUFFER_BYTES) as out:
            for entry in work_plan.entries(task):
                if pending == _PROGRESS_EVERY:
                    progress(pending)
                    pending = 0
                pending += 1
                try:
                    content = read(entry.row, entry.path)
                    image = _stored_image(
                        content, images, keep_pixels=keep_pixels, box=entry.box
                    )
                except codec.ImageError as error:
                    stored.rejected.append((entry.row, str(error)))
                    continue
                data, image_offset = (
                    _tfrecord_of_image(image, entry)
                    if as_record
                    else (image.content, 0)
                )
                out.write(data)
                # The sums are of the image as the input pipeline will see it.
                sums = (0, 0, 0)
                if image.pixels is not None:
                    sums = codec.channel_sums(codec.resize(image.pixels, images.size))
                stored.add(entry, image, data, image_offset, sums)
    except OSError as error:
        files.remove_if_there(target)
        raise files.write_error(target, error) from error
    progress(pending)
    # There is no need to wait for the disk here: the digest shows whether a crash
    # damaged the payload.  `shard_writer.write` waits before the shard gets its name.
    known = stored.to_npz(work_plan.digest)
    files.write_atomic(_table_path(directory, task), known, durable=False)


@contextlib.contextmanager
def locked(target: str) -> Iterator[None]:
    """Keeps other processes from writing this payload or spool.

    Raises:
      UsageError: Another process is writing it.
    """
    # The lock is a separate file, because the payload is removed and written anew.
    try:
        lock = locks.FileLock(f"{target}.lock")
    except BlockingIOError as error:
        raise errors.UsageError(
            f"another process is writing {target}: wait for it, or end it first"
        ) from error
    with lock:
        yield


def load(
    directory: str, work_plan: plan.Plan, task: plan.ShardTask, *, check: bool = True
) -> Payload | None:
    """Loads a payload that `write` stored.

    Args:
      directory: The work directory.
      work_plan: The plan that the payload must belong to.
      task: The shard.
      check: Whether to read the payload and compare it with its SHA-256; not needed
        for a payload that this run has written.

    Returns:
      None if there is no finished payload, it is damaged, or it belongs to another
      plan.
    """
    try:
        with np.load(_table_path(directory, task)) as known:
            payload = Payload(
                index=known["index"],
                sha256=known["sha256"],
                sums=known["sums"],
                rows=known["rows"],
                rejected=[tuple(x) for x in json.loads(known["rejected"].tobytes())],
                digest=known["payload"].tobytes().hex(),
            )
            if known["plan"].tobytes() != work_plan.digest:
                return None
    except Exception:  # A damaged archive may raise an error of any type.
        return None
    target = path(directory, task)
    if not os.path.exists(target):
        return None
    if check and files.sha256(target) != payload.digest:
        return None
    return payload


def forget(directory: str, task: plan.ShardTask) -> None:
    """Makes the next run write this payload again."""
    files.remove_if_there(_table_path(directory, task))


def path(directory: str, task: plan.ShardTask) -> str:
    """Path of the file of a shard's payload."""
    return os.path.join(directory, f"{task.name}.payload")


def _table_path(directory: str, task: plan.ShardTask) -> str:
    """Path of the table of a payload's images, which is written after them."""
    return os.path.join(directory, f"{task.name}.npz")


class _Image(NamedTuple):
    """An image that can be stored."""

    format: str
    height: int
    width: int
    content: bytes  # The bytes to store.
    sha256: bytes  # The digest of those bytes.
    source_sha256: bytes
    pixels: np.ndarray | None  # Decoded; None if they are not needed.


class _PayloadTable:
    """The table of a payload's images, which grows while the payload is written.

    It consists of plain lists, which become arrays at the end, because storing one row
    of a structured array costs microseconds.
    """

    def __init__(self, shard: int) -> None:
        self.rejected: list[tuple[int, str]] = []
        self._shard = shard
        self._index: list[tuple[int, ...]] = []
        self._source_sha256: list[bytes] = []
        self._sums: list[tuple[int, int, int]] = []
        self._rows: list[int] = []
        self._whole = hashlib.sha256()
        self._offset = 0

    def add(
        self,
        entry: plan.Entry,
        image: _Image,
        data: bytes,
        image_offset: int,
        sums: tuple[int, int, int],
    ) -> None:
        """Adds an image whose `data` was appended to the payload."""
        self._whole.update(data)
        self._index.append(  # In the order of schema.INDEX_DTYPE.
            (
                *(self._offset, self._offset + image_offset, entry.place, len(data)),
                *(len(image.content), crc32.crc32(image.content), self._shard),
                *(image.height, image.width, entry.age, entry.gender),
                schema.IMAGE_FORMATS.index(image.format),
            )
        )
        self._offset += len(data)
        self._source_sha256.append(image.source_sha256)
        self._sums.append(sums)
        self._rows.append(entry.row)

    def to_npz(self, plan_digest: bytes) -> bytes:
        """The content of the payload's .npz file, which `load` reads."""
        known = io.BytesIO()
        np.savez(
            known,
            index=np.array(self._index, schema.INDEX_DTYPE),
            sha256=np.frombuffer(b"".join(self._source_sha256), np.uint8).reshape(
                -1, 32
            ),
            sums=np.array(self._sums, np.uint64).reshape(-1, 3),
            rows=np.array(self._rows, np.int64),
            rejected=np.frombuffer(json.dumps(self.rejected).encode(), np.uint8),
            payload=np.frombuffer(self._whole.digest(), np.uint8),
            plan=np.frombuffer(plan_digest, np.uint8),
        )
        return known.getvalue()


def _tree_reader(root: str, max_file_bytes: int) -> Callable[[int, bytes], bytes]:
    """A function that reads a payload's images from a folder."""
    folder = os.fsencode(root) + b"/"

    def read(row: int, key: bytes) -> bytes:
        """The bytes of an image of the payload."""
        del row
        return codec.read_file(folder + key, max_file_bytes)

    return read


def _stored_image(
    content: bytes,
    config: data_set_config.ImageConfig,
    *,
    keep_pixels: bool,
    box: face_crop.Box | None = None,
) -> _Image:
    """Checks one image of a payload and encodes it as it will be stored.

    Args:
      content: The source's bytes.
      config: How to store the image.
      keep_pixels: Whether the pixels are needed afterwards, for the channel means.
      box: Of the face that is meant; None to find it.

    Raises:
      codec.ImageError: The image cannot be used.
    """
    if len(content) > config.max_file_bytes:
        raise codec.too_large(len(content), config.max_file_bytes)
    header = codec.read_header(content)
    codec.check_header(
        header,
        as_stored=config.encoding == "original",
        max_pixels=config.max_pixels,
    )
    digest = hashlib.sha256(content).digest()
    pixels: np.ndarray | None
    if config.encoding == "original":
        if keep_pixels:
            pixels = codec.decode(content, header)
            height, width = pixels.shape[:2]
        else:
            pixels = None
            height, width = codec.check_whole(content, header)
        return _Image(header.format, height, width, content, digest, digest, pixels)
    size = config.size
    pixels = codec.decode(content, header)
    if config.faces is not None:
        pixels = face_images.cut(pixels, config.faces, box)
        if box is not None:  # Another face of the same image is no duplicate.
            digest = hashlib.sha256(digest + repr(box).encode()).digest()
    else:
        pixels = codec.resize(pixels, size, antialias=True)
    if config.jpeg_quality is not None:  # Only the encoding "jpeg" has a quality.
        kind, stored = "jpeg", codec.encode_jpeg(pixels, config.jpeg_quality)
        if keep_pixels:  # The mean is that of the pixels that readers will see.
            pixels = codec.decode(stored)
    else:
        kind, stored = "raw", pixels.tobytes()
    own = hashlib.sha256(stored).digest()
    return _Image(
        kind, size, size, stored, own, digest, pixels if keep_pixels else None
    )


def _tfrecord_of_image(image: _Image, entry: plan.Entry) -> tfrecord.Record:
    """The TFRecord of one image of a payload."""
    return tfrecord.encode_record(
        image.content,
        image_format=image.format,
        height=image.height,
        width=image.width,
        filename=entry.key,
        sha256=image.sha256,
        age=entry.age,
        gender=entry.gender,
        group=entry.group,
    )
