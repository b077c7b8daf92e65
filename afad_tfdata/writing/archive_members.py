"""The files in an archive, one after the other: tar, plain or compressed, and ZIP.

The first bytes of an archive decide what it is; its name does not.  A damaged archive
is an error, because nobody would otherwise notice that its end is missing.
"""

from __future__ import annotations

import bisect
import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from afad_tfdata.common import errors

_CHUNK_BYTES = 1 << 20
_XZ, _GZIP, _BZIP2, _ZIP = b"\xfd7zXZ\0", b"\x1f\x8b", b"BZh", b"PK"


class Member(NamedTuple):
    """A file, a link or a device in an archive.

    Attributes:
      name: Its path; a leading ``./`` is removed.
      size: Bytes.
      is_file: False for links and devices.
    """

    name: str
    size: int
    is_file: bool


def members(
    parts: Sequence[str], digest: hashlib._Hash | None = None
) -> Iterator[tuple[Member, Callable[[], bytes]]]:
    """Yields every member but directories, with a function that reads it.

    The function must be called before the next member is requested, because a stream
    cannot go back.

    Args:
      parts: The files that are the archive, one after the other.
      digest: Updated with every byte of a tar; not used for a ZIP.

    Raises:
      DataError: The archive is damaged, or the file is not an archive.
      UsageError: A part cannot be opened or read.
    """
    with _damage(parts):
        with open(parts[0], "rb") as f:
            start = f.read(512)
        if start.startswith(_ZIP):
            found = _zip_members(parts)
        else:
            found = _tar_members(parts, start, digest)
        for member, content in found:

            def checked(content: Callable[[], bytes] = content) -> bytes:
                with _damage(parts):  # The caller reads outside the outer block.
                    return content()

            yield member, checked


@contextlib.contextmanager
def _damage(parts: Sequence[str]) -> Iterator[None]:
    """Turns what the libraries raise for a damaged archive into a `DataError`."""
    try:
        yield
    except (
        *(lzma.LZMAError, EOFError, OSError, tarfile.TarError, zlib.error),
        *(zipfile.BadZipFile, NotImplementedError, RuntimeError),
    ) as error:
        if isinstance(error, OSError) and error.errno:  # Decoders do not set `errno`.
            raise errors.UsageError(
                f"cannot read the archive {error.filename or parts[0]}:"
                f" {error.strerror}"
            ) from error
        raise errors.DataError(
            f"the archive {parts[0]} with its {len(parts)} part(s) cannot be read to"
            f" its end ({errors.one_line(error)}): a part is missing or damaged;"
            " fetch it again"
        ) from error


def _tar_members(
    parts: Sequence[str], start: bytes, digest: hashlib._Hash | None
) -> Iterator[tuple[Member, Callable[[], bytes]]]:
    """The files in a tar archive."""
    stream = _Parts(parts, digest)
    try:
        with _decompressed(start, stream) as plain:
            # Zeros are ignored, because several archives may be joined in one file, and
            # each of them ends with blocks of zeros.
            with tarfile.open(
                fileobj=plain, mode="r|", tarinfo=_StrictInfo, ignore_zeros=True
            ) as tar:
                for info in tar:
                    if info.isdir():
                        continue

                    def content(info: tarfile.TarInfo = info) -> bytes:
                        f = tar.extractfile(info)
                        return f.read() if f else b""

                    name = info.name.removeprefix("./")
                    yield Member(name, info.size, info.isfile()), content
            while plain.read(_CHUNK_BYTES):
                pass  # The digest is that of the whole file.
        while stream.read(_CHUNK_BYTES):
            pass
    finally:
        stream.close()


def _zip_members(
    parts: Sequence[str],
) -> Iterator[tuple[Member, Callable[[], bytes]]]:
    """The files in a ZIP archive."""
    with _SeekableParts(parts) as raw, zipfile.ZipFile(io.BufferedReader(raw)) as z:
        for info in sorted(z.infolist(), key=lambda info: info.header_offset):
            if info.is_dir():
                continue

            def content(info: zipfile.ZipInfo = info) -> bytes:
                return z.read(info)

            # Links and devices have a mode.  Programs of Windows write no mode, and
            # some of them separate folders by backslashes.
            kind = stat.S_IFMT(info.external_attr >> 16)
            name = info.filename.replace("\\", "/").removeprefix("./")
            yield Member(name, info.file_size, kind in (0, stat.S_IFREG)), content


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
    """Headers as `tarfile` reads them, but a damaged header is an error.

    `tarfile` takes a damaged header for the end of the archive.  It would also read a
    name of gigabytes, which a small compressed file can contain, into memory.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """Refuses a header of a tar archive that would fill the memory."""
        if self.type in _EXTENDED and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Any:
        """Reads the next header of a tar archive."""
        ended = getattr(archive, "ended_regularly", False)  # Unset at the first header.
        archive.ended_regularly = False  # type: ignore[attr-defined]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            # A block of zeros is the end, unless another archive follows.
            archive.ended_regularly = True  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            # After a regular end, padding that is shorter than a header may follow, or
            # nothing.
            short = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
            if ended and isinstance(error, short):
                raise
            raise tarfile.ReadError(f"a damaged header: {error}") from error


def _decompressed(start: bytes, stream: _Parts) -> Any:
    """The plain tar stream of an archive that begins with these bytes."""
    if start.startswith(_XZ):
        return lzma.LZMAFile(stream)  # type: ignore[arg-type]
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=stream)
    if start.startswith(_BZIP2):
        return bz2.BZ2File(stream)
    return io.BufferedReader(stream)


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
        """True: the parts of an archive are read as one stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads the next bytes of an archive in parts."""
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
        """Closes the part of the archive that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


class _SeekableParts(io.RawIOBase):
    """Files one after the other, as one file: the contents of a ZIP are at its end."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        sizes = [os.path.getsize(path) for path in paths]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._position = 0
        self._number, self._file = -1, None  # type: int, BinaryIO | None

    def readable(self) -> bool:
        """True: the parts of a ZIP archive are read as one file."""
        return True

    def seekable(self) -> bool:
        """True: a ZIP archive in parts is read from its end."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place in a ZIP archive in parts."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
        self._position = offset + base.get(whence, self._starts[-1])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads bytes of a ZIP archive in parts."""
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= len(self._paths):
            return 0
        if number != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._number, self._file = number, open(self._paths[number], "rb")
        self._file.seek(self._position - self._starts[number])
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._position += count
        return count

    def close(self) -> None:
        """Closes the part of the ZIP archive that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()
