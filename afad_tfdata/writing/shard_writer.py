"""One shard: from the plan's rows to a payload, and from the payload to the file.

Writing is cut in two because byte-identical duplicates are known only when every image
has been read: `write_payload` checks, decodes and stores all images of a shard;
`finish` leaves out what a decision over the whole data set dropped.  Both depend on the
plan and on the images only, not on who runs them or when.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from afad_tfdata.common import errors, files, locks
from afad_tfdata.images import codec
from afad_tfdata.storage import hdf5, schema, tfrecord
from afad_tfdata.writing import archive, plan

_COPY_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Payload:
    """What is known of a shard whose images were read.

    Attributes:
      index: `schema.INDEX_DTYPE` rows; offsets are those in the payload.
      sha256: uint8 ``[n, 32]``: digest of each image's source bytes.
      sums: uint64 ``[n, 3]``: channel sums at the image size; zero outside of the
        training split.
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
    """Imports what `write_payload` works with."""
    codec.prepare()
    tfrecord.masked_crc32c(b"")


def write_payload(
    root: str,
    work_plan: plan.Plan,
    task: plan.ShardTask,
    directory: str,
    progress: Callable[[int], None],
) -> None:
    """Reads a shard's images and stores them, with what is known of them.

    Args:
      root: Directory of the source; empty for an archive, whose images are spooled.
      work_plan: What goes where.
      task: The shard.
      directory: Where the payload goes, under the shard's name.
      progress: Called with numbers of images done.

    Raises:
      UsageError: The disk is full or cannot be written, another process is at the
        same shard, or the spool is gone.
    """
    path = payload_path(directory, task)
    with locked(path):
        if load_payload(directory, work_plan, task) is not None:
            progress(task.last - task.first)  # Another process was here before.
            return
        # Removed and not emptied: its bytes may stand under a second name.
        files.remove_if_there(path)
        _write_locked(root, work_plan, task, directory, path, progress)
    archive.remove_spool(directory, task)


