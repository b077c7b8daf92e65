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
    """TensorFlow's ``tf.io.gfile``, after loading what a remote path's scheme needs.

    Raises:
      UsageError: No file system is registered for the scheme; TensorFlow itself has no
        ``s3://``, and the ``io`` extra adds it.
    """
    tensorflow_io_extra.require_scheme(path)
    if path.startswith("s3://"):
        _used.add("s3")
    return tf.io.gfile


def aborts_at_exit() -> bool:
    """Whether the process must end with ``os._exit``, because it used an S3 store.

    tensorflow-io 0.37 aborts in its destructors after any S3 operation, and the exit
    status would then say that the command failed.
    """
    return "s3" in _used


def why_no_fsspec(scheme: str) -> str:
    """Why fsspec does not open the store ``s3`` or ``gs`` here; empty if it does."""
    try:
        importlib.import_module(_PACKAGES[scheme])
    except ModuleNotFoundError:
        return f"{_PACKAGES[scheme]} is not installed"
    except Exception as error:  # A broken installation may raise anything.
        return f"{_PACKAGES[scheme]} does not load: {errors.one_line(error)}"
    return ""


def exists(path: str) -> bool:
    """Whether an object of a remote store, or anything below its path, exists.

    Raises:
      StoreError: The store does not answer, or refuses to say.
      UsageError: Nothing that is installed opens this store.
    """
    with _readable_store_errors(path):
        try:
            if store := _fsspec_store(path):
                # `store.exists` is not used: it calls a denied bucket an empty one.
                store.info(path)
            else:
                return bool(_gfile_or_advice(path).exists(path))
        except FileNotFoundError:
            return False
        return True


def make_dirs(path: str) -> None:
    """Creates a directory of a remote store, if it has any; raises as `exists` does."""
    with _readable_store_errors(path):
        # Buckets have no directories, and s3fs would try to create the bucket.
        if not _fsspec_store(path):
            _gfile_or_advice(path).makedirs(path)


def read_bytes(path: str) -> bytes:
    """The whole object of a remote store; raises as `exists` does."""
    with _readable_store_errors(path):
        if store := _fsspec_store(path):
            return store.cat_file(path)
        with _gfile_or_advice(path).GFile(path, "rb") as f:
            return f.read()


def read_chunks(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The object of a remote store in pieces, one request each; raises as `exists`."""
    with _readable_store_errors(path):
        if store := _fsspec_store(path):
            opened = store.open(path, "rb", block_size=chunk_bytes, cache_type="none")
        else:
            opened = _gfile_or_advice(path).GFile(path, "rb")
        with opened as f:
            while chunk := f.read(chunk_bytes):
                yield chunk


def write_bytes(path: str, content: bytes) -> None:
    """Writes an object of a remote store, whole or not at all; raises as `exists`."""
    with _readable_store_errors(path):
        if store := _fsspec_store(path):
            store.pipe_file(path, content)
            return
        with _gfile_or_advice(path).GFile(path, "wb") as f:
            f.write(content)


def upload(local: str, path: str) -> int:
    """Copies a local file to a remote store; returns its size there, in bytes.

    Raises as `exists` does.
    """
    with _readable_store_errors(path):
        if store := _fsspec_store(path):
            store.put_file(local, path)
            store.invalidate_cache()
            return int(store.info(path)["size"])
        _gfile_or_advice(path).copy(local, path, overwrite=True)
        return int(_gfile_or_advice(path).stat(path).length)


@contextlib.contextmanager
def _readable_store_errors(path: str) -> Iterator[None]:
    """Turns what the libraries of remote stores raise into `StoreError`."""
    try:
        yield
    except (errors.AfadError, StoreError):
        raise
    except (FileNotFoundError, _not_found_error()) as error:
        reason = "there is no such object or bucket"
        raise StoreError(errno.ENOENT, reason, path) from error
    except Exception as error:
        reason = errors.one_line(error) or type(error).__name__
        raise StoreError(errno.EIO, reason, path) from error


def _fsspec_store(path: str) -> Any:
    """Fsspec's file system of a remote path; None where TensorFlow's is used."""
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


def _gfile_or_advice(path: str) -> types.ModuleType:
    """TensorFlow's ``gfile`` for a remote path, or an error that names the extra."""
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


def _not_found_error() -> type[BaseException]:
    """The class of the error of a remote file that does not exist."""
    # Naming TensorFlow's class would import TensorFlow, which takes seconds.
    if "tensorflow" in sys.modules:
        return tf.errors.NotFoundError
    return FileNotFoundError
