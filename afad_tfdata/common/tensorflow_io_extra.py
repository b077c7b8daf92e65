"""Finds out what tensorflow-io (the extra ``io``) adds to TensorFlow here.

A successful ``import tensorflow_io`` proves nothing: on releases of TensorFlow on which
its libraries do not load, it only warns.  This module therefore checks whether a file
system is registered, and whether an operation loads.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import warnings

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf

# What tensorflow-io 0.37.1 registers in addition to TensorFlow's own file systems.
SCHEMES = ("az", "har", "hdfs", "http", "https", "oss", "s3", "viewfs")


def require_scheme(path: str) -> None:
    """Loads tensorflow-io if TensorFlow needs it for a remote path.

    Args:
      path: With a scheme, such as ``s3://bucket/records``.

    Raises:
      UsageError: Neither TensorFlow nor tensorflow-io provides that file system here.
    """
    scheme = path.partition("://")[0]
    # TensorFlow itself opens file:// paths, which are on the local disk.
    if scheme == "file" or scheme in registered_schemes():
        return
    reason = why_no_scheme(scheme)
    if not reason:
        # tensorflow-io reads the server's address from another variable than AWS tools.
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            os.environ.setdefault("S3_ENDPOINT", endpoint)
        return
    known = ", ".join(f"{name}://" for name in registered_schemes())
    advice = "use one of these" if scheme not in SCHEMES else install_command()
    raise errors.UsageError(
        f"{path} needs the file system {scheme}://, and TensorFlow {tf.__version__} has"
        f" only {known} here ({reason}): {advice}"
    )


def registered_schemes() -> list[str]:
    """Schemes that TensorFlow can open now, with or without tensorflow-io, sorted."""
    # Local paths are registered as "" and "file".
    return sorted(set(tf.io.gfile.get_registered_schemes()) - {"", "file"})


def why_no_scheme(scheme: str) -> str:
    """Why tensorflow-io does not register a file system; empty if it does."""
    reason = _why_not_importable()
    if reason or scheme in registered_schemes():
        return reason
    if scheme not in SCHEMES:
        return f"tensorflow-io has no {scheme}:// either"
    return _loading_failure()


def why_no_hdf5() -> str:
    """Why tensorflow-io's reader of compressed HDF5 does not load; empty if it does."""
    reason = _why_not_importable()
    if reason:
        return reason
    try:
        operations = importlib.import_module("tensorflow_io.python.ops").core_ops
        # The library is loaded at the first access to one of its operations.
        operations.io_hdf5_readable_info  # noqa: B018
    except Exception:  # NotImplementedError in tensorflow-io 0.37.1.
        return _loading_failure()
    return ""


def install_command() -> str:
    """How to get a tensorflow-io that loads, for the end of an error's text."""
    command = "pip install 'afad-tfdata[io]'"
    if sys.version_info >= (3, 13):
        # Neither tensorflow-io nor TensorFlow 2.17 exists for this Python.
        return f"in an environment with Python 3.10 to 3.12, {command}"
    if tuple(int(part) for part in tf.__version__.split(".")[:2]) >= (2, 18):
        return f"{command}, which takes TensorFlow back to 2.17"
    return command


def _why_not_importable() -> str:
    """Why tensorflow-io cannot be imported; empty if it can."""
    try:
        with warnings.catch_warnings():
            # For each library that does not load, it prints a warning full of paths.
            # This module's functions return the reason in one line instead.
            warnings.simplefilter("ignore")
            importlib.import_module("tensorflow_io")
    except ModuleNotFoundError as error:
        if error.name == "tensorflow_io":
            return "tensorflow-io is not installed"
        return f"tensorflow-io does not load: {errors.one_line(error)}"
    except Exception as error:  # A broken installation may raise anything.
        return f"tensorflow-io does not load: {errors.one_line(error)}"
    return ""


def _loading_failure() -> str:
    """The reason to show where tensorflow-io does not load."""
    try:
        version = importlib.metadata.version("tensorflow-io")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return f"tensorflow-io {version} does not load on TensorFlow {tf.__version__}"
