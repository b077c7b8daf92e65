"""Files written whole or not at all, on local disks and through ``tf.io.gfile``.

A path with a scheme (``gs://``, ``s3://``) goes through ``tf.io.gfile``; every other
path through the operating system, without TensorFlow.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy import tf

# Errors of a disk, a quota or a limit that has no room.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK_BYTES = 1 << 20
_used: set[str] = set()


def is_remote(path: str) -> bool:
    """True for a path with a scheme, such as ``gs://bucket/records``."""
    return "://" in path


def gfile(path: str) -> Any:
    """``tf.io.gfile``, with what the path's scheme needs loaded.

    Raises:
      UsageError: ``s3://`` without the ``io`` extra.
    """
    if path.startswith("s3://"):
        errors.require("tensorflow_io", extra="io", purpose="an s3:// path")
        _used.add("s3")
    return tf.io.gfile


def aborts_at_exit() -> bool:
    """Whether a library was used that ends the process badly once all is done.

    tensorflow-io 0.37 aborts in its destructors after any S3 operation; a program then
    flushes its streams and leaves by ``os._exit``.
    """
    return "s3" in _used


def join(directory: str, *names: str) -> str:
    """Joins path parts; remote paths keep their forward slashes."""
    return os.path.join(directory, *names)


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    return gfile(path).exists(path) if is_remote(path) else os.path.exists(path)


def make_dirs(path: str) -> None:
    """Makes a directory and its parents; raises `UsageError` where that cannot be."""
    try:
        if is_remote(path):
            gfile(path).makedirs(path)
        else:
            os.makedirs(path, exist_ok=True)
    except (OSError, _gfile_error()) as error:
        reason = getattr(error, "strerror", None) or errors.one_line(error)
        raise errors.UsageError(
            f"cannot make the directory {path}: {reason};"
            " choose one that can be written"
        ) from error


def read_bytes(path: str) -> bytes:
    """The whole content of a file."""
    if is_remote(path):
        with gfile(path).GFile(path, "rb") as f:
            return f.read()
    with open(path, "rb") as f:
        return f.read()


def write_atomic(path: str, content: bytes | str, *, durable: bool = True) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    The content goes to a temporary name in the same directory, is flushed to the disk,
    and takes its name by rename.  On a remote file system the write is one object.

    Args:
      path: Where to.
      content: Bytes, or text that is encoded as UTF-8.
      durable: Whether to wait for the disk; not needed for what is checked by its
        digest before it is used.

    Raises:
      UsageError: The disk is full or the directory cannot be written; nothing is left.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        try:
            with gfile(path).GFile(path, "wb") as f:
                f.write(data)
        except (OSError, _gfile_error()) as error:
            raise errors.UsageError(
                f"cannot write {path}: {errors.one_line(error)}; check the bucket's"
                " name and the credentials"
            ) from error
        return
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(temporary, path)
        if durable:
            fsync_dir(os.path.dirname(path) or ".")
    except OSError as error:
        remove_if_there(temporary)
        raise write_error(path, error) from error


def remove_temporary(directory: str, names: str = ".*") -> None:
    """Removes what a killed `write_atomic` had not renamed yet.

    Args:
      directory: A local one that no other process writes these files in.
      names: Regular expression of the files' own names.
    """
    left = re.compile(rf"(?:{names})\.tmp-\d+(?:\.png|\.keras)?")
    for name in os.listdir(directory):
        if left.fullmatch(name):
            remove_if_there(os.path.join(directory, name))


def write_error(path: str, error: OSError | RuntimeError) -> errors.UsageError:
    """The one-line form of a failed write, with what to do about it.

    A ``RuntimeError`` is h5py's, which has the number of the error in its text.
    """
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found.group(1))
    reason = os.strerror(number) if number else errors.one_line(error)
    if number in FULL:
        advice = "free space there, then run the same command: it continues"
    else:
        advice = "check that the directory exists and can be written"
    return errors.UsageError(f"cannot write {path}: {reason}; {advice}")


def fsync_dir(directory: str) -> None:
    """Makes renames in a local directory durable, where the system supports that."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass  # Some network file systems refuse; the rename itself is still atomic.
    finally:
        os.close(fd)


def remove_if_there(path: str) -> None:
    """Removes a local file; one that is not there is fine."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass


def write_json(path: str, value: Any) -> None:
    """`write_atomic` of indented JSON with a final newline."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def json_checksum(value: Any) -> str:
    """SHA-256 of JSON values, however they are written: `seal` stores it."""
    canonical = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum of themselves, so that a changed byte is noticed."""
    plain = json.loads(json.dumps(value))  # As a reader will see it.
    return {**plain, "checksum": json_checksum(plain)}


def unseal(value: dict[str, Any], path: str) -> dict[str, Any]:
    """The values without their checksum; those that have none are taken as they are.

    Raises:
      DataError: The checksum does not fit.
    """
    value = dict(value)
    stored = value.pop("checksum", None)
    if stored is not None and stored != json_checksum(value):
        raise errors.DataError(
            f"{path} was changed: its checksum does not fit its content; restore it, or"
            " leave the checksum out if the change was meant"
        )
    return value


def read_json(path: str, *, what: str, advice: str) -> Any:
    """Reads a JSON file.

    Args:
      path: The file.
      what: What it is, for the message: "the manifest".
      advice: What to do when it is missing or damaged.

    Raises:
      UsageError: It is missing or cannot be read.
      DataError: It is there and is not JSON.
    """
    try:
        content = read_bytes(path)
    except (OSError, _gfile_error()) as error:
        reason = getattr(error, "strerror", None) or errors.one_line(error)
        raise errors.UsageError(
            f"cannot read {what} {path}: {reason}; {advice}"
        ) from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise errors.DataError(
            f"{what} {path} is damaged ({errors.one_line(error)}); {advice}"
        ) from error


def sha256(path: str) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    opener = gfile(path).GFile if is_remote(path) else open
    with opener(path, "rb") as f:
        while chunk := f.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _gfile_error() -> type[BaseException]:
    """TensorFlow's error class if TensorFlow is loaded; else one that never comes."""
    import sys

    if "tensorflow" in sys.modules:
        return tf.errors.OpError
    return OSError
