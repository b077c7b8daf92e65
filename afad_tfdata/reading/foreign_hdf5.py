"""Builds the index of other programs' HDF5 files, in one pass over them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from afad_tfdata.common import crc32, errors
from afad_tfdata.reading import (
    bad_records,
    foreign_features,
    foreign_labels,
    record_index,
)
from afad_tfdata.storage import hdf5, schema

if TYPE_CHECKING:
    import h5py

# If the user gives no name for a data set, the first of these that exists is read.
_USUAL_NAMES = {
    "image": ("data", "images", "image"),
    "age": ("age", "labels_0"),
    "gender": ("gender", "labels_1"),
}
# The types of pixels that both engines can read.  TensorFlow decodes no others.
_PIXEL_DTYPES = (
    *("uint8", "int8", "uint16", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
# Sharpened pixels in [0, 1] may exceed 1 a little.  A face in [0, 255] has pixels above
# this limit.
_MAX_UNIT_PIXEL = 1.5
# Pixels may exceed the user's range by this fraction of it.  Resampling overshoots by
# about as much; pixels whose mean was subtracted exceed it by more.
_OVERSHOOT = 0.25


def build_index(
    paths: Sequence[str],
    given: foreign_features.FeatureNames,
    mean: tuple[float, float, float] | None,
    split: str,
    task_labels: Sequence[str],
    skipped: bad_records.SkippedRecords,
) -> record_index.RecordIndex:
    """Builds the record index of HDF5 files that another program wrote.

    Args:
      paths: Local files.
      given: Names that the user gave, and the range of the pixels.
      mean: Channel means; None if they are not known.
      split: Name of the split.
      task_labels: Labels of the task: a single one may be called ``labels``.
      skipped: Takes the unusable images.

    Raises:
      UsageError: The meaning of the files' contents is ambiguous.
      DataError: A file is damaged.
    """
    import h5py

    usual = dict(_USUAL_NAMES)
    if len(task_labels) == 1:
        # The older files have a single data set `labels`, with the label of the task.
        (label,) = task_labels
        usual[label] = (*usual[label], "labels", "label")
    parts: list[_Hdf5Part] = []
    filled: list[str] = []
    names: dict[str, str] = given.features
    for path in paths:
        try:
            with h5py.File(path, "r") as f:
                hdf5.refuse_outside(f, path)
                names = foreign_features.resolve_names(
                    names, _hdf5_data_sets(f), usual, path
                )
                part = _index_hdf5_file(f, names, path, given.pixels, skipped)
        except (OSError, KeyError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno:
                # The operating system refused access, so the file may well be intact.
                error.filename, error.strerror = path, os.strerror(error.errno)
                raise
            raise errors.DataError(
                f"cannot read {path}: {errors.one_line(error)}"
            ) from error
        # A file without images has no layout to compare.
        if len(part.entries):
            part.entries["shard"] = len(filled)
            filled.append(path)
            parts.append(part)
    skipped.check_labels(sum(len(part.entries) for part in parts))
    if not parts:
        raise errors.UsageError(
            f"--files: {len(paths)} files without a usable image; the first is"
            f" {paths[0]}"
        )
    pixel, side = parts[0].pixel, parts[0].side
    for path, part in zip(filled, parts, strict=True):
        if (part.pixel, part.side) != (pixel, side):
            raise errors.UsageError(
                "--files: the images differ in size, type or storage from file to file;"
                f" compare {filled[0]} with {path}"
            )
    ages = np.concatenate([part.ages for part in parts])
    entries = np.concatenate([part.entries for part in parts])
    return record_index.RecordIndex(
        paths=tuple(filled),
        entries=entries,
        format="hdf5",
        stored_size=side,
        image_size=side,
        pixel=pixel,
        dataset=names["image"],
        labels=tuple(label for label in foreign_features.LABELS if label in names),
        mean_rgb=mean,
        split=split,
        features=dict(names),
        exact_ages=record_index.fractional_ages(ages),
        rows=np.concatenate([part.rows for part in parts]) if skipped.count else None,
        num_skipped=skipped.count,
        # The hash differs if the same files are indexed with other images or rows.
        identity=hashlib.sha256(entries.tobytes()).hexdigest(),
    )


class _Hdf5Part(NamedTuple):
    """The usable images of one file.

    Attributes:
      entries: Their index entries.
      rows: int64: their rows in the file.
      ages: float64: their ages, with fractions.
      pixel: As in `schema.Manifest.pixel`.
      side: Side of the images, pixels.
    """

    entries: np.ndarray
    rows: np.ndarray
    ages: np.ndarray
    pixel: dict[str, Any]
    side: int


def _hdf5_data_sets(file: h5py.File) -> set[str]:
    """Returns the names of all data sets in an HDF5 file, with their groups."""
    import h5py

    found: set[str] = set()

    def look_at(name: str, item: Any) -> None:
        """Adds the name of an item of the HDF5 file if it is a data set."""
        if isinstance(item, h5py.Dataset):
            found.add(name)

    file.visititems(look_at)
    # `visititems` visits an item only once, even if it has several names.
    found.update(name for name in file if isinstance(file.get(name), h5py.Dataset))
    return found


def _index_hdf5_file(
    file: h5py.File,
    names: Mapping[str, str],
    path: str,
    limits: tuple[float, float] | None,
    skipped: bad_records.SkippedRecords,
) -> _Hdf5Part:
    """Builds the record index of one HDF5 file of another program."""
    data = file[names["image"]]
    pixel, side = _hdf5_pixel_layout(data, path)
    if limits:
        pixel["black"], pixel["white"] = limits
    count = len(data)
    entries = np.zeros(count, schema.INDEX_DTYPE)
    wrong_labels: dict[int, str] = {}
    bad: dict[int, str] = dict.fromkeys(
        hdf5.unwritten_rows(data), "its pixels were never written"
    )
    ages = np.zeros(count)
    for field in foreign_features.LABELS:
        if field in names:
            values = _hdf5_labels(file, names[field], field, count, path, wrong_labels)
            if field == "age":
                ages = values
            entries[field] = values.astype(np.int64)
    row_bytes = side * side * 3 * data.dtype.itemsize
    if pixel["compression"] == "none" and count:
        offset = data.id.get_offset()
        entries["image_offset"] = offset + np.arange(count, dtype=np.uint64) * row_bytes
        entries["image_length"] = row_bytes
    lows, highs = np.zeros(count), np.zeros(count)
    for number, row in _stored_hdf5_rows(data, path, pixel, row_bytes):
        if isinstance(row, Exception):
            bad.setdefault(number, f"its pixels cannot be read: {row}")
            continue
        entries["crc32"][number] = crc32.crc32(row)
        values = np.frombuffer(row, data.dtype)
        lows[number], highs[number] = values.min(), values.max()
    entries["height"] = entries["width"] = side
    entries["image_format"] = schema.IMAGE_FORMATS.index("raw")
    _check_pixel_range(lows, highs, data, limits, path, bad)
    for number in sorted({**wrong_labels, **bad}):
        is_label = number in wrong_labels
        reason = wrong_labels[number] if is_label else bad[number]
        skipped.add(f"record {number} of {path}: {reason}", label=is_label)
    bad.update(wrong_labels)
    good = np.array([i not in bad for i in range(count)], bool)
    return _Hdf5Part(entries[good], np.flatnonzero(good), ages[good], pixel, side)


def _stored_hdf5_rows(
    data: h5py.Dataset, path: str, pixel: Mapping[str, Any], row_bytes: int
) -> Iterator[tuple[int, bytes | OSError]]:
    """Yields each HDF5 image's number and stored bytes, or why it is unreadable."""
    if pixel["compression"] == "none":
        # Rows are read as plain bytes, because h5py would take several times as long.
        with open(path, "rb") as f:
            f.seek(data.id.get_offset() or 0)
            for i in range(len(data)):
                yield i, f.read(row_bytes)
        return
    for i in range(len(data)):
        try:
            # The checksum is that of the unpacked bytes, which the reader checks.
            yield i, data[i].tobytes()
        except OSError as error:
            yield i, error


