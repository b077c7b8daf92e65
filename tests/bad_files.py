"""One file of each kind that people's folders contain in addition to good faces.

`add_to_tree` adds them to a tree.  The expected outcome of each is the beginning of the
reason with which it is rejected, `SKIPPED`, or `WRITTEN` for odd files that are fine.
"""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

SKIPPED = "skipped"
WRITTEN = "written"


def picture(mode="RGB", size=(40, 50), seed=0):
    """A PIL image of random pixels, opaque; `size` is (width, height)."""
    shape = (*size[::-1], {"RGB": 3, "RGBA": 4, "CMYK": 4, "L": 1}[mode])
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    if mode == "RGBA":
        pixels[..., 3] = 255
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)


def encoded(image, form, **options):
    """The bytes of a file of this format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, body=b"", bits=8, color=2):
    """A PNG whose header may promise other pixels than its body has."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def _rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(seed=orientation), "JPEG", exif=exif)


def _transparent():
    image = picture("RGBA", seed=4)
    image.putpixel((3, 3), (1, 2, 3, 40))
    return encoded(image, "PNG")


def _bomb():
    """A PNG whose header promises 12000 x 12000 pixels, in a few bytes."""
    return png(12000, 12000, b"\0" * 1000)


def _flipped_length(jpeg):
    """A segment of length 0: a reader that trusts it never advances."""
    at = jpeg.index(b"\xff\xdb") + 2
    return jpeg[:at] + b"\0\0" + jpeg[at + 2 :]


def _sixteen_bit():
    row = b"\0" + b"\1\2" * 3 * 30
    return png(30, 30, row * 30, bits=16)


def contents() -> dict[str, tuple[bytes, str]]:
    """By path in the tree: the content and the expected outcome."""
    jpeg = encoded(picture(seed=1), "JPEG", quality=90)
    whole = encoded(picture(seed=2), "PNG")
    return {
        "20/111/empty.jpg": (b"", "empty file"),
        "20/111/zeros.jpg": (b"\0" * 4000, "not a JPEG or PNG but zero bytes"),
        "20/111/text.jpg": (b"<html>not found</html>", "not a JPEG or PNG but a text"),
        "20/111/cut.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "20/111/cut-in-header.jpg": (jpeg[:30], "truncated JPEG"),
        "20/111/length.jpg": (_flipped_length(jpeg), "broken JPEG"),
        "20/111/cmyk.jpg": (encoded(picture("CMYK"), "JPEG"), "CMYK JPEG"),
        "20/111/rotated.jpg": (_rotated(6), "EXIF orientation 6"),
        "20/111/gif.jpg": (
            encoded(picture("L"), "GIF"),
            "not a JPEG or PNG but a GIF",
        ),
        "20/111/bmp.png": (encoded(picture(), "BMP"), "not a JPEG or PNG but a BMP"),
        "20/111/webp.jpg": (
            b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 40,
            "not a JPEG or PNG but a WebP",
        ),
        "20/111/tiff.jpg": (
            encoded(picture(), "TIFF"),
            "not a JPEG or PNG but a TIFF",
        ),
        "20/112/cut.png": (whole[:-40], "truncated PNG"),
        "20/112/crc.png": (whole[:60] + b"?" + whole[61:], "broken PNG"),
        "20/112/bomb.png": (_bomb(), "too many pixels"),
        "20/112/transparent.png": (_transparent(), "transparent pixels"),
        "20/112/sixteen.png": (_sixteen_bit(), "16-bit PNG"),
        "20/112/notes.txt": (b"labels", "not named .jpg"),
        "20/113/other.jpg": (jpeg, "folder '113' is not one of --gender_codes"),
        "twenty/111/age.jpg": (jpeg, "age 'twenty' is not a number"),
        "999/111/age.jpg": (jpeg, "age 999 is not the age"),
        "-5/111/age.jpg": (jpeg, "age '-5' is not a number"),
        "20/loose.jpg": (jpeg, "not filed as AGE/GENDER/IMAGE"),
        "20/111/deep/er.jpg": (jpeg, "not filed as AGE/GENDER/IMAGE"),
        "20/111/Thumbs.db": (b"db", SKIPPED),
        "20/111/.hidden.jpg": (jpeg, SKIPPED),
        "README.md": (b"read me", SKIPPED),
        "AFAD-Full.txt": (b"list", SKIPPED),
        "21/111/upper.JPG": (encoded(picture(seed=5), "JPEG"), WRITTEN),
        "21/111/png-inside.jpg": (encoded(picture(seed=6), "PNG"), WRITTEN),
        "21/111/jpeg-inside.png": (encoded(picture(seed=7), "JPEG"), WRITTEN),
        "21/112/gray.jpg": (encoded(picture("L", seed=8), "JPEG"), WRITTEN),
        "21/112/progressive.jpg": (
            encoded(picture(seed=9), "JPEG", progressive=True),
            WRITTEN,
        ),
        "21/112/opaque.png": (encoded(picture("RGBA", seed=10), "PNG"), WRITTEN),
        "21/112/with space é.jpg": (encoded(picture(seed=11), "JPEG"), WRITTEN),
        "21/112/one.png": (encoded(picture(size=(1, 1), seed=12), "PNG"), WRITTEN),
    }


def add_to_tree(root: str) -> dict[str, str]:
    """Writes all of them below a root; returns the expected outcomes by path."""
    expected = {}
    for path, (content, outcome) in contents().items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as f:
            f.write(content)
        expected[path] = outcome
    os.symlink("nowhere.jpg", os.path.join(root, "20/111/broken-link.jpg"))
    expected["20/111/broken-link.jpg"] = "not a file"
    return expected
