"""Pictures of a data set: a histogram of its ages, and a sample of its faces.

Pillow draws them instead of matplotlib, for the reason that `contact_sheet` gives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.images import codec, contact_sheet
from afad_tfdata.storage import hdf5, schema

if TYPE_CHECKING:
    from PIL import ImageDraw

HISTOGRAM_NAME = "age_gender.png"
SHEET_NAME = "samples.png"
# Pixels: a panel of the histogram (width, height), its margins, and the scale of ages
# below it.
_PANEL = (810, 210)
_MARGIN_LEFT, _MARGIN_TOP, _MARGIN = 60, 24, 20
_AXIS = 24
_COLORS = ("#1f77b4", "#ff7f0e", "#7f7f7f")  # The third is for faces without a gender.
_GRID = "#dddddd"
_GRID_LINES = 5  # Wanted number of lines; a round step may give a few more or less.
_LABEL_EVERY = 5  # Years between two labels of the axis.


def draw_histogram(path: str, manifest: schema.Manifest) -> None:
    """Draws a histogram of faces by age: a panel for each split, the classes stacked.

    Args:
      path: The PNG file to write.
      manifest: Of a data set with at least one example.
    """
    from PIL import Image, ImageDraw

    names = [name for name, split in manifest.splits.items() if split.num_examples]
    width, height = _PANEL[0], _PANEL[1] + _AXIS
    canvas = Image.new("RGB", (width, height * len(names)), "white")
    drawing = ImageDraw.Draw(canvas)
    ages = {age for name in names for age in manifest.splits[name].ages}
    first, last = (min(ages), max(ages)) if ages else (0, 0)
    classes = manifest.counted_classes
    for number, name in enumerate(names):
        split = manifest.splits[name]
        by_age = np.zeros((len(classes), last - first + 1), np.int64)
        for label, class_name in enumerate(classes):
            for age, count in split.counts.get(class_name, {}).items():
                if int(age) != schema.MISSING:
                    by_age[label, int(age) - first] = count
        _draw_panel(
            drawing,
            (_MARGIN_LEFT, number * height + _MARGIN_TOP),
            f"{name}: {split.num_examples:,} faces",
            classes,
            by_age,
            first,
        )
    contact_sheet.save(canvas, path)


def _draw_panel(
    drawing: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    title: str,
    class_names: Sequence[str],
    counts: np.ndarray,
    first: int,
) -> None:
    """Draws the panel of one split of the histogram, below and right of a corner.

    Args:
      drawing: Where to draw.
      corner: ``(x, y)`` in pixels.
      title: Text above the panel.
      class_names: In label order.
      counts: int64 ``[labels, ages]``.
      first: The age of the first column.
    """
    font, (left, top) = contact_sheet.font(11), corner
    right = _PANEL[0] - _MARGIN
    bottom = top + _PANEL[1] - _MARGIN_TOP
    drawing.text(
        (left, top - 4), title, contact_sheet.INK, contact_sheet.font(13), anchor="lb"
    )
    highest = max(1, counts.sum(axis=0).max())  # 0 if no face has an age.
    step = _histogram_step(int(highest) / _GRID_LINES)
    scale = (bottom - top) / (highest * 1.05)  # A little room above the highest bar.
    for value in range(0, int((bottom - top) / scale) + 1, step):
        y = bottom - value * scale
        drawing.line((left, y, right, y), _GRID)
        drawing.text((left - 6, y), f"{value:,}", contact_sheet.INK, font, anchor="rm")
    wide = (right - left) / counts.shape[1]
    for column in range(counts.shape[1]):
        x, below = left + column * wide, 0
        for label in range(len(class_names)):
            above = below + int(counts[label, column])
            if above > below:
                box = (x, bottom - above * scale, x + wide, bottom - below * scale)
                drawing.rectangle(box, _COLORS[label])
            below = above
        if (first + column) % _LABEL_EVERY == 0:
            x += wide / 2
            drawing.line((x, bottom, x, bottom + 4), contact_sheet.INK)
            drawing.text(
                (x, bottom + 6),
                str(first + column),
                contact_sheet.INK,
                font,
                anchor="ma",
            )
    drawing.text((left - 6, bottom + 6), "age", contact_sheet.INK, font, anchor="ra")
    drawing.line((left, bottom, right, bottom), contact_sheet.INK)
    for label, class_name in enumerate(class_names):
        text = f"{class_name}: {int(counts[label].sum()):,}"
        y = top + 10 + 16 * label
        drawing.text((right - 18, y), text, contact_sheet.INK, font, anchor="rm")
        drawing.rectangle((right - 12, y - 5, right - 2, y + 5), _COLORS[label])


def _histogram_step(least: float) -> int:
    """The grid's step in the picture of ages: 1, 2, 5, 10, ..., at least `least`."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least:
                return digit * power
        power *= 10


def draw_sample(
    path: str,
    directory: str,
    manifest: schema.Manifest,
    split: str,
    *,
    count: int,
    columns: int,
) -> None:
    """Draws a sheet of a data set's faces, spread evenly over a split's records.

    Args:
      path: The PNG file to write.
      directory: The data set's directory.
      manifest: The data set's manifest.
      split: One of `sharding.SPLITS`.
      count: Largest number of faces.
      columns: Faces in a row.

    Raises:
      UsageError: The split has no examples.
      DataError: The index or one of these records is damaged.
    """
    index = schema.load_index(directory, manifest, split)
    shards = manifest.splits[split].shards
    pictures, captions = [], []
    for position in range(0, len(index), max(1, len(index) // count))[:count]:
        row = index[position]
        shard = os.path.join(directory, shards[row["shard"]].name)
        before = sum(shard.num_examples for shard in shards[: row["shard"]])
        try:
            pictures.append(read_picture(shard, row, position - before, manifest))
        # h5py's filters raise OSError, and a truncated file of pixels a ValueError.
        except (codec.ImageError, OSError, ValueError) as error:
            raise errors.DataError(
                f"{shard}, record {position - before}: {errors.one_line(error)};"
                " afad-inspect-records --verify names every fault"
            ) from error
        gender = "" if row["gender"] < 0 else manifest.class_names[row["gender"]]
        age = "" if row["age"] < 0 else row["age"]
        captions.append(f"{gender} {age}".strip())
    contact_sheet.draw(path, pictures, captions, columns=columns)


def read_picture(
    path: str, row: np.void, position: int, manifest: schema.Manifest
) -> np.ndarray:
    """Reads a record's image for a picture of the data set: uint8 ``[S, S, 3]``.

    Args:
      path: The shard.
      row: The record's row of the index.
      position: The record's position in its shard, from 0.
      manifest: The data set's manifest.

    Raises:
      codec.ImageError: The image is damaged.
      OSError: The shard cannot be read.
      ValueError: The shard is shorter than the index says.
    """
    pixels = hdf5.RowLayout.of_pixel(manifest.pixel, manifest.image_size)
    # The index has no offsets for compressed rows, so HDF5 itself must find them.
    if manifest.pixel.get("compression", "none") != "none":
        import h5py

        with h5py.File(path, "r") as shard:
            return pixels.to_image(shard["data"][position].tobytes())
    with open(path, "rb") as f:
        f.seek(int(row["image_offset"]))
        content = f.read(int(row["image_length"]))
    if manifest.image_encoding == "raw":
        return pixels.to_image(content)
    return codec.resize(codec.decode(content, stored=True), manifest.image_size)