def _check_pixel_range(
    lows: np.ndarray,
    highs: np.ndarray,
    data: h5py.Dataset,
    limits: tuple[float, float] | None,
    path: str,
    bad: dict[int, str],
) -> None:
    """Checks that the pixels of an HDF5 file are in the range that they should have.

    Args:
      lows: Smallest stored value of each image.
      highs: Largest stored value of each image.
      data: The images.
      limits: Values of black and white that the user named.
      path: The file.
      bad: Takes the images whose pixels differ from the others', with the reason.

    Raises:
      UsageError: The file has pixels of another range.
    """
    for i in np.flatnonzero(~(np.isfinite(lows) & np.isfinite(highs))).tolist():
        bad.setdefault(i, "a pixel is not a finite number")
    good = np.array([i for i in range(len(lows)) if i not in bad], int)
    if not len(good):
        return
    low, high = float(lows[good].min()), float(highs[good].max())
    black, white = limits or (0.0, 255.0)
    span = white - black
    slack = _OVERSHOOT * span if limits else 0.5
    found = (
        f"{path}: wanted pixels in [{black:g}, {white:g}]; those in {data.name!r} are"
        f" in [{low:g}, {high:g}]"
    )
    name_it = "name the values of black and white with --features=pixels=LOW..HIGH"
    if low < black - slack:
        raise errors.UsageError(
            f"{found}, as after a mean was subtracted: store the images as they were,"
            f" or {name_it}"
        )
    if high > white + slack:
        raise errors.UsageError(f"{found}: {name_it}")
    if not limits and high <= _MAX_UNIT_PIXEL:
        if data.dtype.kind == "f" and high > 0:
            raise errors.UsageError(
                f"{found}: if 1 is white, say so with --features=pixels=0..1"
            )
        raise errors.UsageError(
            f"{found}: the images are black, as after pixels in [0, 1] were cast to"
            " whole numbers, or were never written: write the file again"
        )
    if high - low < span / 100:
        raise errors.UsageError(f"{found}: {name_it}")
    fill = float(data.fillvalue)
    dark = (highs - black) * 255 / span <= _MAX_UNIT_PIXEL
    for i in good.tolist():
        if lows[i] == highs[i] == fill:
            bad[i] = f"all its pixels are {fill:g}, as in a row that was never written"
        elif dark[i]:
            bad[i] = f"its brightest pixel is {highs[i]:g}, where white is {white:g}"


