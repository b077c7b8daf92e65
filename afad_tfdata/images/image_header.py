"""Reads the header of an image without decoding the image.

`read_header` goes through a JPEG's markers or a PNG's chunks.  The header contains
everything that decides whether an image can be used.  `read_header` looks for the EXIF
orientation in all places where programs write it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from afad_tfdata.common import crc32, errors

# Large enough for any photo, small enough that a decoded image fits into memory.
MAX_PIXELS = 64_000_000
# The longest side that a JPEG can have, and that the index can store (2 bytes).
_MAX_SIDE = 65_535
# Baseline, extended and progressive with Huffman codes, which every libjpeg decodes.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Size of a PNG chunk without its content: length, kind and checksum, 4 bytes each.
_PNG_CHUNK_BYTES = 12
# Channels by a PNG's colour type: gray, RGB, palette (decoded to RGB), both with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# Bits of a channel that the PNG specification allows, by colour type.
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_PALETTE = 3  # A colour type.
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_ANCILLARY = 0x20  # Bit of the first letter: decoders may ignore the chunk.
_PNG_LAST_FILTER = 4
# Passes of Adam7: first column and row, and the distance of columns and rows.
_PNG_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_EXIF_ORIENTATION = 0x0112  # Tag 274 of TIFF 6.0.
_EXIF_START = b"Exif\0\0"
# Formats of `struct` by TIFF's type: BYTE, SHORT, LONG and their signed forms.
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_LARGEST_PROFILE = 1 << 20  # Bytes of text; EXIF has at most 64 KiB.
# First bytes of what is often found in place of a photo, for a clear message.
_OTHER_FORMATS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"RIFF": "a WebP or other RIFF file",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"\x00" * 16: "zero bytes, as a crash or a full disk leaves them",
    b"\x00\x00\x00": "a HEIF, AVIF or JPEG 2000",
    b"<": "a text or markup file",
    b"PK": "a ZIP archive",
}


class ImageError(Exception):
    """An image that cannot be used; the text is the reason without the file's name."""


class ImageHeader(NamedTuple):
    """What the first bytes of an image say.

    Attributes:
      format: ``jpeg`` or ``png``.
      height: Pixels, before any rotation.
      width: Pixels.
      channels: 1 to 4.
      bits: Bits of a channel.
      orientation: EXIF orientation, 1 to 8; 1 is upright.
      transparency: True if pixels may be transparent.
      frame: Marker of a JPEG's frame header, which says how it is coded.
      end: Bytes of a PNG, up to its last chunk.  A decoder must not see the bytes
        after it, which it would read as chunks of any length.  None for a JPEG.
    """

    format: str
    height: int
    width: int
    channels: int
    bits: int = 8
    orientation: int = 1
    transparency: bool = False
    frame: int = 0xC0
    end: int | None = None


def pointer_kind(start: bytes) -> str:
    """Says what an image file is that only points to its content, and how to get it.

    Args:
      start: The file's first bytes.

    Returns:
      Empty if it is no such file.
    """
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: git lfs pull fetches the file itself"
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return "a git-annex pointer: git annex get fetches the file itself"
    return ""


def read_header(data: bytes) -> ImageHeader:
    """Reads an image's header without decoding the image.

    Args:
      data: The whole file.  All checksums of a PNG are compared, because decoders
        silently show the first part of a truncated one.

    Raises:
      ImageError: It is not a JPEG or PNG, or its structure is broken.
    """
    if data[:2] == b"\xff\xd8":
        return _read_jpeg_header(data)
    if data[:8] == _PNG_SIGNATURE:
        return _read_png_header(data)
    if not data:
        raise ImageError("empty file")
    if pointer := pointer_kind(data[:64]):
        raise ImageError(f"not a JPEG or PNG but {pointer}")
    for magic, name in _OTHER_FORMATS.items():
        if data.startswith(magic):
            raise ImageError(f"not a JPEG or PNG but {name}")
    raise ImageError("not a JPEG or PNG")


