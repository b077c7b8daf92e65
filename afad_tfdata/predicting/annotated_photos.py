"""Photos with the boxes of their faces and what was predicted for each."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from afad_tfdata.common import files
from afad_tfdata.images import codec, contact_sheet, face_crop
from afad_tfdata.predicting import image_reader

# Longer side in pixels of a picture: readable on a screen, and small on the disk.
_LARGEST_SIDE = 1600
_LINE = "#39d353"
_QUALITY = 90
# The font's size as a share of the picture's longer side, and its least size.
_FONT_SHARE, _SMALLEST_FONT = 1 / 60, 11


class PhotoAnnotator:
    """Draws what was predicted into photos: one picture ``NAME_faces.jpg`` for each.

    Args:
      directory: The folder; it is created.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._written: set[str] = set()
        files.make_dirs(directory)

    def draw(
        self,
        path: str,
        squares: Sequence[face_crop.Square],
        captions: Sequence[str],
    ) -> str:
        """Draws the boxes of a photo's faces with their predictions.

        The photo is read again, so that no photo is kept while others are predicted.

        Args:
          path: The photo.
          squares: In pixels of the upright photo.
          captions: One for each square.

        Returns:
          The path of the picture.

        Raises:
          UsageError: The picture cannot be written.
          ImageError: The photo cannot be read any more.
        """
        photo = codec.decode(image_reader.read_image_file(path))
        target = self._picture_path(path)
        files.write_atomic(
            target, _annotated_jpeg(photo, squares, captions), durable=False
        )
        return target

    def _picture_path(self, path: str) -> str:
        """The path of a photo's picture, which no other photo of this run has."""
        stem = os.path.splitext(os.path.basename(path))[0] or "photo"
        name, number = f"{stem}_faces.jpg", 1
        while name in self._written:
            number += 1
            name = f"{stem}_faces_{number}.jpg"
        self._written.add(name)
        return files.join(self._directory, name)


def _annotated_jpeg(
    photo: np.ndarray, squares: Sequence[face_crop.Square], captions: Sequence[str]
) -> bytes:
    """The JPEG of a photo with the boxes of its faces and their captions."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(photo)
    scale = min(1.0, _LARGEST_SIDE / max(canvas.size))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in canvas.size)
        canvas = canvas.resize((width, height), Image.Resampling.BOX)
    drawing = ImageDraw.Draw(canvas)
    longer = max(canvas.size)
    font = contact_sheet.font(max(_SMALLEST_FONT, longer * _FONT_SHARE))
    line = max(1, longer // 400)
    for square, caption in zip(squares, captions, strict=True):
        left, top, right, bottom = (value * scale for value in square)
        drawing.rectangle((left, top, right, bottom), outline=_LINE, width=line)
        box = drawing.textbbox((0, 0), caption, font)
        wide, high = box[2] + 4, box[3] + 4
        # Above the box; inside the picture where there is no room above.
        x = min(max(left, 0), max(0, canvas.width - wide))
        y = top - high if top >= high else max(top, 0)
        drawing.rectangle((x, y, x + wide, y + high), fill=_LINE)
        drawing.text((x + 2, y + 2), caption, "black", font)
    return codec.encode_jpeg(np.asarray(canvas), _QUALITY)