def _hdf5_labels(
    file: h5py.File,
    name: str,
    field: str,
    count: int,
    path: str,
    bad: dict[int, str],
) -> np.ndarray:
    """Returns one label for each image of an HDF5 file; 0 where it is unusable.

    Args:
      file: The open file.
      name: The label's name, given by the user or one of the usual names.
      field: ``age`` or ``gender``.
      count: Number of images.
      path: The file, for messages.
      bad: Takes the images whose label cannot be used, with the reason.

    Raises:
      DataError: There are more or fewer labels than images.
      UsageError: The meaning of the labels is ambiguous.
    """
    label = foreign_labels.ForeignLabel(field, name, _hdf5_data_sets(file))
    data = file[label.name]
    values = np.asarray(data[()])
    if values.ndim == 0 or len(values) != count:
        raise errors.DataError(
            f"{path} has {count} images and {len(values) if values.ndim else 'no'}"
            f" labels in {label.name!r}"
        )
    for number in hdf5.unwritten_rows(data):
        bad.setdefault(number, f"its {field} was never written")
    if values.ndim > 2:
        values = values.reshape(count, -1)
    found = np.zeros(count)
    for number, value in enumerate(values):
        if number in bad:
            continue
        try:
            found[number] = label.read(value, f"{path}: {label.name!r}")
        except foreign_labels.LabelError as error:
            bad[number] = str(error)
    if field == "age":
        label.check_all([found[i] for i in range(count) if i not in bad], path)
    return found


def _hdf5_pixel_layout(data: h5py.Dataset, path: str) -> tuple[dict[str, Any], int]:
    """Returns `schema.Manifest.pixel` of an HDF5 file's images, and their side.

    Raises:
      UsageError: It does not contain square RGB images of a type that can be read.
    """
    shape, dtype = data.shape, data.dtype
    wanted = (
        f"{path}: wanted square RGB images [N, S, S, 3] or [N, 3, S, S] in"
        f" {data.name!r}; got {shape} of {dtype}"
    )
    if dtype.name not in _PIXEL_DTYPES:
        raise errors.UsageError(f"{wanted}: store them as uint8")
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise errors.UsageError(
            f"{wanted}: bring them to this form, with three channels in the order RGB"
        )
    if shape[1:] == (3, 3, 3):
        raise errors.UsageError(
            f"{wanted}: it cannot be known which axis has the colours, and such images"
            " are too small to use"
        )
    channels_first = shape[3] != 3
    height, width = shape[2:] if channels_first else shape[1:3]
    if height != width or not height:
        raise errors.UsageError(
            f"{wanted}: resize or crop them to squares, or store them as image files"
            " and write records with afad-write-records --labels_csv, which resizes"
        )
    # Without an offset, the rows are compact (in the object header) or were never
    # written.  A memory map cannot reach such rows.
    contiguous = data.chunks is None and data.id.get_offset() is not None
    big = dtype.byteorder == ">"
    return {
        "dtype": dtype.str if big and dtype.itemsize > 1 else dtype.name,
        "channels": "first" if channels_first else "last",
        "compression": "none" if contiguous else "other",
    }, height
