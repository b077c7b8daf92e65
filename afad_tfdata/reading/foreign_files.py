"""Records that other programs wrote, read under an index that is built here.

TFRecords of ``tf.train.Example`` with any feature names, and HDF5 files with images and
labels of any name, among them the ``data``/``labels`` files (float32, contiguous) of
the original project.  One pass over the files finds where each image is stored; from
then on they are read as this package's own records are.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afad_tfdata.common import crc32, errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import record_index
from afad_tfdata.storage import hdf5, schema, tfrecord

if TYPE_CHECKING:
    import h5py

# Where no name is given for a feature: the first of these that exists.
_TFRECORD_NAMES = {
    "image": (schema.IMAGE_ENCODED, "image", "image_raw"),
    "age": (schema.LABEL_AGE, "age"),
    "gender": (schema.LABEL_GENDER, "gender"),
}
_HDF5_NAMES = {
    "image": ("data", "images", "image"),
    "age": ("age", "labels_0"),
    "gender": ("gender", "labels_1"),
}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_FIELDS = ("image", "age", "gender")
_LABELS = ("age", "gender")
# Images whose pixels are looked at to tell [0, 255] from [0, 1]; all would take a pass.
_NUM_RANGE_CHECKED = 64
# Pixels in [0, 1] may exceed 1 a little, by sharpening; pixels in [0, 255] never end
# here, since one bright pixel in 64 images is enough.
_MAX_UNIT_PIXEL = 1.5
# Years.  A larger number is no age but, for example, a year of birth.
_MAX_AGE = 200

_log = logging.getLogger(__name__)


def load(
    patterns: str, split: str, *, features: str = "", mean_file: str = "", task: str
) -> record_index.RecordIndex:
    """Builds the index of files of another program.

    Args:
      patterns: Paths or patterns, separated by commas; ``{split}`` in them stands for
        `split`.
      split: One of `sharding.SPLITS`.
      features: As for `parse_names`; empty to find features by their usual names.
      mean_file: JSON file with the channel means; empty if they are not known.
      task: One of `schema.TASKS`: decides which label ``labels`` in HDF5 files is.

    Raises:
      UsageError: There are no such files, or they lack a feature.
      DataError: A file is damaged.
    """
    paths = _paths(patterns, split)
    names = parse_names(features)
    mean = schema.read_mean(mean_file) if mean_file else None
    with open(paths[0], "rb") as f:
        is_hdf5 = f.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    if is_hdf5:
        return _index_hdf5(paths, names, mean, split, schema.labels_of(task))
    return _index_tfrecords(paths, names, mean, split)


def parse_names(text: str) -> dict[str, str]:
    """Parses ``image=image/encoded,age=label`` into names by field.

    Raises:
      UsageError: The text has another form, or names another field.
    """
    names: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        field, _, name = part.partition("=")
        if field not in _FIELDS or not name:
            raise errors.UsageError(
                "--features takes image=NAME,age=NAME,gender=NAME, or some of them;"
                f" got {part!r}"
            )
        names[field] = name
    return names


def _paths(patterns: str, split: str) -> list[str]:
    found: list[str] = []
    for pattern in filter(None, patterns.split(",")):
        pattern = pattern.replace("{split}", split)
        if files.is_remote(pattern):
            raise errors.UsageError(
                f"--files reads local files; {pattern} is remote: copy it"
            )
        matches = sorted(glob.glob(pattern)) or [pattern]
        found += [match for match in matches if os.path.isfile(match)]
    if not found:
        raise errors.UsageError(
            f"--files={patterns} matches no file"
            + (f" for split {split!r}" if "{split}" in patterns else "")
        )
    return found


def _index_tfrecords(
    paths: Sequence[str],
    names: Mapping[str, str],
    mean: tuple[float, float, float] | None,
    split: str,
) -> record_index.RecordIndex:
    rows: list[tuple] = []
    for shard, path in enumerate(paths):
        _log.info("input: indexing %s", path)
        for offset, framed in tfrecord.framed_records(path):
            what = f"record {len(rows)} of {path}"
            example = _parse_example(framed, what)
            if not rows:
                names = _resolve(names, set(example), _TFRECORD_NAMES, path)
            rows.append(_index_entry(example, names, framed, offset, shard, what))
    if not rows:
        raise errors.UsageError(
            f"--files: {len(paths)} files without a record; the first is {paths[0]}"
        )
    entries = np.array(rows, schema.INDEX_DTYPE)
    sides = np.unique([entries["height"], entries["width"]])
    side = int(sides[0]) if len(sides) == 1 else 0
    return record_index.RecordIndex(
        paths=tuple(paths),
        entries=entries,
        format="tfrecord",
        stored_size=side,
        image_size=side,
        pixel={},
        dataset="",
        labels=tuple(label for label in _LABELS if label in names),
        mean_rgb=mean,
        split=split,
        features=dict(names),
    )


def _parse_example(framed: bytes, what: str) -> dict[str, Any]:
    """Features of one value, by name; None for a feature of more or no values.

    Raises:
      DataError: The record is damaged, or holds something else; the text begins with
        `what`.
    """
    try:
        example = tf.train.Example.FromString(tfrecord.check_record(framed))
    except tfrecord.RecordError as error:
        raise errors.DataError(f"{what} is damaged: {error}") from error
    except Exception as error:  # protobuf's own classes differ between versions.
        raise errors.DataError(f"{what} is no tf.train.Example") from error
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        found[name] = values[0] if len(values) == 1 else None
    return found


def _resolve(
    names: Mapping[str, str],
    existing: set[str],
    usual: Mapping[str, Sequence[str]],
    path: str,
) -> dict[str, str]:
    """The names that were given, and for other fields a usual name that exists.

    Raises:
      UsageError: A name that was given does not exist, or no name fits the image.
    """
    for field, name in names.items():
        if name not in existing:
            raise errors.UsageError(
                f"--features: {path} has no feature {name!r} for the {field}; it has"
                f" {', '.join(sorted(existing))}"
            )
    resolved = dict(names)
    for field, choices in usual.items():
        match = [name for name in choices if name in existing]
        if field not in resolved and match:
            resolved[field] = match[0]
    if "image" not in resolved:
        raise errors.UsageError(
            f"--features must name the image in {path}, which has"
            f" {', '.join(sorted(existing))}"
        )
    return resolved


def _index_entry(
    example: Mapping[str, Any],
    names: Mapping[str, str],
    framed: bytes,
    offset: int,
    shard: int,
    what: str,
) -> tuple:
    """One record's values in the order of `schema.INDEX_DTYPE`.

    Raises:
      DataError: It has no usable image or label; the text begins with `what`.
    """
    image = example.get(names["image"])
    if not isinstance(image, bytes):
        raise errors.DataError(f"{what} has no image in {names['image']!r}")
    try:
        header = codec.read_header(image)
        codec.check_header(header, as_stored=True)
    except codec.ImageError as error:
        raise errors.DataError(f"{what}: its image cannot be used: {error}") from error
    labels = [
        _label(field, example.get(names[field]) if field in names else 0, what)
        for field in _LABELS
    ]
    return (
        # `place` is 0: it orders records while they are written, and these are.
        *(offset, offset + framed.index(image), 0, len(framed), len(image)),
        *(crc32.crc32(image), shard, header.height, header.width),
        *(*labels, schema.IMAGE_FORMATS.index(header.format)),
    )


def _label(field: str, value: Any, what: str) -> int:
    """A label as a whole number; `DataError` for anything else."""
    limit = _MAX_AGE if field == "age" else 1
    # -1 is refused below, with the value in the text.
    number = value if isinstance(value, (int, float, np.number)) else -1
    if not 0 <= number <= limit or number != int(number):
        raise errors.DataError(
            f"{what}: the {field} must be a whole number from 0 to {limit}; it is"
            f" {value!r}"
        )
    return int(number)


def _index_hdf5(
    paths: Sequence[str],
    names: Mapping[str, str],
    mean: tuple[float, float, float] | None,
    split: str,
    task_labels: Sequence[str],
) -> record_index.RecordIndex:
    import h5py

    usual = dict(_HDF5_NAMES)
    if len(task_labels) == 1:
        # The older files have one `labels`, which is what the task is about.
        (label,) = task_labels
        usual[label] = (*usual[label], "labels", "label")
    parts, layouts = [], []
    for shard, path in enumerate(paths):
        try:
            with h5py.File(path, "r") as f:
                hdf5.refuse_outside(f, path)
                existing = {name for name in f if isinstance(f[name], h5py.Dataset)}
                # Names such as "group/images" are not among the file's own.
                names = _resolve(names, existing | set(names.values()), usual, path)
                entries, pixel, side = _index_hdf5_file(f, names, path)
        except (OSError, KeyError) as error:
            raise errors.DataError(
                f"cannot read {path}: {errors.one_line(error)}"
            ) from error
        entries["shard"] = shard
        parts.append(entries)
        layouts.append((pixel, side))
    if any(layout != layouts[0] for layout in layouts):
        raise errors.UsageError(
            "--files: the images differ in size, type or storage from file to file;"
            f" the first of {len(paths)} files is {paths[0]}"
        )
    pixel, side = layouts[0]
    return record_index.RecordIndex(
        paths=tuple(paths),
        entries=np.concatenate(parts),
        format="hdf5",
        stored_size=side,
        image_size=side,
        pixel=pixel,
        dataset=names["image"],
        labels=tuple(label for label in _LABELS if label in names),
        mean_rgb=mean,
        split=split,
        features=dict(names),
    )


def _index_hdf5_file(
    file: h5py.File, names: Mapping[str, str], path: str
) -> tuple[np.ndarray, dict[str, Any], int]:
    """Index entries, layout of the pixels and side of the images of one file."""
    data = file[names["image"]]
    pixel, side = _pixel_layout(data, path)
    count = len(data)
    entries = np.zeros(count, schema.INDEX_DTYPE)
    for field in _LABELS:
        if field in names:
            entries[field] = _hdf5_labels(file, names[field], field, count, path)
    row_bytes = side * side * 3 * data.dtype.itemsize
    if pixel["compression"] == "none":
        offset = data.id.get_offset()
        entries["image_offset"] = offset + np.arange(count, dtype=np.uint64) * row_bytes
        entries["image_length"] = row_bytes
        # Read as plain bytes: h5py takes several times as long for row after row.
        with open(path, "rb") as f:
            f.seek(offset)
            entries["crc32"] = [crc32.crc32(f.read(row_bytes)) for _ in range(count)]
    else:
        # Of the unpacked bytes, as the reader of compressed rows checks them.
        entries["crc32"] = [crc32.crc32(data[i].tobytes()) for i in range(count)]
    entries["height"] = entries["width"] = side
    entries["image_format"] = schema.IMAGE_FORMATS.index("raw")
    return entries, pixel, side


def _hdf5_labels(
    file: h5py.File, name: str, field: str, count: int, path: str
) -> np.ndarray:
    """One label for each image; the first column if the file has several."""
    values = np.asarray(file[name])
    values = values.reshape(len(values), -1)[:, 0] if values.ndim else values
    if len(values) != count:
        raise errors.DataError(
            f"{path} has {count} images and {len(values)} labels in {name!r}"
        )
    # The extremes stand for all values in between.
    for value in (values.min(initial=0), values.max(initial=0)):
        _label(field, value, f"{name!r} of {path}")
    return values


def _pixel_layout(data: h5py.Dataset, path: str) -> tuple[dict[str, Any], int]:
    """`schema.Manifest.pixel` of a data set, and the side of its images.

    Raises:
      UsageError: It does not hold square RGB images with pixels in [0, 255].
    """
    shape, dtype = data.shape, data.dtype
    # [N, 3, 3, 3] could be either; channels last is the form of TensorFlow.
    channels_first = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
    side = shape[2] if len(shape) == 4 else 0
    square = shape[1:] in ((side, side, 3), (3, side, side))
    if dtype.name not in ("uint8", "float32") or dtype.byteorder == ">" or not square:
        raise errors.UsageError(
            f"{path}: wanted square RGB images [N, S, S, 3] or [N, 3, S, S], uint8 or"
            f" float32 (little-endian), in {data.name!r}; got {shape} of {dtype}"
        )
    if not len(data):
        raise errors.UsageError(f"{path} holds no images")
    if dtype.name == "float32":
        highest = float(np.max(data[: min(_NUM_RANGE_CHECKED, len(data))]))
        if highest <= _MAX_UNIT_PIXEL:
            raise errors.UsageError(
                f"{path}: pixels must lie in [0, 255]; the largest of the first is"
                f" {highest:g}"
            )
    # Without an offset the rows are compact, external or never written: they have no
    # bytes that a memory map could reach.
    contiguous = data.chunks is None and data.id.get_offset() is not None
    return {
        "dtype": dtype.name,
        "channels": "first" if channels_first else "last",
        "compression": "none" if contiguous else "other",
    }, side