def _write_locked(
    root: str,
    work_plan: plan.Plan,
    task: plan.ShardTask,
    directory: str,
    path: str,
    progress: Callable[[int], None],
) -> None:
    config = work_plan.config
    if root:
        read = _tree_reader(root, config)
    else:
        read = archive.reader(directory, task, config["max_file_bytes"])
    in_train, size = task.split == "train", config["image_size"]
    # Plain lists in the loop: an item of a structured array costs microseconds.
    index: list[tuple[Any, ...]] = []
    digests: list[bytes] = []
    sums: list[tuple[int, int, int]] = []
    rows: list[int] = []
    rejected: list[tuple[int, str]] = []
    whole = hashlib.sha256()
    offset = since = 0
    try:
        with open(path, "wb", buffering=1 << 20) as out:
            for row, key, place, age, gender in work_plan.entries(task):
                since += 1
                if since == 64:
                    progress(since)
                    since = 0
                try:
                    image = _checked(read(row, key), config, in_train=in_train)
                except codec.ImageError as error:
                    rejected.append((row, str(error)))
                    continue
                data, image_offset = image.content, 0
                if config["format"] == "tfrecord":
                    data, image_offset = tfrecord.encode_record(
                        image.content,
                        image_format=image.format,
                        height=image.height,
                        width=image.width,
                        filename=key,
                        sha256=image.sha256,
                        age=age,
                        gender=gender,
                    )
                out.write(data)
                whole.update(data)
                index.append(
                    (
                        *(offset, offset + image_offset, place, len(data)),
                        *(len(image.content), zlib.crc32(image.content), task.shard),
                        *(image.height, image.width, age, gender),
                        schema.IMAGE_FORMATS.index(image.format),
                    )
                )
                offset += len(data)
                digests.append(image.source_sha256)
                # Of the image at the size, as the input pipeline will see it.
                sums.append(
                    codec.channel_sums(codec.resize(image.pixels, size))
                    if in_train and image.pixels is not None
                    else (0, 0, 0)
                )
                rows.append(row)
    except OSError as error:
        files.remove_if_there(path)
        raise files.write_error(path, error) from error
    progress(since)
    known = io.BytesIO()
    np.savez(
        known,
        index=np.array(index, schema.INDEX_DTYPE),
        sha256=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        sums=np.array(sums, np.uint64).reshape(-1, 3),
        rows=np.array(rows, np.int64),
        rejected=np.frombuffer(json.dumps(rejected).encode(), np.uint8),
        payload=np.frombuffer(whole.digest(), np.uint8),
        plan=np.frombuffer(work_plan.digest, np.uint8),
    )
    # Nothing waits for the disk here: a payload that a crash tore is known by its
    # digest.  `finish` waits, before the shard takes its name.
    files.write_atomic(_known_path(directory, task), known.getvalue(), durable=False)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Keeps other processes from writing this file.

    Raises:
      UsageError: One is writing it.
    """
    try:
        lock = locks.FileLock(f"{path}.lock")
    except BlockingIOError as error:
        raise errors.UsageError(
            f"another process is writing {path}: wait for it, or end it first"
        ) from error
    with lock:
        yield


def load_payload(
    directory: str, work_plan: plan.Plan, task: plan.ShardTask, *, check: bool = True
) -> Payload | None:
    """What `write_payload` stored.

    Args:
      directory: Where it lies.
      work_plan: What it was written for.
      task: The shard.
      check: Whether to read the file and compare it with its SHA-256; not needed for
        what this run wrote itself.

    Returns:
      None where nothing was finished, it is damaged, or it is of another plan.
    """
    try:
        with np.load(_known_path(directory, task)) as known:
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
    except Exception:  # A torn archive raises whatever its first bad byte leads to.
        return None
    path = payload_path(directory, task)
    if not os.path.exists(path):
        return None
    if check and files.sha256(path) != payload.digest:
        return None
    return payload


def forget_payload(directory: str, task: plan.ShardTask) -> None:
    """Has a payload written again by the next run."""
    files.remove_if_there(_known_path(directory, task))


def finish(
    directory: str,
    destination: str,
    work_plan: plan.Plan,
    task: plan.ShardTask,
    payload: Payload,
    keep: np.ndarray,
) -> tuple[np.ndarray, schema.Shard]:
    """Makes the shard's file from its payload.

    Args:
      directory: Where the payload lies.
      destination: The data set's directory.
      work_plan: What goes where.
      task: The shard.
      payload: From `load_payload`.
      keep: bool ``[n]``: which records stay.

    Returns:
      The final index rows, and the shard as the manifest describes it.
    """
    source = payload_path(directory, task)
    index = payload.index[keep].copy()
    part = os.path.join(directory, f"{task.name}.part")
    unchanged = work_plan.config["format"] != "hdf5" and bool(keep.all())
    try:
        files.remove_if_there(part)
        if work_plan.config["format"] == "hdf5":
            _finish_hdf5(part, source, work_plan, payload, keep, index)
        elif not unchanged:
            _copy_records(source, part, payload.index[keep], index)
        else:
            # The payload stays until the manifest is there: a run that is killed
            # between finds it again.  A second name costs nothing where the file system
            # has links.
            try:
                os.link(source, part)
            except OSError:
                shutil.copyfile(source, part)
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        size = os.path.getsize(part)
        digest = payload.digest if unchanged else files.sha256(part)
        os.replace(part, os.path.join(destination, task.name))
    except (OSError, RuntimeError) as error:  # h5py raises both for a full disk.
        files.remove_if_there(part)
        raise files.write_error(part, error) from error
    return index, schema.Shard(task.name, len(index), size, digest)


class _Image(NamedTuple):
    """An image that is fit to be stored."""

    format: str
    height: int
    width: int
    content: bytes  # What is stored.
    sha256: bytes  # Of that.
    source_sha256: bytes
    pixels: np.ndarray | None  # Decoded, if asked for.


def _tree_reader(root: str, config: dict[str, Any]) -> Callable[[int, bytes], bytes]:
    """Reads images from their folder; `ImageError` for one that cannot be read."""
    folder, largest = os.fsencode(root) + b"/", config["max_file_bytes"]

    def read(row: int, key: bytes) -> bytes:
        del row
        return codec.read_file(folder + key, largest)

    return read


def _checked(content: bytes, config: dict[str, Any], *, in_train: bool) -> _Image:
    """Checks one image; `ImageError` if it cannot be used.

    The pixels of training images are kept, from which the means come.
    """
    encoding = config["image_encoding"]
    if len(content) > config["max_file_bytes"]:
        raise codec.too_large(len(content), config["max_file_bytes"])
    header = codec.probe(content)
    codec.check(
        header, as_stored=encoding == "original", max_pixels=config["max_pixels"]
    )
    digest = hashlib.sha256(content).digest()
    if encoding == "original":
        if in_train:
            pixels = codec.decode(content, header)
            height, width = pixels.shape[:2]
        else:
            pixels = None
            height, width = codec.verify(content, header)
        return _Image(header.format, height, width, content, digest, digest, pixels)
    size = config["image_size"]
    pixels = codec.resize(codec.decode(content, header), size, antialias=True)
    if encoding == "jpeg":
        kind, stored = "jpeg", codec.encode_jpeg(pixels, config["jpeg_quality"])
        pixels = codec.decode(stored)  # The mean is of what readers will see.
    else:
        kind, stored = "raw", pixels.tobytes()
    own = hashlib.sha256(stored).digest()
    return _Image(kind, size, size, stored, own, digest, pixels)


def payload_path(directory: str, task: plan.ShardTask) -> str:
    """Where a shard's payload lies."""
    return os.path.join(directory, f"{task.name}.payload")


