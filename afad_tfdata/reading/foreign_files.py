"""Records that other programs wrote, under an index made on the spot.

TFRecords of ``tf.train.Example`` with any feature names, and HDF5 files with images and
labels of any name, among them the ``data``/``labels`` files (float32, contiguous) of
the original project.  One pass over the files finds where each image lies; from then on
they are read as our own.
"""

from __future__ import annotations

import glob
import logging
import os
import zlib
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import codec
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import record_index
from afad_tfdata.storage import hdf5, schema, tfrecord

# What a feature is called if nobody says: the first name that is there.
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

_log = logging.getLogger(__name__)


def load(config: input_config.InputConfig, split: str) -> record_index.Examples:
    """The examples of ``config.files``.

    Raises:
      UsageError: No such files, or features that they do not have.
      DataError: A file is damaged.
    """
    paths = _paths(config.files, split)
    names = parse_names(config.features)
    mean = read_mean(config.mean_file) if config.mean_file else None
    with open(paths[0], "rb") as f:
        is_hdf5 = f.read(8) == _HDF5_MAGIC
    read = _hdf5 if is_hdf5 else _tfrecord
    return read(config, paths, names, mean, split)


def parse_names(text: str) -> dict[str, str]:
    """``image=image/encoded,age=label`` as a dict.

    Raises:
      UsageError: It has another form, or names something else.
    """
    names = {}
    for part in filter(None, text.split(",")):
        field, _, name = part.partition("=")
        if field not in _FIELDS or not name:
            raise errors.UsageError(
                "--features takes image=NAME,age=NAME,gender=NAME, or some of them;"
                f" got {part!r}"
            )
        names[field] = name
    return names


def read_mean(path: str) -> tuple[float, float, float]:
    """R, G and B of a ``mean.json``."""
    value = files.read_json(
        path, what="the channel means", advice='wanted {"R": .., "G": .., "B": ..}'
    )
    try:
        red, green, blue = (float(value[name]) for name in "RGB")
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UsageError(
            f'{path} holds no channel means: wanted {{"R": .., "G": .., "B": ..}}'
        ) from error
    return red, green, blue


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


def _tfrecord(
    config: input_config.InputConfig,
    paths: list[str],
    names: dict[str, str],
    mean: Any,
    split: str,
) -> record_index.Examples:
    rows: list[tuple] = []
    for shard, path in enumerate(paths):
        _log.info("input: indexing %s", path)
        for offset, framed in tfrecord.framed_records(path):
            what = f"record {len(rows)} of {path}"
            example = _example(framed, what)
            if not rows:
                names = _resolve(names, set(example), _TFRECORD_NAMES, path)
            rows.append(_row(example, names, framed, offset, shard, what))
    if not rows:
        raise errors.UsageError(f"--files={config.files}: there are no records in them")
    index = np.array(rows, schema.INDEX_DTYPE)
    sides = np.unique([index["height"], index["width"]])
    side = int(sides[0]) if len(sides) == 1 else 0
    return record_index.Examples(
        paths=tuple(paths),
        index=index,
        format="tfrecord",
        stored_size=side,
        image_size=side,
        pixel={},
        dataset="",
        labels=tuple(n for n in ("age", "gender") if n in names),
        mean_rgb=mean,
        split=split,
        features=names,
    )


def _example(framed: bytes, what: str) -> dict[str, Any]:
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
    names: dict[str, str],
    there: set[str],
    usual: dict[str, tuple[str, ...]],
    path: str,
) -> dict[str, str]:
    """The names given, and for the others a usual one that is there."""
    for field, name in names.items():
        if name not in there:
            raise errors.UsageError(
                f"--features: {path} has no feature {name!r} for the {field}; it has"
                f" {', '.join(sorted(there))}"
            )
    resolved = dict(names)
    for field, choices in usual.items():
        match = [name for name in choices if name in there]
        if field not in resolved and match:
            resolved[field] = match[0]
    if "image" not in resolved:
        raise errors.UsageError(
            f"--features must name the image in {path}, which has"
            f" {', '.join(sorted(there))}"
        )
    return resolved


def _row(
    example: dict[str, Any],
    names: dict[str, str],
    framed: bytes,
    offset: int,
    shard: int,
    what: str,
) -> tuple:
    image = example.get(names["image"])
    if not isinstance(image, bytes):
        raise errors.DataError(f"{what} has no image in {names['image']!r}")
    try:
        header = codec.read_header(image)
        codec.check_header(header, as_stored=True)
    except codec.ImageError as error:
        raise errors.DataError(f"{what}: its image cannot be used: {error}") from error
    labels = []
    for field in ("age", "gender"):
        value = example.get(names[field]) if field in names else 0
        labels.append(_label(field, value, what))
    return (
        *(offset, offset + framed.index(image), 0, len(framed), len(image)),
        *(zlib.crc32(image), shard, header.height, header.width),
        *(*labels, schema.IMAGE_FORMATS.index(header.format)),
    )