def check_header(
    header: ImageHeader, *, as_stored: bool, max_pixels: int = MAX_PIXELS
) -> None:
    """Refuses images whose header says that viewers would show other pixels.

    Args:
      header: From `read_header`.
      as_stored: True if the file's own bytes are to be read by plain decoders, which
        neither rotate nor reduce 16 bits; False if `codec.decode` gives the pixels.
      max_pixels: The largest height times width.

    Raises:
      ImageError: The image is refused; the text is the reason.
    """
    if header.height < 1 or header.width < 1:
        raise ImageError(f"no pixels: {header.height} x {header.width}")
    if header.height * header.width > max_pixels:
        raise ImageError(
            f"too many pixels: {header.height} x {header.width}, the limit is"
            f" {max_pixels}"
        )
    if max(header.height, header.width) > _MAX_SIDE:
        raise ImageError(f"too long a side: {header.height} x {header.width}")
    if header.format == "jpeg" and header.channels == 4:
        raise ImageError("CMYK JPEG: its colours depend on a profile")
    if header.format == "jpeg" and header.bits != 8:
        raise ImageError(f"{header.bits}-bit JPEG")
    if header.format == "jpeg" and header.frame not in _JPEG_FRAMES:
        # Some versions of libjpeg-turbo read some of them; TensorFlow reads none.
        raise ImageError("a lossless, hierarchical or arithmetic-coded JPEG")
    if header.format == "jpeg" and header.channels not in (1, 3):
        raise ImageError(f"a JPEG of {header.channels} channels")
    if as_stored and header.bits == 16:
        raise ImageError("16-bit PNG: only image_encoding jpeg or raw can store it")
    if as_stored and header.orientation != 1:
        raise ImageError(
            f"EXIF orientation {header.orientation}: only image_encoding jpeg or raw"
            " can store it upright"
        )


