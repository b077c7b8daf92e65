"""A data set on a remote file system: written locally, then copied, manifest last."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil

from afad_tfdata.common import errors, files, progress, remote_files
from afad_tfdata.storage import schema

_log = logging.getLogger(__name__)


def staging_dir(output_dir: str, work_dir: str) -> str:
    """The local directory in which a remote data set is written first.

    The same `output_dir` always gets the same local directory, so that a run finds what
    a killed run left.

    Args:
      output_dir: Remote directory.
      work_dir: The parent that the user chose; empty for the user's cache.
    """
    name = hashlib.sha256(output_dir.encode()).hexdigest()[:16]
    # A separate directory, because it is removed when everything is uploaded.
    parent = work_dir or files.user_cache()
    return os.path.join(parent, f"writing-{name}")


def stored_manifest(output_dir: str) -> schema.Manifest | None:
    """The manifest of a remote data set; None if there is none.

    Raises:
      UsageError: The file system cannot be reached.
    """
    try:
        there = files.exists(files.join(output_dir, schema.MANIFEST_NAME))
    except remote_files.StoreError as error:
        raise errors.UsageError(
            f"cannot read {output_dir}: {error.strerror}; check the"
            " bucket's name and the credentials"
        ) from error
    return schema.load_manifest(output_dir) if there else None


def upload(directory: str, output_dir: str) -> None:
    """Uploads a finished data set, the manifest last, and removes the local one.

    Remote files that have the right size already are replaced, because equal sizes do
    not mean equal content.

    Raises:
      UsageError: A remote file cannot be written; the local files stay.
    """
    names = sorted(
        name
        for name in os.listdir(directory)
        if os.path.isfile(os.path.join(directory, name))
        and name != schema.MANIFEST_NAME
    )
    with progress.Progress(len(names) + 1, "uploading", unit="files") as bar:
        for name in [*names, schema.MANIFEST_NAME]:
            _copy_file(os.path.join(directory, name), files.join(output_dir, name))
            bar.update(1)
    shutil.rmtree(directory, ignore_errors=True)


def copy(path: str, output_dir: str, name: str) -> None:
    """Copies a file, or a directory with all that is in it, to a remote directory.

    Args:
      path: Local file or directory.
      output_dir: Remote directory.
      name: Its name there.

    Raises:
      UsageError: It cannot be written there.
    """
    if not os.path.isdir(path):
        _copy_file(path, files.join(output_dir, name))
        return
    for inner in sorted(os.listdir(path)):
        copy(os.path.join(path, inner), output_dir, f"{name}/{inner}")


def _copy_file(path: str, target: str) -> None:
    """Copies a file to a remote directory, and compares its size."""
    try:
        size = remote_files.upload(path, target)
    except remote_files.StoreError as error:
        raise errors.UsageError(
            f"cannot write {target}: {error.strerror}; check the bucket's name"
            " and the credentials, then run the same command: it continues"
        ) from error
    if size != os.path.getsize(path):
        raise errors.UsageError(
            f"{target} has {size} bytes after the copy, wanted {os.path.getsize(path)};"
            " run the same command again"
        )
