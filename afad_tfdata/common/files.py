"""Reads files and writes them atomically, on local disks and in remote stores.

A path with a scheme (``gs://``, ``s3://``) is opened by `remote_files`; every other
path is opened by the operating system, without TensorFlow.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from afad_tfdata.common import errors, remote_files

# A full disk, an exhausted quota, and a file that reaches the process's limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A part of the path is missing or a file, or no file can have such a name.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_CHUNK_BYTES = 1 << 20
# Larger, because each chunk is one request to the store.
_REMOTE_CHUNK_BYTES = 8 << 20


def is_remote(path: str) -> bool:
    """Whether a file's path has a scheme, such as ``gs://bucket/records``."""
    return "://" in path


def local_path(path: str) -> str:
    """A file's path without ``file://``; other paths stay as they are."""
    local = re.match(r"file://(?:localhost)?(?=/)", path)
    return path[local.end() :] if local else path


def join(directory: str, *names: str) -> str:
    """Joins the parts of a file's path; remote paths keep their forward slashes."""
    return os.path.join(directory, *names)


def user_cache() -> str:
    """The user's local directory for files that can be fetched or made again."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "afad_tfdata")


def exists(path: str) -> bool:
    """Whether a file or directory exists, local or remote."""
    return remote_files.exists(path) if is_remote(path) else os.path.exists(path)


def make_dirs(path: str) -> None:
    """Creates a directory and its parents; `UsageError` if that is impossible."""
    try:
        if is_remote(path):
            remote_files.make_dirs(path)
        else:
            os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = getattr(error, "strerror", None) or errors.one_line(error)
        raise errors.UsageError(
            f"cannot make the directory {path}: {reason};"
            " choose one that can be written"
        ) from error


def read_bytes(path: str) -> bytes:
    """The whole content of a file, local or remote."""
    if is_remote(path):
        return remote_files.read_bytes(path)
    try:
        f = open(path, "rb")
    except ValueError as error:
        # A NUL byte, for example; readers handle errors of the system.
        raise OSError(errno.EINVAL, str(error), path) from error
    with f:
        # A pipe ends, as that of `<(zcat labels.csv.gz)` does; /dev/zero does not.
        mode = os.fstat(f.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device, and not a file", path)
        return f.read()


def write_atomic(path: str, content: bytes | str, *, durable: bool = True) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part.

    The content is written under a temporary name in the same directory and flushed to
    the disk; then the file is renamed.  A remote file is stored as one object.

    Args:
      path: The file.
      content: Bytes, or text that is encoded as UTF-8.
      durable: Whether to wait for the disk; not necessary for files whose digest is
        checked before they are used, or that can be written again.

    Raises:
      UsageError: The disk is full, the directory cannot be written, or the path is a
        device; no temporary file is left.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        try:
            remote_files.write_bytes(path, data)
        except remote_files.StoreError as error:
            raise errors.UsageError(
                f"cannot write {path}: {error.strerror}; check the bucket's"
                " name and the credentials"
            ) from error
        return
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        # A rename would put a file in the place of /dev/null.
        raise errors.UsageError(
            f"cannot write {path}: it is a device or a pipe; name a file"
        )
    # The name is in the same directory, because a rename is atomic only within one file
    # system.  It has the process's number, because other processes may write the same
    # file.
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(temporary, path)
        if durable:
            # Without it, a power failure could undo the rename.
            fsync_dir(os.path.dirname(path) or ".")
    except OSError as error:
        remove_if_there(temporary)
        raise write_error(path, error) from error


def remove_temporary(directory: str, names: str = ".*") -> None:
    """Removes temporary files of `write_atomic` calls that were killed.

    Args:
      directory: A local directory in which no other process writes these files.
      names: Regular expression for the files' final names.
    """
    # matplotlib and Keras choose the format by a name's ending, so the names of their
    # temporary files continue with .png or .keras after the number.
    left = re.compile(rf"(?:{names})\.tmp-\d+(?:\.png|\.keras)?")
    for name in os.listdir(directory):
        if left.fullmatch(name):
            remove_if_there(os.path.join(directory, name))


def write_error(path: str, error: OSError | RuntimeError) -> errors.UsageError:
    """The error for a file that cannot be written: the cause and advice, in one line.

    Args:
      path: The file.
      error: The cause.  h5py raises a ``RuntimeError`` whose text has the error number.
    """
    number = getattr(error, "errno", None)  # A RuntimeError has none.
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found.group(1))
    reason = os.strerror(number) if number else errors.one_line(error)
    if number in FULL:
        advice = "free space there, then run the same command: it continues"
    else:
        advice = "check that the directory exists and can be written"
    return errors.UsageError(f"cannot write {path}: {reason}; {advice}")


def read_error(path: str, error: OSError) -> errors.UsageError:
    """The error for a local file that the system does not let this process read.

    Args:
      path: The file.
      error: The cause.
    """
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit of open files (ulimit -n)"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "its owner must permit it"
    elif error.errno == errno.ENOMEM:
        advice = "free memory, or raise the limit of address space (ulimit -v)"
    else:
        advice = "check that the disk and the path can be reached"
    reason = error.strerror or errors.one_line(error)
    return errors.UsageError(f"cannot read {path}: {reason}; {advice}")


def fsync_dir(directory: str) -> None:
    """Makes renames of files in a directory durable, if the system supports that."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # Some systems do not open directories.
    try:
        os.fsync(fd)
    except OSError:
        pass  # Some network file systems refuse; the rename itself is still atomic.
    finally:
        os.close(fd)


def remove_if_there(path: str) -> None:
    """Removes a local file if it exists."""
    try:
        os.remove(path)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise


def write_json(path: str, value: Any) -> None:
    """Writes a file of indented JSON with `write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def csv_line(values: Iterable[Any]) -> str:
    """Values as a line of a CSV file, without the end of the line.

    A value that contains a line break is quoted; the text then has several lines.
    """
    text = io.StringIO()
    # Before Python 3.13, "\r" is quoted only if it is part of the line's own end.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n")


def json_checksum(value: Any) -> str:
    """The SHA-256 of a JSON file's values, whatever their order and spacing."""
    canonical = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    # File names need not be UTF-8: Python stores their other bytes as surrogates.
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


def seal_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Adds a checksum to a JSON file's values, so that a changed byte is noticed."""
    # The values as a reader will see them: tuples become lists, and keys strings.
    plain = json.loads(json.dumps(value))
    return {**plain, "checksum": json_checksum(plain)}


def unseal_json(value: dict[str, Any], path: str) -> dict[str, Any]:
    """The values of a JSON file without their checksum, which is checked if there.

    Args:
      value: The values that `seal_json` returned, as read back from a file.
      path: The file, for the message.

    Raises:
      DataError: The checksum does not match.
    """
    value = dict(value)
    stored = value.pop("checksum", None)
    if stored is not None and stored != json_checksum(value):
        raise errors.DataError(
            f"{path} was changed: its checksum does not match its content; restore it,"
            " or remove the checksum from it if the change is intended"
        )
    return value


def read_json(path: str, *, what: str, advice: str) -> Any:
    """Reads a JSON file.

    Args:
      path: The file.
      what: What the file is, for the message, e.g. "the manifest".
      advice: What to do if it is missing or damaged.

    Raises:
      UsageError: It is missing or cannot be read.
      DataError: It is not JSON.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
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
    if is_remote(path):
        for chunk in remote_files.read_chunks(path, _REMOTE_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
