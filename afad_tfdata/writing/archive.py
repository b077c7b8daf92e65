"""Images in an archive, which may be in parts, such as ``AFAD-Full.tar.xzaa``.

The parts are read as one stream, twice: first for the names and sizes, from which the
plan is made, then for the images.  The images come in the archive's order but are
needed in the plan's order, so each is appended to the spool file of its shard.  A spool
is removed as soon as the shard's payload is written.  Nothing is extracted under a name
from the archive.  Names that lead out of the archive, links and devices are rejected.
"""

from __future__ import annotations

import collections
import hashlib
import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.images import codec, image_header
from afad_tfdata.writing import archive_members, archive_names, plan, source

# The data set's page names this MD5 for the 46 parts together.
_KNOWN_MD5 = {("AFAD-Full.tar.xz", 46): "22ff8bcf4acf6e5911ff75a537d5ba91"}
# A few images in other folders are rejected by name.  If there are more, the user must
# name the folder.
_NEARLY_ALL = 0.9
# Bytes of images that are collected in memory before they are appended to the spools.
_WAITING_BYTES = 64 << 20


def find_parts(path: str) -> list[str]:
    """Finds the parts of an archive.

    Args:
      path: A folder with one archive, the archive itself, or one of its parts.

    Returns:
      Their paths in order; empty if there is no archive, or if the folder has a
      subfolder named by an age.  Such a folder is read as a tree, whatever else is in
      it.

    Raises:
      UsageError: A part is missing, or there are several archives.
      DataError: A part is a Git LFS pointer.
    """
    directory, only = path, ""
    if os.path.isfile(path):
        directory, only = os.path.split(os.path.abspath(path))
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    if not only and any(_is_age_folder(directory, name) for name in names):
        return []
    archives = archive_names.group(names)
    if only:
        archives = {stem: found for stem, found in archives.items() if only in found}
        if not archives:
            raise errors.UsageError(
                f"--data_dir={path} is a file, but its name is not that of an archive:"
                f" {archive_names.KNOWN}"
            )
    if len(archives) > 1:
        raise errors.UsageError(
            f"--data_dir={directory} has several archives ({', '.join(archives)}):"
            " name the one to write, such as"
            f" --data_dir={os.path.join(directory, min(archives))}"
        )
    for stem, found in archives.items():
        if stem in found:
            if len(found) > 1 and only != stem:
                raise errors.UsageError(
                    f"--data_dir={directory} has {stem} and parts of it: put one of"
                    " the two into a folder of its own"
                )
            parts = [stem]
        else:
            parts = archive_names.ordered(found, directory)
        return [_checked_part(os.path.join(directory, name)) for name in parts]
    return []


def _is_age_folder(directory: str, name: str) -> bool:
    """Whether an entry of a directory is a folder of an age."""
    return source.is_age(name) and os.path.isdir(os.path.join(directory, name))


