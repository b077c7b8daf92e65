"""Remote stores: files that are copied whole, such as ``s3://bucket/mean.json``.

They are read and written with fsspec (the extra ``remote``) where it knows the store,
on any TensorFlow, and with ``tf.io.gfile`` otherwise.  TensorFlow's own operations,
which read records while a model trains, open only what TensorFlow or tensorflow-io
knows: see `tensorflow_io_extra`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from afad_tfdata.common import errors, tensorflow_io_extra
from afad_tfdata.common.lazy_imports import tf

# The package that fsspec needs for a store.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
_CHATTY = ("botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec")
# After this a server that does not answer is an error; libraries would try for minutes.
_CONNECT_SECS, _READ_SECS, _ATTEMPTS = 10, 60, 3
# Schemes that TensorFlow's file systems were used for, for `aborts_at_exit`.
_used: set[str] = set()


class StoreError(OSError):
    """A request to a store failed; `strerror` says why, in one line."""


def gfile(path: str) -> types.ModuleType:
    """``tf.io.gfile``, after loading what the path's scheme needs.

    Raises:
      UsageError: No file system is registered for the scheme; TensorFlow itself has no
        ``s3://``, and the ``io`` extra adds it.
    """
    tensorflow_io_extra.require_scheme(path)
    if path.startswith("s3://"):
        _used.add("s3")
    return tf.io.gfile


def aborts_at_exit() -> bool:
    """Whether the process must end with ``os._exit``, after flushing its streams.

    tensorflow-io 0.37 aborts in its destructors after any S3 operation, and the exit
    status would then say that the command failed.
    """
    return "s3" in _used


def why_no_fsspec(scheme: str) -> str:
    """Empty if fsspec opens the store ``s3`` or ``gs`` here; else the reason."""
    try:
        importlib.import_module(_PACKAGES[scheme])
    except ModuleNotFoundError:
        return f"{_PACKAGES[scheme]} is not installed"
    except Exception as error:  # A broken installation may raise anything.
        return f"{_PACKAGES[scheme]} does not load: {errors.one_line(error)}"
    return ""


def exists(path: str) -> bool:
    """Whether an object, or anything below the path, exists.

    Raises:
      StoreError: The store does not answer, or refuses to say.
      UsageError: Nothing that is installed opens this store.
    """
    with _readable(path):
        try:
            if store := _fsspec(path):
                # `store.exists` is not used: it calls a denied bucket an empty one.
                store.info(path)
            else:
                return bool(_gfile(path).exists(path))
        except FileNotFoundError:
            return False
        return True


def make_dirs(path: str) -> None:
    """Creates a directory, if the store has directories; raises as `exists` does."""
    with _readable(path):
        # Buckets have no directories, and s3fs would try to create the bucket.
        if not _fsspec(path):
            _gfile(path).makedirs(path)


def read_bytes(path: str) -> bytes:
    """The whole object; raises as `exists` does."""
    with _readable(path):
        if store := _fsspec(path):
            return store.cat_file(path)
        with _gfile(path).GFile(path, "rb") as f:
            return f.read()


def read_chunks(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The object in pieces, one request each; raises as `exists` does."""
    with _readable(path):
        if store := _fsspec(path):
            opened = store.open(path, "rb", block_size=chunk_bytes, cache_type="none")
        else:
            opened = _gfile(path).GFile(path, "rb")
        with opened as f:
            while chunk := f.read(chunk_bytes):
                yield chunk


def write_bytes(path: str, content: bytes) -> None:
    """Writes an object, whole or not at all; raises as `exists` does."""
    with _readable(path):
        if store := _fsspec(path):
            store.pipe_file(path, content)
            return
        with _gfile(path).GFile(path, "wb") as f:
            f.write(content)


def upload(local: str, path: str) -> int:
    """Copies a local file to a store; returns its size there, in bytes.

    Raises as `exists` does.
    """
    with _readable(path):
        if store := _fsspec(path):
            store.put_file(local, path)
            store.invalidate_cache()
            return int(store.info(path)["size"])
        _gfile(path).copy(local, path, overwrite=True)
        return int(_gfile(path).stat(path).length)


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns what the libraries raise into `StoreError`; each has its own classes."""
    try:
        yield
    except (errors.AfadError, StoreError):
        raise
    except (FileNotFoundError, _not_found()) as error:
        reason = "there is no such object or bucket"
        raise StoreError(errno.ENOENT, reason, path) from error
    except Exception as error:
        reason = errors.one_line(error) or type(error).__name__
        raise StoreError(errno.EIO, reason, path) from error


def _fsspec(path: str) -> Any:
    """Fsspec's file system of a path; None where TensorFlow's is used."""
    scheme = path.partition("://")[0]
    if scheme not in _PACKAGES or why_no_fsspec(scheme):
        return None
    fsspec = importlib.import_module("fsspec")
    for name in _CHATTY:
        # They log where they found credentials; `--verbosity` is for our own lines.
        logging.getLogger(name).setLevel(logging.WARNING)
    # Listings are not kept, because other processes change the store.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_SECS,
            "read_timeout": _READ_SECS,
            "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
        }
        # The name that tensorflow-io has for what botocore calls AWS_ENDPOINT_URL.
        if endpoint := os.environ.get("S3_ENDPOINT"):
            options["endpoint_url"] = endpoint
    store = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        store.retries = _ATTEMPTS
    return store


def _gfile(path: str) -> types.ModuleType:
    """TensorFlow's file module, or an error that names the missing extra."""
    scheme = path.partition("://")[0]
    try:
        return gfile(path)
    except errors.UsageError as error:
        if scheme not in _PACKAGES:
            raise
        raise errors.UsageError(
            f"{path}: nothing here opens {scheme}:// ({why_no_fsspec(scheme)}): pip"
            " install 'afad-tfdata[remote]'"
        ) from error


def _not_found() -> type[BaseException]:
    """The error of a remote file that does not exist."""
    # Naming TensorFlow's class would import TensorFlow, which takes seconds.
    if "tensorflow" in sys.modules:
        return tf.errors.NotFoundError
    return FileNotFoundError
