"""Pictures of a data set: how ages spread, and what the faces look like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata import files, images, schema, sharding

HISTOGRAM_NAME = "age_gender.png"
SHEET_NAME = "samples.png"
_SHEET_SIDE = 150  # Pixels of a picture in a sheet, at most.


def prepare() -> None:
    """Imports what draws, which takes most of the time that a picture takes."""
    from matplotlib.backends import backend_agg  # noqa: F401
    from matplotlib.figure import Figure  # noqa: F401


def draw_histogram(path: str, manifest: schema.Manifest) -> None:
    """Faces by age, a panel for each split, the classes on top of each other."""
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    names = [n for n in sharding.SPLITS if manifest.splits[n].num_examples]
    figure = Figure(figsize=(9, 2.4 * len(names)))
    backend_agg.FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.08, right=0.98, hspace=0.35, top=1 - 0.13 / len(names), bottom=0.08
    )
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        split = manifest.splits[name]
        ages = [int(age) for counts in split.counts.values() for age in counts]
        first, last = min(ages), max(ages)
        bottom = np.zeros(last - first + 1)
        for label in manifest.class_names:
            counts = split.counts.get(label, {})
            height = np.array(
                [counts.get(str(age), 0) for age in range(first, last + 1)]
            )
            axes.stairs(
                bottom + height,
                np.arange(first, last + 2) - 0.5,
                baseline=bottom,
                fill=True,
                label=f"{label}: {int(height.sum()):,}",
            )
            bottom = bottom + height
        axes.set(title=f"{name}: {split.num_examples:,} faces", ylabel="faces")
        axes.set_ylim(bottom=0)
        axes.legend()
    panels[-1].set_xlabel("age, years")
    _save(figure, path)


def draw_sheet(
    path: str, pictures: Sequence[np.ndarray], captions: Sequence[str], *, columns: int
) -> None:
    """A contact sheet.

    Args:
      path: Where to; PNG.
      pictures: uint8 ``[S, S, 3]`` each.
      captions: One for each picture.
      columns: Pictures in a row.
    """
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    # One picture with text on it: axes for each face would take a second to lay out.
    pictures = [
        images.resize(p, _SHEET_SIDE, antialias=True) if len(p) > _SHEET_SIDE else p
        for p in pictures
    ]
    side = pictures[0].shape[0] if pictures else 1
    line = max(4, side // 6)
    rows = max(1, -(-len(pictures) // columns))
    canvas = np.full((rows * (side + line), columns * side, 3), 255, np.uint8)
    figure = Figure(figsize=(columns, rows * (side + line) / side))
    backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # A column is an inch wide, 72 points; a letter 0.6 of its size.
    longest = max(map(len, captions), default=1)
    font = min(7.0, 72 / (0.6 * longest))
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        top, left = row * (side + line) + line, column * side
        canvas[top : top + side, left : left + side] = picture
        axes.text(
            left + side / 2,
            top - line / 8,
            caption,
            fontsize=font,
            ha="center",
            va="bottom",
        )
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    _save(figure, path)


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
    return images.resize(images.decode(content), manifest.image_size)


def _raw_picture(content: bytes, manifest: schema.Manifest) -> np.ndarray:
    side, pixel = manifest.image_size, manifest.pixel
    flat = np.frombuffer(content, pixel.get("dtype", "uint8"))
    if pixel.get("channels") == "first":
        return flat.reshape(3, side, side).transpose(1, 2, 0).astype(np.uint8)
    return flat.reshape(side, side, 3).astype(np.uint8)


def _save(figure: Any, path: str) -> None:
    temporary = f"{path}.tmp-{os.getpid()}.png"
    try:
        # No date and no version inside: the same data set gives the same picture.
        figure.savefig(temporary, dpi=90, metadata={"Software": None})
        os.replace(temporary, path)
    except OSError as error:
        files.remove_if_there(temporary)
        raise files.write_error(path, error) from error
