"""Pictures of a data set: how ages spread, and what the faces look like.

Drawn with Pillow and not with matplotlib, which takes longer to import and to draw than
a small data set takes to write.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import files
from afad_tfdata.images import codec
from afad_tfdata.storage import schema, sharding

HISTOGRAM_NAME = "age_gender.png"
SHEET_NAME = "samples.png"
# Pixels: of a face in a sheet with its caption above, and of a histogram's panels.
_FACE, _CAPTION = 90, 14
_PANEL = (810, 210)
_MARGIN_LEFT, _MARGIN_TOP, _MARGIN = 60, 24, 20
_AXIS = 24  # Below a panel: the ages.
# zlib's fastest: photos gain little from more.
_COMPRESSION = 1
_COLORS = ("#1f77b4", "#ff7f0e")
_INK, _GRID = "#222222", "#dddddd"


def draw_histogram(path: str, manifest: schema.Manifest) -> None:
    """Faces by age, a panel for each split, the classes on top of each other."""
    from PIL import Image, ImageDraw

    names = [n for n in sharding.SPLITS if manifest.splits[n].num_examples]
    width, height = _PANEL[0], _PANEL[1] + _AXIS
    canvas = Image.new("RGB", (width, height * len(names)), "white")
    draw = ImageDraw.Draw(canvas)
    ages = {
        int(age)
        for name in names
        for counts in manifest.splits[name].counts.values()
        for age in counts
    }
    first, last = min(ages), max(ages)
    for number, name in enumerate(names):
        split = manifest.splits[name]
        by_age = np.zeros((len(manifest.class_names), last - first + 1), np.int64)
        for label, class_name in enumerate(manifest.class_names):
            for age, count in split.counts.get(class_name, {}).items():
                by_age[label, int(age) - first] = count
        _draw_panel(
            draw,
            (_MARGIN_LEFT, number * height + _MARGIN_TOP),
            f"{name}: {split.num_examples:,} faces",
            manifest.class_names,
            by_age,
            first,
        )
    _save(canvas, path)


def _draw_panel(
    draw: Any,
    corner: tuple[int, int],
    title: str,
    class_names: Sequence[str],
    counts: np.ndarray,
    first: int,
) -> None:
    """One split: bars, scales and legend below and right of a corner.

    Args:
      draw: ``PIL.ImageDraw.ImageDraw``.
      corner: ``(x, y)``, pixels.
      title: Above the panel.
      class_names: Of the labels.
      counts: int64 ``[labels, ages]``.
      first: The first age.
    """
    font, (left, top) = _font(11), corner
    right = _PANEL[0] - _MARGIN
    bottom = top + _PANEL[1] - _MARGIN_TOP
    draw.text((left, top - 4), title, _INK, _font(13), anchor="lb")
    step = _round_step(int(counts.sum(axis=0).max()) / 5)
    scale = (bottom - top) / (counts.sum(axis=0).max() * 1.05)
    for value in range(0, int((bottom - top) / scale) + 1, step):
        y = bottom - value * scale
        draw.line((left, y, right, y), _GRID)
        draw.text((left - 6, y), f"{value:,}", _INK, font, anchor="rm")
    wide = (right - left) / counts.shape[1]
    for column in range(counts.shape[1]):
        x, below = left + column * wide, 0
        for label in range(len(class_names)):
            above = below + int(counts[label, column])
            if above > below:
                box = (x, bottom - above * scale, x + wide, bottom - below * scale)
                draw.rectangle(box, _COLORS[label])
            below = above
        if (first + column) % 5 == 0:
            x += wide / 2
            draw.line((x, bottom, x, bottom + 4), _INK)
            draw.text((x, bottom + 6), str(first + column), _INK, font, anchor="ma")
    draw.text((left - 6, bottom + 6), "age", _INK, font, anchor="ra")
    draw.line((left, bottom, right, bottom), _INK)
    for label, class_name in enumerate(class_names):
        text = f"{class_name}: {int(counts[label].sum()):,}"
        y = top + 10 + 16 * label
        draw.text((right - 18, y), text, _INK, font, anchor="rm")
        draw.rectangle((right - 12, y - 5, right - 2, y + 5), _COLORS[label])


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least:
                return digit * power
        power *= 10


def draw_sheet(
    path: str, pictures: Sequence[np.ndarray], captions: Sequence[str], *, columns: int
) -> None:
    """A contact sheet.

    Args:
      path: Where to; PNG.
      pictures: uint8 ``[S, S, 3]`` each.
      captions: One for each picture; what is too long for its picture is drawn smaller.
      columns: Pictures in a row.
    """
    from PIL import Image, ImageDraw

    rows = max(1, -(-len(pictures) // columns))
    size = (columns * _FACE, rows * (_FACE + _CAPTION))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = column * _FACE, row * (_FACE + _CAPTION) + _CAPTION
        small = codec.resize(picture, _FACE, antialias=True)
        canvas.paste(Image.fromarray(small), (left, top))
        font = _font(11)
        if (length := draw.textlength(caption, font)) > _FACE - 2:
            font = _font(max(5.0, 11 * (_FACE - 2) / length))
        place = (left + _FACE / 2, top - 2)
        draw.text(place, caption, _INK, font, anchor="mb")
    _save(canvas, path)


def sample(
    directory: str, manifest: schema.Manifest, split: str, count: int
) -> tuple[list[np.ndarray], list[str]]:
    """Pictures and captions of faces spread evenly over a split's records.

    Returns:
      uint8 ``[S, S, 3]`` each, and ``"male 23"``.
    """
    index = schema.load_index(directory, manifest, split)
    shards = manifest.splits[split].shards
    pictures, captions = [], []
    for position in range(0, len(index), max(1, len(index) // count))[:count]:
        row = index[position]
        path = os.path.join(directory, shards[row["shard"]].name)
        before = sum(shard.num_examples for shard in shards[: row["shard"]])
        pictures.append(read_picture(path, row, position - before, manifest))
        captions.append(f"{manifest.class_names[row['gender']]} {row['age']}")
    return pictures, captions


def read_picture(
    path: str, row: Any, position: int, manifest: schema.Manifest
) -> np.ndarray:
    """One record's image at the data set's size.

    Args:
      path: The shard.
      row: Of the index.
      position: Of the record in its shard.
      manifest: Of the data set.

    Returns:
      uint8 ``[S, S, 3]``.

    Raises:
      images.ImageError: The bytes are no image.
    """
    if manifest.pixel.get("compression", "none") != "none":
        import h5py

        with h5py.File(path, "r") as shard:
            return _raw_picture(shard["data"][position].tobytes(), manifest)
    with open(path, "rb") as f:
        f.seek(int(row["image_offset"]))
        content = f.read(int(row["image_length"]))
    if manifest.image_encoding == "raw":
        return _raw_picture(content, manifest)
    return codec.resize(codec.decode(content), manifest.image_size)


def _raw_picture(content: bytes, manifest: schema.Manifest) -> np.ndarray:
    side, pixel = manifest.image_size, manifest.pixel
    flat = np.frombuffer(content, pixel.get("dtype", "uint8"))
    if pixel.get("channels") == "first":
        return flat.reshape(3, side, side).transpose(1, 2, 0).astype(np.uint8)
    return flat.reshape(side, side, 3).astype(np.uint8)


def _font(size: float) -> Any:
    """The font that Pillow brings."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _save(canvas: Any, path: str) -> None:
    # No date and no version inside: the same data set gives the same picture.
    picture = io.BytesIO()
    canvas.save(picture, format="PNG", compress_level=_COMPRESSION)
    files.write_atomic(path, picture.getvalue(), durable=False)
