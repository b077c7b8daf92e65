"""The files in an archive, one after the other: tar, plain or compressed, and ZIP.

The first bytes of an archive decide what it is; its name does not.  A damaged archive
is an error, because nobody would otherwise notice that its end is missing.  Nothing is
extracted under a name from the archive.  Names that lead out of the archive, links and
devices are rejected.
"""

from __future__ import annotations

import bz2
import collections
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
from typing import Any, NamedTuple

from afad_tfdata.common import errors
from afad_tfdata.writing import age_folders, archive_parts, source

_CHUNK_BYTES = 1 << 20
_XZ, _GZIP, _BZIP2, _ZIP = b"\xfd7zXZ\0", b"\x1f\x8b", b"BZh", b"PK"
# The data set's page names this MD5 for the 46 parts together.
_KNOWN_MD5 = {("AFAD-Full.tar.xz", 46): "22ff8bcf4acf6e5911ff75a537d5ba91"}
# A few images in other folders are rejected by name.  If there are more, the user must
# name the folder.
_NEARLY_ALL = 0.9


def scan(parts: Sequence[str], gender_codes: dict[str, int]) -> source.Listing:
    """Lists the images in an archive as `age_folders.scan` lists those in a folder.

    Args:
      parts: From `archive_parts.find`.
      gender_codes: From `gender_codes.parse`.

    Raises:
      DataError: The archive is damaged, or its MD5 is not the published one.
    """
    digest = hashlib.md5(usedforsecurity=False)
    names: list[tuple[str, int]] = []
    listing = source.Listing(os.path.dirname(parts[0]), [], [], 0)
    refused = listing.rejected
    for member, _ in members(parts, digest):
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
    prefix = _prefix_of_images([name for name, _ in names], parts[0], gender_codes)
    seen = set()
    for name, size in names:
        inside = name.startswith(prefix)
        key = name.removeprefix(prefix)
        if key.startswith("/"):
            reason = "a path that leaves the archive"
            refused.append(source.Rejection(name, reason))
        elif not inside and age_folders.may_be_image(key, gender_codes):
            reason = f"not in the folder of the others, {prefix or '.'}"
            refused.append(source.Rejection(name, reason))
        elif key in seen:
            refused.append(source.Rejection(key, "twice in the archive"))
        else:
            seen.add(key)
            age_folders.add_file(listing, key, gender_codes, size)
    listing.items.sort()
    listing.rejected.sort()
    listing.parts, listing.prefix = tuple(parts), prefix
    return listing


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
    """Yields the members of an archive, without directories, and what reads each.

    The function must be called before the next member is requested, because a stream
    cannot go back.

    Args:
      parts: The files that are the archive, one after the other.
      digest: Updated with every byte of a tar; not used for a ZIP.

    Raises:
      DataError: The archive is damaged, or the file is not an archive.
      UsageError: A part cannot be opened or read.
    """
    with _damage_error(parts):
        with open(parts[0], "rb") as f:
            start = f.read(512)
        if start.startswith(_ZIP):
            found = _zip_members(parts)
        else:
            found = _tar_members(parts, start, digest)
        for member, content in found:

            def checked(content: Callable[[], bytes] = content) -> bytes:
                """Reads a member of the archive; a `DataError` if it is damaged."""
                with _damage_error(parts):  # The caller reads outside the outer block.
                    return content()

            yield member, checked


@contextlib.contextmanager
def _damage_error(parts: Sequence[str]) -> Iterator[None]:
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
    """Yields the members of a tar archive."""
    stream = archive_parts.PartStream(parts, digest)
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
                        """Reads the current member of the tar archive."""
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
    """Yields the members of a ZIP archive."""
    with (
        archive_parts.SeekableParts(parts) as raw,
        zipfile.ZipFile(io.BufferedReader(raw)) as z,
    ):
        for info in sorted(z.infolist(), key=lambda info: info.header_offset):
            if info.is_dir():
                continue

            def content(info: zipfile.ZipInfo = info) -> bytes:
                """Reads a member of the ZIP archive."""
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


def _decompressed(start: bytes, stream: archive_parts.PartStream) -> Any:
    """The plain tar stream of an archive that begins with these bytes."""
    if start.startswith(_XZ):
        return lzma.LZMAFile(stream)  # type: ignore[arg-type]
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=stream)
    if start.startswith(_BZIP2):
        return bz2.BZ2File(stream)
    return io.BufferedReader(stream)


def _prefix_of_images(
    names: Sequence[str], part: str, gender_codes: dict[str, int]
) -> str:
    """The folder in an archive that precedes AGE/GENDER/IMAGE in nearly all names.

    Raises:
      UsageError: Several folders have images, and none has nearly all of them.
    """
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        *above, age, gender, image = ["", "", *name.split("/")]
        if age_folders.may_be_image(f"{age}/{gender}/{image}", gender_codes):
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
    stem = "".join(archive_parts.group_by_archive([os.path.basename(parts[0])]))
    known = _KNOWN_MD5.get((stem, len(parts)))
    if known and found != known:
        raise errors.DataError(
            f"the {len(parts)} parts of {stem} have the MD5 {found}, but the published"
            f" one is {known}: a part is damaged; fetch them again"
        )