def _label(field: str, value: Any, what: str) -> int:
    limit = 200 if field == "age" else 1
    number = value if isinstance(value, (int, float, np.number)) else -1
    if not 0 <= number <= limit or number != int(number):
        raise errors.DataError(
            f"{what}: the {field} must be a whole number from 0 to {limit}; it is"
            f" {value!r}"
        )
    return int(number)


def _hdf5(
    config: input_config.InputConfig,
    paths: list[str],
    names: dict[str, str],
    mean: Any,
    split: str,
) -> record_index.Examples:
    import h5py

    # The one `labels` of the older files is what the task is about.
    task = schema.labels_of(config.task)
    usual = dict(_HDF5_NAMES)
    if len(task) == 1:
        usual[task[0]] = (*usual[task[0]], "labels", "label")
    parts, pixels = [], []
    for shard, path in enumerate(paths):
        try:
            with h5py.File(path, "r") as f:
                hdf5.refuse_outside(f, path)
                there = {k for k in f if isinstance(f[k], h5py.Dataset)}
                names = _resolve(names, there | set(names.values()), usual, path)
                part, pixel, side = _hdf5_part(f, names, path)
        except (OSError, KeyError) as error:
            raise errors.DataError(
                f"cannot read {path}: {errors.one_line(error)}"
            ) from error
        part["shard"] = shard
        parts.append(part)
        pixels.append((pixel, side))
    if any(entry != pixels[0] for entry in pixels):
        raise errors.UsageError(
            f"--files={config.files}: the images differ in size, type or storage from"
            " file to file"
        )
    pixel, side = pixels[0]
    return record_index.Examples(
        paths=tuple(paths),
        index=np.concatenate(parts),
        format="hdf5",
        stored_size=side,
        image_size=side,
        pixel=pixel,
        dataset=names["image"],
        labels=tuple(n for n in ("age", "gender") if n in names),
        mean_rgb=mean,
        split=split,
        features=names,
    )


def _hdf5_part(
    file: Any, names: dict[str, str], path: str
) -> tuple[np.ndarray, dict[str, Any], int]:
    """Index rows, pixel layout and side of one file."""
    data = file[names["image"]]
    pixel, side = _layout(data, path)
    count = len(data)
    index = np.zeros(count, schema.INDEX_DTYPE)
    for field in ("age", "gender"):
        if field not in names:
            continue
        values = np.asarray(file[names[field]])
        values = values.reshape(len(values), -1)[:, 0] if values.ndim else values
        if len(values) != count:
            raise errors.DataError(
                f"{path} has {count} images and {len(values)} labels in"
                f" {names[field]!r}"
            )
        lowest, highest = values.min(initial=0), values.max(initial=0)
        for value in (lowest, highest):
            _label(field, value, f"{names[field]!r} of {path}")
        index[field] = values
    row_bytes = side * side * 3 * data.dtype.itemsize
    if pixel["compression"] == "none":
        offset = data.id.get_offset()
        index["image_offset"] = offset + np.arange(count, dtype=np.uint64) * row_bytes
        index["image_length"] = row_bytes
        with open(path, "rb") as f:
            f.seek(offset)
            index["crc32"] = [zlib.crc32(f.read(row_bytes)) for _ in range(count)]
    else:
        index["crc32"] = [zlib.crc32(data[i].tobytes()) for i in range(count)]
    index["height"] = index["width"] = side
    index["image_format"] = schema.IMAGE_FORMATS.index("raw")
    return index, pixel, side


def _layout(data: Any, path: str) -> tuple[dict[str, Any], int]:
    shape, dtype = data.shape, data.dtype
    first = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
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
        highest = float(np.max(data[: min(64, len(data))]))
        if highest <= 1.5:
            raise errors.UsageError(
                f"{path}: pixels must lie in [0, 255]; the largest of the first is"
                f" {highest:g}"
            )
    # Without an offset the rows are compact, external or never written.
    plain = data.chunks is None and data.id.get_offset() is not None
    return {
        "dtype": dtype.name,
        "channels": "first" if first else "last",
        "compression": "none" if plain else "other",
    }, side
