"""A contact sheet: small pictures in rows, each with a caption above it.

Pillow draws it.  matplotlib would need more time for importing and drawing than the
writing of a small data set takes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from afad_tfdata.common import files
from afad_tfdata.images import codec

if TYPE_CHECKING:
    from PIL import Image, ImageFont

INK = "#222222"
# Pixels: the side of a picture, and the height of the caption above it.
_SIDE, _CAPTION = 90, 14
_FONT_SIZE, _SMALLEST_FONT_SIZE = 11, 5.0
# zlib's fastest level, because higher levels make photos hardly any smaller.
_COMPRESSION = 1


def draw(
    path: str, pictures: Sequence[np.ndarray], captions: Sequence[str], *, columns: int
) -> None:
    """Draws a contact sheet of pictures with captions, as a PNG file.

    Args:
      path: The PNG file to write.
      pictures: uint8 ``[S, S, 3]`` each, of any sizes; each is resized.
      captions: One for each picture; a caption that is wider than its picture is drawn
        in a smaller font.
      columns: Pictures in a row.

    Raises:
      UsageError: The file cannot be written.
    """
    from PIL import Image, ImageDraw

    rows = max(1, -(-len(pictures) // columns))
    size = (columns * _SIDE, rows * (_SIDE + _CAPTION))
    canvas = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(canvas)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * _SIDE, row * (_SIDE + _CAPTION) + _CAPTION
        small = codec.resize(picture, _SIDE, antialias=True)
        canvas.paste(Image.fromarray(small), (left, top))
        letters = font(_FONT_SIZE)
        if (length := drawing.textlength(caption, letters)) > _SIDE - 2:
            shrunk = _FONT_SIZE * (_SIDE - 2) / length
            letters = font(max(_SMALLEST_FONT_SIZE, shrunk))
        place = (left + _SIDE / 2, top - 2)
        drawing.text(place, caption, INK, letters, anchor="mb")
    save(canvas, path)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of contact sheets, which comes with Pillow and need not be installed."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def save(canvas: Image.Image, path: str) -> None:
    """Writes a contact sheet or another picture as PNG, whole or not at all."""
    # The file gets no date and no version, so that the same data set gives the same
    # file.
    picture = io.BytesIO()
    canvas.save(picture, format="PNG", compress_level=_COMPRESSION)
    files.write_atomic(path, picture.getvalue(), durable=False)