def check_png_pixels(data: bytes, header: ImageHeader) -> None:
    """Refuses a PNG that one decoder refuses and another one shows in part.

    Raises:
      ImageError: There are fewer pixels than the header says, or they are damaged.
    """
    pieces, color, interlaced = [], 0, False
    for kind, body, _ in _png_chunks(data[: header.end]):
        if kind == b"IHDR":
            color, interlaced = body[9], bool(body[12])
        elif kind == b"IDAT":
            pieces.append(body)
    samples = 1 if color == _PNG_PALETTE else header.channels
    rows: list[tuple[int, int]] = []  # For each pass: number of rows, bytes of a row.
    for left, top, across, down in _PNG_PASSES if interlaced else ((0, 0, 1, 1),):
        width = -(-(header.width - left) // across)
        height = -(-(header.height - top) // down)
        if width > 0 and height > 0:
            rows.append((height, 1 + -(-width * samples * header.bits // 8)))
    expected = sum(number * size for number, size in rows)
    stream = zlib.decompressobj()
    try:
        # One byte more is requested, so that the checksum at the end is compared.
        pixels = stream.decompress(b"".join(pieces), expected + 1)
    except zlib.error as error:
        raise ImageError(f"cannot be decoded: {errors.one_line(error)}") from error
    if len(pixels) != expected or not stream.eof:
        raise ImageError(
            f"cannot be decoded: {len(pixels)} bytes of pixels instead of {expected}"
        )
    start = 0
    for number, size in rows:
        # Each row begins with the number of its filter.
        if max(pixels[start : start + number * size : size]) > _PNG_LAST_FILTER:
            raise ImageError("cannot be decoded: a row with an unknown filter")
        start += number * size


def _read_jpeg_header(data: bytes) -> ImageHeader:
    """Walks the markers of a JPEG (ITU-T T.81, annex B) to its first scan.

    The frame header has the size; EXIF may be before or after it.
    """
    position, end, orientation = 2, len(data), None
    header = None
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise ImageError("broken JPEG: no marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:  # Fill byte.
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # Markers without a length.
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        # These are all frame headers; DHT, JPG and DAC have numbers in the same range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if position + 10 > end:
                break
            if header is not None:
                raise ImageError("broken JPEG: two frame headers")
            bits, height, width, channels = struct.unpack(
                ">BHHB", data[position + 4 : position + 10]
            )
            header = ImageHeader("jpeg", height, width, channels, bits, frame=marker)
        if marker in (0xD9, 0xDA):  # The end of the image, or its first scan.
            break
        # The first EXIF segment counts, as in most viewers.
        if (
            marker == 0xE1
            and orientation is None
            and data[position + 4 : position + 10] == _EXIF_START
        ):
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        if length < 2:
            raise ImageError("broken JPEG: a segment of negative length")
        position += 2 + length
    if header is None:
        raise ImageError("truncated JPEG: it ends before its frame header")
    return header._replace(orientation=orientation or 1)


def _exif_orientation(exif: bytes) -> int:
    """EXIF orientation in the first directory; 1 where it is missing or invalid."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack(order + "I", exif[4:8])
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack(order + "H", exif[start : start + 2])
    for i in range(count):
        entry = exif[start + 2 + 12 * i : start + 14 + 12 * i]
        if len(entry) < 12:
            return 1
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag == _EXIF_ORIENTATION:
            # The standard says SHORT; some programs write another integer type.
            form = _TIFF_INTEGERS.get(kind)
            if form is None:
                return 1
            (value,) = struct.unpack_from(order + form, entry, 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _png_orientation(header: ImageHeader, kind: bytes, body: bytes) -> ImageHeader:
    """The header of a PNG, with the orientation that a chunk names if it names one."""
    exif = b""
    if kind == b"eXIf":
        exif = body
    elif kind in (b"zTXt", b"tEXt", b"iTXt"):
        exif = _exif_in_png_text(kind, body)
    exif = exif.removeprefix(_EXIF_START)
    orientation = _exif_orientation(exif) if exif else 1
    return header if orientation == 1 else header._replace(orientation=orientation)


def _exif_in_png_text(kind: bytes, body: bytes) -> bytes:
    """The EXIF that ImageMagick writes in hexadecimal into a text chunk of a PNG.

    The result is empty if the chunk has no EXIF, or if it cannot be read.
    """
    keyword, _, text = body.partition(b"\0")
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return b""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:]
        text = text.partition(b"\0")[2].partition(b"\0")[2]  # Language, translation.
    elif packed:
        text = text[1:]  # The first byte is the method of compression: there is one.
    try:
        if packed:
            text = zlib.decompressobj().decompress(text, _LARGEST_PROFILE)
        # A name, the number of bytes, and the bytes.
        return bytes.fromhex("".join(text.decode("ascii").split()[2:]))
    except (ValueError, zlib.error):
        return b""


def _read_png_header(data: bytes) -> ImageHeader:
    """Walks all chunks of a PNG and compares their checksums."""
    header: ImageHeader | None = None
    transparency, has_pixels = False, False
    color, has_palette, previous = 0, False, b""
    for kind, body, end in _png_chunks(data):
        if header is None and kind == b"IHDR":
            header, color = _parse_png_header(body)
            transparency = color in (4, 6)
            continue
        if header is None or kind == b"IHDR":
            raise ImageError("broken PNG: its first chunk alone must be a header")
        if kind == b"tRNS":
            if color == 0:
                raise ImageError("a PNG in which one gray is transparent")
            transparency = True
        elif kind == b"PLTE":
            has_palette = True
        elif kind == b"acTL":
            raise ImageError("animated PNG")
        elif kind == b"IDAT" and has_pixels and previous != b"IDAT":
            raise ImageError("broken PNG: pixels in two places")
        elif kind == b"IDAT" and color == _PNG_PALETTE and not has_palette:
            raise ImageError("broken PNG: no palette")
        elif kind not in _PNG_CRITICAL and not kind[0] & _PNG_ANCILLARY:
            raise ImageError(f"a PNG with a chunk {kind!r} that decoders do not know")
        header = _png_orientation(header, kind, body)
        has_pixels = has_pixels or kind == b"IDAT"
        if kind == b"IEND":
            if not has_pixels:
                raise ImageError("broken PNG: no pixels in it")
            return header._replace(transparency=transparency, end=end)
        previous = kind
    raise ImageError("truncated PNG: it has no end chunk")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yields the kind, the content and the end of each chunk whose checksum is right.

    Raises:
      ImageError: A checksum is wrong.
    """
    position = len(_PNG_SIGNATURE)
    while position + _PNG_CHUNK_BYTES <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + _PNG_CHUNK_BYTES + length
        if end > len(data):
            return
        if crc32.crc32(data[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise ImageError(f"broken PNG: checksum of its {kind!r} chunk")
        yield kind, data[position + 8 : end - 4], end
        position = end


def _parse_png_header(body: bytes) -> tuple[ImageHeader, int]:
    """The image header and the colour type in the IHDR chunk of a PNG."""
    if len(body) != 13:
        raise ImageError("broken PNG: a header of another length")
    width, height, bits, color, packing, filters, interlaced = struct.unpack(
        ">IIBBBBB", body
    )
    if bits not in _PNG_BITS.get(color, ()) or packing or filters or interlaced > 1:
        raise ImageError("broken PNG: a header that no decoder knows")
    channels = _PNG_CHANNELS[color]
    return ImageHeader("png", height, width, channels, bits), color