def _known_path(directory: str, task: plan.ShardTask) -> str:
    return os.path.join(directory, f"{task.name}.npz")


def _copy_records(source: str, part: str, kept: np.ndarray, index: np.ndarray) -> None:
    """Copies the kept records; `index` gets their new offsets."""
    offset = 0
    with open(source, "rb") as f, open(part, "wb", buffering=1 << 20) as out:
        for i, row in enumerate(kept):
            f.seek(int(row["record_offset"]))
            out.write(f.read(int(row["record_length"])))
            index[i]["record_offset"] = offset
            image_shift = int(row["image_offset"]) - int(row["record_offset"])
            index[i]["image_offset"] = offset + image_shift
            offset += int(row["record_length"])


def _finish_hdf5(
    part: str,
    source: str,
    work_plan: plan.Plan,
    payload: Payload,
    keep: np.ndarray,
    index: np.ndarray,
) -> None:
    config = work_plan.config
    kept_rows = payload.rows[keep]
    side = config["image_size"]
    layout = hdf5.RowLayout(side, config["hdf5_dtype"], config["hdf5_channels"])
    with open(source, "rb") as f:
        offset = hdf5.write(
            part,
            _pixel_blocks(f, payload.index[keep], side),
            layout=layout,
            ages=payload.index["age"][keep],
            genders=payload.index["gender"][keep],
            filenames=[work_plan.key(int(row)) for row in kept_rows],
            compression=config["hdf5_compression"],
            labels=config["hdf5_labels"],
        )
        stride = layout.num_bytes
        chunked = config["hdf5_compression"] != "none"
        position = 0
        if not layout.plain:
            for block in _pixel_blocks(f, payload.index[keep], side):
                for row in layout.to_rows(block):
                    index[position]["crc32"] = zlib.crc32(row)
                    position += 1
    at = offset + np.arange(len(index), dtype=np.uint64) * np.uint64(stride)
    index["record_offset"] = index["image_offset"] = 0 if chunked else at
    index["record_length"] = index["image_length"] = 0 if chunked else stride


def _pixel_blocks(f: BinaryIO, kept: np.ndarray, side: int) -> Iterator[np.ndarray]:
    for start in range(0, len(kept), _COPY_ROWS):
        block = np.empty(
            (len(kept[start : start + _COPY_ROWS]), side, side, 3), np.uint8
        )
        for i, row in enumerate(kept[start : start + _COPY_ROWS]):
            f.seek(int(row["image_offset"]))
            f.readinto(block[i].data)  # type: ignore[attr-defined]
        yield block
