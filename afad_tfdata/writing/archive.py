"""Images in an archive that is sold in parts, such as ``AFAD-Full.tar.xzaa``.

The parts are read as one stream through xz and tar, twice: first for the names and
sizes, from which the plan is made, then for the images.  These come in the archive's
order but are needed in the plan's, so each is appended to the spool file of its shard.
A spool is removed as soon as the shard's payload is written.  Nothing is extracted
under a name from the archive; names that point elsewhere, links and devices are
rejected.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.images import codec
from afad_tfdata.writing import plan, source

_PART = re.compile(r"(.+\.tar\.xz)([a-z]{2})")
_WHOLE = re.compile(r".+\.(tar|tar\.xz|txz|tar\.gz|tgz)")
# The data set's page names this MD5 for the 46 parts together.
_KNOWN_MD5 = {("AFAD-Full.tar.xz", 46): "22ff8bcf4acf6e5911ff75a537d5ba91"}
_CHUNK_BYTES = 1 << 20
# Spooled images in memory before they are appended to their files.
_WAITING_BYTES = 64 << 20


def find_parts(directory: str) -> list[str]:
    """Finds the parts of the archive in a folder.

    Returns:
      Their paths in order; empty if there is no archive, or if the folder has a
      subfolder named by an age: it is then a tree, whatever else is in it.

    Raises:
      UsageError: A part is missing, or there are several archives.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    if any(n.isdigit() and os.path.isdir(os.path.join(directory, n)) for n in names):
        return []
    parts: dict[str, list[str]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            parts.setdefault(match.group(1), []).append(name)
        elif _WHOLE.fullmatch(name):
            parts.setdefault(name, []).append(name)
    if len(parts) > 1:
        raise errors.UsageError(
            f"--data_dir={directory} holds several archives ({', '.join(parts)}): put"
            " the one to write into a folder of its own"
        )
    for stem, found in parts.items():
        if stem in found and len(found) > 1:
            raise errors.UsageError(
                f"--data_dir={directory} holds {stem} and parts of it: put one of the"
                " two into a folder of its own"
            )
        expected = [f"{stem}{suffix}" for suffix in _suffixes(len(found))]
        if found != [stem] and found != expected:
            missing = next(name for name in expected if name not in found)
            raise errors.UsageError(
                f"--data_dir={directory} lacks the part {missing} of {stem}: fetch it"
                " again"
            )
        return [os.path.join(directory, name) for name in found]
    return []


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
    rejected: list[source.Rejection] = []
    for member, _ in _members(parts, digest):
        name = _path(member)
        if not member.isfile():
            rejected.append(source.Rejection(name, "a link or device in the archive"))
        elif name.startswith("/") or ".." in name.split("/"):
            rejected.append(source.Rejection(name, "a path that leaves the archive"))
        else:
            names.append((name, member.size))
    _check_md5(parts, digest.hexdigest())
    prefix = _prefix([name for name, _ in names])
    listing = source.Listing(os.path.dirname(parts[0]), [], rejected, 0)
    seen = set()
    for name, size in names:
        key = name.removeprefix(prefix)
        if key in seen:
            listing.rejected.append(source.Rejection(key, "twice in the archive"))
            continue
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
    # For each image the offset in its spool and the length; -1 and the length if it is
    # too large.
    tables = [np.zeros((task.num_images, 2), np.int64) for task in tasks]
    paths = [spool_path(directory, task) for task in tasks]
    ends = [0] * len(tasks)
    # Collected in memory and appended one file after the other: there may be more
    # shards than file descriptors.
    waiting: list[list[bytes]] = [[] for _ in tasks]
    for path in paths:
        files.remove_if_there(path)
    waiting_bytes = 0
    for member, content in _members(listing.parts):
        name = _path(member).removeprefix(listing.prefix)
        # A link of the same name is not the file that was listed.
        place = places.pop(os.fsencode(name), None) if member.isfile() else None
        if place is None:
            continue
        number, row = place
        if member.size > work_plan.config.images.max_file_bytes:
            tables[number][row] = -1, member.size  # Not read: it may fill the memory.
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
    # The tables last: a spool without one is not whole.
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
    """Appends what waits for each file, and empties the lists."""
    for path, pieces in zip(paths, waiting, strict=True):
        try:
            with open(path, "ab") as f:
                f.write(b"".join(pieces))
        except OSError as error:
            raise files.write_error(path, error) from error
        pieces.clear()


def _members(
    parts: Sequence[str], digest: hashlib._Hash | None = None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """Yields every member but directories, with a function that reads it.

    The function works until the next member is asked for: the stream has no way back.
    """
    stream = _Parts(parts, digest)
    try:
        with _decompressed(parts[0], stream) as plain:
            with tarfile.open(fileobj=plain, mode="r|", tarinfo=_StrictInfo) as tar:
                for member in tar:
                    if member.isdir():
                        continue

                    def content(member: tarfile.TarInfo = member) -> bytes:
                        f = tar.extractfile(member)
                        return f.read() if f else b""

                    yield member, content
            # The rest is padding, but the digest is of the whole, and a part that was
            # cut in its padding is damaged too.
            while plain.read(_CHUNK_BYTES):
                pass
        while stream.read(_CHUNK_BYTES):
            pass
    except (lzma.LZMAError, EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise errors.DataError(
            f"the archive {parts[0]} with its {len(parts)} part(s) cannot be read to"
            f" its end ({errors.one_line(error)}): a part is missing or damaged;"
            " fetch it again"
        ) from error
    finally:
        stream.close()


def _path(member: tarfile.TarInfo) -> str:
    """A member's path; ``tar .`` puts ``./`` before each."""
    return member.name.removeprefix("./")


# Types of members that describe the next member.
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_LARGEST_HEADER = 1 << 20  # Bytes; names and attributes need a few hundred.


class _StrictInfo(tarfile.TarInfo):
    """Headers as `tarfile` reads them, but a bad one is an error.

    `tarfile` takes a damaged header for the end of the archive.  It would also read a
    long name of gigabytes, which compresses to nothing, into memory.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _EXTENDED and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # Two empty blocks: the regular end.
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a damaged header: {error}") from error


def _decompressed(name: str, stream: _Parts) -> Any:
    """The plain tar stream of an archive of that name."""
    if name.endswith(".tar"):
        return io.BufferedReader(stream)
    if name.endswith("gz"):
        import gzip

        return gzip.GzipFile(fileobj=stream)
    return lzma.LZMAFile(stream)  # type: ignore[arg-type]


class _Parts(io.RawIOBase):
    """Files one after the other, as one stream.

    Args:
      paths: The files.
      digest: A `hashlib` object to update with every byte that is read, or None.
    """

    def __init__(self, paths: Sequence[str], digest: hashlib._Hash | None) -> None:
        self._waiting = list(paths)[::-1]
        self._digest = digest
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                if not self._waiting:
                    return 0
                self._file = open(self._waiting.pop(), "rb")
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if count:
                if self._digest is not None:
                    self._digest.update(memoryview(buffer)[:count])
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


def _suffixes(count: int) -> list[str]:
    """``aa``, ``ab``, ... ``az``, ``ba``: the names that the command split gives."""
    return [chr(97 + i // 26) + chr(97 + i % 26) for i in range(count)]


def _prefix(names: Sequence[str]) -> str:
    """The one folder that contains everything, unless it is named by an age."""
    tops = {name.partition("/")[0] for name in names}
    top = tops.pop() if len(tops) == 1 else ""
    inside = all("/" in name for name in names)
    return f"{top}/" if top and inside and not top.isdigit() else ""


def _check_md5(parts: Sequence[str], found: str) -> None:
    """Raises `DataError` for a published archive with another MD5."""
    match = _PART.fullmatch(os.path.basename(parts[0]))
    stem = match.group(1) if match else ""
    known = _KNOWN_MD5.get((stem, len(parts)))
    if known and found != known:
        raise errors.DataError(
            f"the {len(parts)} parts of {stem} have the MD5 {found}, the published one"
            f" is {known}: a part is damaged; fetch them again"
        )