def _checked_part(path: str) -> str:
    """The path of a part.

    Raises:
      UsageError: It cannot be read.
      DataError: It is a pointer to a file that was not fetched.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(64)
    except OSError as error:
        raise errors.UsageError(f"cannot read {path}: {error.strerror}") from error
    if pointer := image_header.pointer_kind(start):
        raise errors.DataError(f"{path} is not a part of an archive but {pointer}")
    return path


def scan(parts: Sequence[str], gender_codes: dict[str, int]) -> source.Listing:
    """Lists an archive as `source.scan_tree` would list the folder extracted from it.

    Args:
      parts: From `find_parts`.
      gender_codes: From `source.parse_gender_codes`.

    Raises:
      DataError: The archive is damaged, or its MD5 is not the published one.
    """
    digest = hashlib.md5(usedforsecurity=False)
    names: list[tuple[str, int]] = []
    listing = source.Listing(os.path.dirname(parts[0]), [], [], 0)
    refused = listing.rejected
    for member, _ in archive_members.members(parts, digest):
        if ".." in member.name.split("/"):
            reason = "a path that leaves the archive"
            refused.append(source.Rejection(member.name, reason))
        elif source.is_skipped(member.name.lstrip("/")):
            listing.skipped += 1  # Checked before links, because ``._NAME`` may be one.
        elif not member.is_file:
            reason = "a link or device in the archive"
            refused.append(source.Rejection(member.name, reason))
        else:
            names.append((member.name, member.size))
    _check_md5(parts, digest.hexdigest())
    prefix = _prefix([name for name, _ in names], parts[0], gender_codes)
    seen = set()
    for name, size in names:
        inside = name.startswith(prefix)
        key = name.removeprefix(prefix)
        if key.startswith("/"):
            reason = "a path that leaves the archive"
            refused.append(source.Rejection(name, reason))
        elif not inside and source.may_be_image(key, gender_codes):
            reason = f"not in the folder of the others, {prefix or '.'}"
            refused.append(source.Rejection(name, reason))
        elif key in seen:
            refused.append(source.Rejection(key, "twice in the archive"))
        else:
            seen.add(key)
            source.add_file(listing, key, gender_codes, size)
    listing.items.sort()
    listing.rejected.sort()
    listing.parts, listing.prefix = tuple(parts), prefix
    return listing


def spool(
    listing: source.Listing,
    work_plan: plan.Plan,
    tasks: Sequence[plan.ShardTask],
    directory: str,
    progress: Callable[[int], None],
) -> None:
    """Copies the images of these shards into one spool for each shard.

    Args:
      listing: From `scan`.
      work_plan: Says which image belongs to which shard.
      tasks: Shards that are still to be written.
      directory: Directory of the spools.
      progress: Called with numbers of images read.

    Raises:
      DataError: The archive is damaged, or was changed since the scan.
      UsageError: The disk is full.
    """
    places = {
        work_plan.key(row): (number, row - task.first)
        for number, task in enumerate(tasks)
        for row in range(task.first, task.last)
    }
    # Each row has the offset of an image in the spool, -1 if it is too large, and its
    # length.
    tables = [np.zeros((task.num_images, 2), np.int64) for task in tasks]
    paths = [spool_path(directory, task) for task in tasks]
    ends = [0] * len(tasks)
    # The images are collected in memory and appended to one file after the other,
    # because there may be more shards than file descriptors.
    waiting: list[list[bytes]] = [[] for _ in tasks]
    for path in paths:
        files.remove_if_there(path)
    waiting_bytes = 0
    for member, content in archive_members.members(listing.parts):
        name = member.name.removeprefix(listing.prefix)
        # A link of the same name is not the file that was listed.
        listed = member.is_file and member.name.startswith(listing.prefix)
        place = places.pop(os.fsencode(name), None) if listed else None
        if place is None:
            continue
        number, row = place
        if member.size > work_plan.config.images.max_file_bytes:
            tables[number][row] = -1, member.size  # Not read: it is too large.
            continue
        data = content()
        tables[number][row] = ends[number], len(data)
        ends[number] += len(data)
        waiting[number].append(data)
        waiting_bytes += len(data)
        progress(1)
        if waiting_bytes > _WAITING_BYTES:
            _append(paths, waiting)
            waiting_bytes = 0
    _append(paths, waiting)
    if places:
        raise errors.DataError(
            f"the archive {listing.parts[0]} was changed while it was read:"
            f" {len(places)} images are missing, the first {os.fsdecode(min(places))};"
            " run the same command again"
        )
    # The tables are written last: a spool without a table is incomplete.
    for task, table in zip(tasks, tables, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, table)
        files.write_atomic(f"{spool_path(directory, task)}.npy", buffer.getvalue())


def reader(
    directory: str, task: plan.ShardTask, max_file_bytes: int
) -> Callable[[int, bytes], bytes]:
    """Reads images of a shard from its spool.

    Returns:
      A function from a row of the plan and its key to the file's bytes.  It raises
      `codec.ImageError` for a file that was too large to be spooled.

    Raises:
      UsageError: The spool is missing or damaged.
    """
    path = spool_path(directory, task)
    try:
        table = np.load(f"{path}.npy")
        # An empty file cannot be mapped.
        empty = not (table[:, 0] >= 0).any() or not os.path.getsize(path)
        content = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise errors.UsageError(
            f"the spool {path} is missing or damaged ({errors.one_line(error)}): is"
            " another process writing the same shards? Run the same command again"
        ) from error

    def read(row: int, key: bytes) -> bytes:
        del key
        start, length = table[row - task.first].tolist()
        if start < 0:
            raise codec.too_large(length, max_file_bytes)
        return content[start : start + length].tobytes()

    return read


def remove_spool(directory: str, task: plan.ShardTask) -> None:
    """Removes a shard's spool, if it has one."""
    path = spool_path(directory, task)
    files.remove_if_there(f"{path}.npy")
    files.remove_if_there(path)


def spool_path(directory: str, task: plan.ShardTask) -> str:
    """Path of the file in which `spool` collects the archive's images of a shard."""
    return os.path.join(directory, f"{task.name}.spool")


def _append(paths: Sequence[str], waiting: list[list[bytes]]) -> None:
    """Appends to each file the images that wait for it, and empties the lists."""
    for path, pieces in zip(paths, waiting, strict=True):
        try:
            with open(path, "ab") as f:
                f.write(b"".join(pieces))
        except OSError as error:
            raise files.write_error(path, error) from error
        pieces.clear()


def _prefix(names: Sequence[str], part: str, gender_codes: dict[str, int]) -> str:
    """The folder, with a slash, that precedes AGE/GENDER/IMAGE in nearly all names.

    Raises:
      UsageError: Several folders have images, and none has nearly all of them.
    """
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        *above, age, gender, image = ["", "", *name.split("/")]
        if source.may_be_image(f"{age}/{gender}/{image}", gender_codes):
            counts["".join(f"{folder}/" for folder in above[2:])] += 1
    if not counts:  # No image can be written, but all names may be below one folder.
        tops = {name.partition("/")[0] for name in names}
        top = tops.pop() if len(tops) == 1 else ""
        return f"{top}/" if top and all("/" in name for name in names) else ""
    ((prefix, most), *others) = counts.most_common(2)
    if most < _NEARLY_ALL * counts.total():
        second, _ = others[0]
        raise errors.UsageError(
            f"the archive {part} has images in the folders {prefix or '.'} ({most}) and"
            f" {second or '.'} ({counts[second]}): extract it, and name one of them"
        )
    return prefix


def _check_md5(parts: Sequence[str], found: str) -> None:
    """Raises `DataError` for a published archive with another MD5."""
    stem = "".join(archive_names.group([os.path.basename(parts[0])]))
    known = _KNOWN_MD5.get((stem, len(parts)))
    if known and found != known:
        raise errors.DataError(
            f"the {len(parts)} parts of {stem} have the MD5 {found}, the published one"
            f" is {known}: a part is damaged; fetch them again"
        )
