"""Removes a data set that ``--overwrite`` replaces, and nothing else.

A directory is removed file by file, and only if every name in it is one that the writer
gives.  The manifest is removed last: after a kill, readers refuse what is left, and the
next run recognises it and goes on.
"""

from __future__ import annotations

import json
import logging
import os
import re

from afad_tfdata.common import errors, files
from afad_tfdata.storage import file_names, schema
from afad_tfdata.writing import plan, work_directory

_SHARD_OR_INDEX = re.compile(
    r".+-(?:train|validation|test)"
    r"(?:\.(?:tfrecord|idx)-\d+-of-\d+|-\d+-of-\d+\.h5|\.index\.npy)"
)
_TEMPORARY = re.compile(r".+\.tmp-\d+(?:\.png)?")  # Left by a write that was killed.
_log = logging.getLogger(__name__)


def remove(output_dir: str, work_plan: plan.Plan, companions: tuple[str, ...]) -> None:
    """Removes the data set in a directory, for another one to be written there.

    An unfinished data set of the same plan stays, so that a killed run continues.

    Args:
      output_dir: The directory; it need not exist.
      work_plan: The plan of the data set to be written.
      companions: Names of all files that a data set may have next to its shards.

    Raises:
      UsageError: The directory contains something else than a data set, or another
        writer is at work in it.
    """
    names = _names_to_overwrite(output_dir)
    if not names:
        return
    work_dir = os.path.join(output_dir, work_directory.WORK_NAME)
    finished = os.path.exists(os.path.join(output_dir, schema.MANIFEST_NAME))
    # Converted through JSON like the stored values, because tuples become lists.
    own = json.loads(json.dumps(work_plan.to_json()))
    if not finished and plan.stored_json(work_dir) == own:
        return
    _refuse_other_files(output_dir, names, companions)
    # The lock keeps out a writer that is at work, and readers have the files open.
    with work_directory.lock(work_dir, shared=False):
        for name in sorted(names, key=lambda name: name == schema.MANIFEST_NAME):
            if name != work_directory.WORK_NAME:
                files.remove_if_there(os.path.join(output_dir, name))
        for name in os.listdir(work_dir):
            if name != work_directory.LOCK_NAME:
                files.remove_if_there(os.path.join(work_dir, name))
    _log.info("--overwrite: the data set in %s is removed", output_dir)


def _names_to_overwrite(directory: str) -> list[str]:
    """Names of the files in the directory that ``--overwrite`` is to empty."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.UsageError(
            f"--overwrite cannot list {directory}: {error.strerror}"
        ) from error


def _refuse_other_files(
    directory: str, names: list[str], companions: tuple[str, ...]
) -> None:
    """Refuses to overwrite a directory that has more in it than a data set."""
    known = {*companions, work_directory.WORK_NAME}
    shards = [name for name in names if _SHARD_OR_INDEX.fullmatch(name)]
    foreign = sorted(
        name
        for name in names
        if name not in known
        and not file_names.is_description_name(name)
        and name not in shards
        and not _TEMPORARY.fullmatch(name)
        or _is_real_folder(directory, name) != (name == work_directory.WORK_NAME)
    )
    if not foreign and not _is_begun_or_finished(directory, shards):
        foreign = sorted(names)
    if foreign:
        raise errors.UsageError(
            f"--overwrite removes data sets only, and {directory} contains"
            f" {errors.printable(foreign[0])}, which is not a part of one: nothing is"
            " removed; name another --output_dir, or remove it yourself"
        )


def _is_real_folder(directory: str, name: str) -> bool:
    """Whether an entry of the directory to overwrite is a folder and no link."""
    path = os.path.join(directory, name)
    return os.path.isdir(path) and not os.path.islink(path)


def _is_begun_or_finished(directory: str, shards: list[str]) -> bool:
    """Whether there is a data set to overwrite, finished or begun."""
    work_dir = os.path.join(directory, work_directory.WORK_NAME)
    if plan.stored_json(work_dir) is not None:
        return True
    try:
        schema.load_manifest(directory)
    except errors.AfadError:
        # A damaged manifest, next to files of a data set.
        manifest = os.path.join(directory, schema.MANIFEST_NAME)
        return bool(shards) and os.path.exists(manifest)
    return True
