"""Writes files as other programs may have written them, and compares what is read.

``python -m tests.robustness.foreign_files --trials=300`` draws combinations of the
type, range and layout of the pixels, the form of the labels, the container with its
compression, and damage.  Each is read by both engines.  The result must be what numpy
and h5py know to be in the file, or one line that says why it is refused: no traceback,
and no other number.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gzip
import os
import tempfile
import zlib

import h5py
import numpy as np
import tensorflow as tf

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.reading import index_loading

SIDE, COUNT, BATCH = 12, 9, 4
ENGINES = ("mapped", "graph")

# Name: (what is stored for uint8 pixels, `pixels=` that it needs, whether it is read).
# What is refused has no range that could be named, or needs one.
PIXELS = {
    "uint8": (lambda x: x, "", True),
    "float32": (lambda x: x.astype("f4"), "", True),
    "float64": (lambda x: x.astype("f8"), "", True),
    "float16": (lambda x: x.astype("f2"), "", True),
    "int16": (lambda x: x.astype("i2"), "", True),
    "int32": (lambda x: x.astype("i4"), "", True),
    "int64 big-endian": (lambda x: x.astype(">i8"), "", True),
    "float32 big-endian": (lambda x: x.astype(">f4"), "", True),
    "uint16 big-endian": (lambda x: x.astype(">u2"), "", True),
    "fractions": (lambda x: np.clip(x + 0.25, 0, 255).astype("f4"), "", True),
    "unit": (lambda x: (x / 255).astype("f4"), "0..1", True),
    "unit float64": (lambda x: x / 255, "0..1", True),
    "unit float16": (lambda x: (x / 255).astype("f2"), "0..1", True),
    "minus one to one": (lambda x: (x / 127.5 - 1).astype("f4"), "-1..1", True),
    "16 bits": (lambda x: x.astype("u2") * 257, "0..65535", True),
    "unit, not said": (lambda x: (x / 255).astype("f4"), "", False),
    "16 bits, not said": (lambda x: x.astype("u2") * 257, "", False),
    "wrong range": (lambda x: x.astype("f4"), "0..1", False),
    "mean subtracted": (lambda x: (x - 120.0).astype("f4"), "", False),
    "z-scored": (lambda x: ((x - 120.0) / 70).astype("f4"), "", False),
    "cast to whole": (lambda x: (x / 255).astype("u1"), "", False),
    "NaN": (lambda x: np.where(x == x[0, 0, 0, 0], np.nan, x), "", False),
    "infinite": (lambda x: np.where(x > 250, np.inf, x), "", False),
    "NaN in the last": (lambda x: _in_the_last(x, np.nan), "", False),
    "infinite in the last": (lambda x: _in_the_last(x, np.inf), "", False),
    "unit in the last": (lambda x: _in_the_last(x, x[-1] / 255), "", False),
    "bool": (lambda x: x > 100, "", False),
    "complex": (lambda x: x.astype("c8"), "", False),
    "uint32": (lambda x: x.astype("u4"), "", False),
}


def _in_the_last(images, values):
    """Values in the last image only, which a look at the first does not find."""
    found = images.astype("f4")
    found[-1] = values
    return found


LAYOUTS = {
    "last": (lambda x: x, True),
    "first": (lambda x: x.transpose(0, 3, 1, 2), True),
    "not square": (lambda x: x[:, :-2], False),
    "gray": (lambda x: x[..., 0], False),
    "gray axis": (lambda x: x[..., :1], False),
    "alpha": (lambda x: np.concatenate([x, x[..., :1]], -1), False),
    "flat": (lambda x: x.reshape(len(x), -1), False),
    "three": (lambda x: x[:, :3, :3], False),
}
ONE_HOT = np.eye(2)


def _objects(values):
    return np.array(list(values), dtype=object)


# Name: (stored for ages and genders, features, task, whether it is read).
LABELS = {
    "gender": (lambda a, g: {"gender": g}, "", "gender", True),
    "labels": (lambda a, g: {"labels": g}, "", "gender", True),
    "column": (lambda a, g: {"gender": g[:, None]}, "", "gender", True),
    "float": (lambda a, g: {"gender": g.astype("f4")}, "", "gender", True),
    "bool": (lambda a, g: {"gender": g.astype(bool)}, "", "gender", True),
    "big-endian": (lambda a, g: {"gender": g.astype(">i4")}, "", "gender", True),
    "one-hot": (lambda a, g: {"gender": ONE_HOT[g]}, "", "gender", True),
    "one-hot ints": (
        lambda a, g: {"labels": ONE_HOT[g].astype(int)},
        "",
        "gender",
        True,
    ),
    "words": (
        lambda a, g: {"gender": np.where(g, b"female", b"male")},
        *("", "gender", True),
    ),
    "letters": (
        lambda a, g: {"gender": _objects(np.where(g, "F", "M"))},
        *("", "gender", True),
    ),
    "text": (
        lambda a, g: {"gender": _objects(str(v) for v in g)},
        *("", "gender", True),
    ),
    "both": (lambda a, g: {"age": a, "gender": g}, "", "age_gender", True),
    "age": (lambda a, g: {"age": a}, "", "age", True),
    "age text": (lambda a, g: {"age": _objects(str(v) for v in a)}, "", "age", True),
    "age float": (lambda a, g: {"age": a.astype("f8")}, "", "age", True),
    "fraction": (lambda a, g: {"age": a + 0.5}, "", "age", True),
    "pairs, said": (
        lambda a, g: {"labels": np.stack([a, g], 1)},
        *("age=labels[0],gender=labels[1]", "age_gender", True),
    ),
    "classes, said": (lambda a, g: {"age": a - 15}, "age=age+15", "age", True),
    "one-hot age, said": (
        lambda a, g: {"age": np.eye(60)[a - 15]},
        *("age=age+15", "age", True),
    ),
    "classes": (lambda a, g: {"age": a - a.min()}, "", "age", False),
    "one-hot age": (lambda a, g: {"age": np.eye(60)[a - 15]}, "", "age", False),
    "pairs": (lambda a, g: {"labels": np.stack([a, g], 1)}, "", "gender", False),
    "pairs as ages": (lambda a, g: {"labels": np.stack([a, g], 1)}, "", "age", False),
    "soft": (lambda a, g: {"gender": 0.1 + 0.8 * g}, "", "gender", False),
    "one soft": (
        lambda a, g: {"gender": np.where(np.arange(COUNT) == 3, 0.3, g)},
        *("", "gender", False),
    ),
    "one soft pair": (
        lambda a, g: {
            "gender": np.where(np.arange(COUNT)[:, None] == 3, [0.7, 0.3], ONE_HOT[g])
        },
        *("", "gender", False),
    ),
    "one age with NaN": (
        lambda a, g: {"age": np.where(np.arange(COUNT) == 3, np.nan, a)},
        *("", "age", False),
    ),
    "soft pairs": (
        lambda a, g: {"gender": 0.1 + 0.8 * ONE_HOT[g]},
        "",
        "gender",
        False,
    ),
    "codes": (lambda a, g: {"gender": g + 111}, "", "gender", False),
    "signs": (lambda a, g: {"gender": 2 * g - 1}, "", "gender", False),
    "one and two": (lambda a, g: {"gender": g + 1}, "", "gender", False),
    "other words": (
        lambda a, g: {"gender": np.where(g, b"w", b"man")},
        *("", "gender", False),
    ),
    "years of birth": (lambda a, g: {"age": 2000 - a}, "", "age", False),
    "negative": (lambda a, g: {"age": a - 40}, "", "age", False),
    "NaN": (lambda a, g: {"age": a * np.nan}, "", "age", False),
    "one missing": (lambda a, g: {"gender": g[:-1]}, "", "gender", False),
    "none": (lambda a, g: {}, "", "gender", False),
}
STORAGE = ("contiguous", "gzip", "gzip blocks", "lzf", "shuffled", "chunks")
HDF5_DAMAGE = (
    *("none",) * 12,
    *("cut", "never written", "half written"),
    *("black rows", "flipped chunk", "label never written", "empty"),
)
TFRECORD_DAMAGE = (
    *("none",) * 12,
    *("GZIP", "ZLIB", "cut", "cut at a record"),
    *("flipped data", "flipped length", "flipped last", "empty shard first"),
    *("cut image", "CMYK", "wrong label"),
    *("no image", "not an example", "text", "empty", "cut inside"),
)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One file.

    Attributes:
      name: What was drawn.
      config: Fields of an `input_fn.InputConfig`.
      images: uint8 ``[n, S, S, 3]`` that must be read; None if it must be refused.
      ages: ``[n]``, or None.
      genders: ``[n]``, or None.
    """

    name: str
    config: dict
    images: np.ndarray | None
    ages: np.ndarray | None
    genders: np.ndarray | None


def draw(seed: int, directory: str) -> Trial:
    """Writes the file of a seed."""
    rng = np.random.default_rng(seed)
    label = _drawn(rng, LABELS)
    budget = int(rng.choice([0, 0, COUNT]))
    if rng.random() < 0.6:
        pixel, layout = _drawn(rng, PIXELS), _drawn(rng, LAYOUTS)
        storage, damage = str(rng.choice(STORAGE)), str(rng.choice(HDF5_DAMAGE))
        return _hdf5(rng, directory, label, pixel, layout, storage, damage, budget)
    damage, kind = str(rng.choice(TFRECORD_DAMAGE)), str(rng.choice(["png", "jpeg"]))
    return _tfrecord(rng, directory, label, damage, kind, budget)


def try_pixels(name: str, directory: str) -> None:
    """One kind of pixels, in a sound file, read by both engines."""
    rng = np.random.default_rng(0)
    trial = _hdf5(rng, directory, "gender", name, "last", "contiguous", "none", 0)
    for engine in ENGINES:
        judge(trial, engine)


def try_layout(name: str, storage: str, directory: str) -> None:
    """One layout of the pixels, in a sound file, read by both engines."""
    rng = np.random.default_rng(0)
    trial = _hdf5(rng, directory, "gender", "uint8", name, storage, "none", 0)
    for engine in ENGINES:
        judge(trial, engine)


def try_labels(name: str, container: str, directory: str) -> None:
    """One form of labels, in a sound file."""
    rng = np.random.default_rng(0)
    if container == "hdf5":
        trial = _hdf5(rng, directory, name, "uint8", "last", "contiguous", "none", 0)
    else:
        trial = _tfrecord(rng, directory, name, "none", "png", 0)
    _check_index(trial)


def try_damage(name: str, container: str, budget: int, directory: str) -> None:
    """One kind of damage, with or without a budget of bad records."""
    rng = np.random.default_rng(0)
    if container == "hdf5":
        trial = _hdf5(rng, directory, "age", "uint8", "last", "gzip", name, budget)
    else:
        trial = _tfrecord(rng, directory, "age", name, "jpeg", budget)
    for engine in ENGINES:
        judge(trial, engine)


def _check_index(trial: Trial) -> None:
    """Compares the labels, or checks that the file is refused."""
    fields = input_fn.InputConfig(**trial.config)
    try:
        index = index_loading.open_index(fields, "test")
    except errors.AfadError as error:
        assert trial.images is None and "\n" not in str(error), str(error)
        return
    assert trial.images is not None, "it was read, and should be refused"
    for found, wanted in (
        (index.ages, trial.ages),
        (index.entries["gender"], trial.genders),
    ):
        if wanted is not None:
            np.testing.assert_array_equal(found, wanted)


def _drawn(rng, table):
    """A name from a table; unreadable forms are rare, because they hide the rest."""
    readable = rng.random() < 0.85
    return str(rng.choice([name for name, row in table.items() if row[-1] == readable]))


def _faces(rng):
    """Images, ages and genders."""
    images = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    genders = rng.permutation(np.arange(COUNT) % 2)
    return images, rng.integers(15, 70, COUNT), genders


def _hdf5(rng, directory, label, pixel, layout, storage, damage, budget) -> Trial:
    images, ages, genders = _faces(rng)
    convert, limits, pixels_read = PIXELS[pixel]
    arrange, layout_read = LAYOUTS[layout]
    make, features, task, label_read = LABELS[label]
    data, labels = arrange(convert(images)), make(ages, genders)
    good, right = np.ones(COUNT, bool), pixels_read and layout_read and label_read
    path = os.path.join(directory, "faces.h5")
    block = (4 if storage == "gzip blocks" else 1, *data.shape[1:])
    kwargs = {
        "contiguous": {},
        "chunks": {"chunks": block},
        "lzf": {"chunks": block, "compression": "lzf"},
        "shuffled": {"chunks": block, "compression": "gzip", "shuffle": True},
    }.get(storage, {"chunks": block, "compression": "gzip"})
    written = {"never written": 0, "half written": COUNT // 2}.get(damage, COUNT)
    with h5py.File(path, "w") as f:
        stored = f.create_dataset("data", data.shape, data.dtype, **kwargs)
        if written:
            stored[:written] = data[:written]
        if damage == "black rows":
            stored[3:5] = 0
        for name, values in labels.items():
            if damage == "label never written":
                f.create_dataset(
                    name,
                    values.shape,
                    values.dtype if values.dtype != object else h5py.string_dtype(),
                )
            elif values.dtype == object:
                f.create_dataset(name, data=values, dtype=h5py.string_dtype())
            else:
                f[name] = values
        chunk = (
            stored.id.get_chunk_info(2)
            if stored.chunks
            and written > 2
            and damage == "flipped chunk"
            and stored.id.get_num_chunks() > 2
            else None
        )
        if damage == "empty":
            del f["data"]
            f.create_dataset("data", (0, *data.shape[1:]), data.dtype)
    if damage == "cut":
        os.truncate(path, os.path.getsize(path) * 2 // 3)
    if chunk is not None:
        with open(path, "r+b") as f:
            f.seek(chunk.byte_offset + chunk.size // 2)
            f.write(b"\xff" * min(20, chunk.size // 2))
    if damage in ("cut", "never written", "empty", "label never written") and not (
        damage == "label never written" and not labels
    ):
        right = False
    elif damage in ("half written", "black rows"):
        if damage == "half written":
            good[written:] = False
        else:
            good[3:5] = False
        # With a budget the others are read.
        right = right and budget > 0
    elif damage == "flipped chunk" and chunk is not None:
        good[2 * block[0] : 3 * block[0]] = False
        right = right and budget > 0
        if right and storage in ("lzf", "chunks"):
            right = None  # Without a checksum a flip may be another picture.
    text = ",".join(filter(None, [features, limits and f"pixels={limits}"]))
    return _trial(
        f"hdf5 {pixel}, {layout}, {label}, {storage}, {damage}, budget {budget}",
        dict(files=path, features=text, task=task, max_bad_records=budget),
        right, images[good], (ages + 0.5 if label == "fraction" else ages)[good],
        genders[good],
    )  # fmt: skip


def _feature(value):
    values = value if isinstance(value, (list, np.ndarray)) else [value]
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    if isinstance(values[0], (bytes, str)):
        raw = [v.encode() if isinstance(v, str) else v for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=map(int, values)))


def _tfrecord(rng, directory, label, damage, kind, budget) -> Trial:
    images, ages, genders = _faces(rng)
    make, features, task, right = LABELS[label]
    labels = {
        # TFRecords have no usual name for one label.
        name: values
        for name, values in make(ages, genders).items()
    }
    if "labels" in labels and not features:
        features = f"{task}=labels"
    good, records, decoded = np.ones(COUNT, bool), [], []
    for i, image in enumerate(images):
        encode = tf.io.encode_png if kind == "png" else tf.io.encode_jpeg
        encoded = encode(image).numpy()
        if kind == "jpeg":
            image = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE").numpy()
        decoded.append(image)
        values = {"image": encoded}
        if i == 4 and damage == "cut image":
            values["image"] = encoded[: len(encoded) * 2 // 3]
        elif i == 4 and damage == "CMYK":
            import io

            from PIL import Image

            out = io.BytesIO()
            Image.fromarray(image).convert("CMYK").save(out, "jpeg")
            values["image"] = out.getvalue()
        elif i == 4 and damage == "no image":
            del values["image"]
        for name, column in labels.items():
            if i < len(column):
                values[name] = column[i]
                is_plain = column.ndim == 1 and column.dtype.kind == "i"
                if i == 4 and damage == "wrong label" and is_plain:
                    values[name] = -70
                    good[4] = False
        items = {name: _feature(value) for name, value in values.items()}
        example = tf.train.Example(features=tf.train.Features(feature=items))
        records.append(example.SerializeToString())
    if damage == "not an example":
        records[4] = b"\xff" + records[4][::-1]
    path = os.path.join(directory, "faces.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    sizes = [len(record) + 16 for record in records]
    with open(path, "rb") as f:
        data = bytearray(f.read())
    if damage == "GZIP":
        data, right = gzip.compress(data), False
    elif damage == "ZLIB":
        data, right = zlib.compress(data), False
    elif damage == "cut":
        data = data[:-10]
        good[-1] = False
    elif damage == "cut at a record":
        # Nothing in the file says that there was more.
        data = data[: sum(sizes[:-2])]
        good[-2:] = False
    elif damage == "flipped data":
        data[sum(sizes[:4]) + 40] ^= 1
        good[4] = False
    elif damage == "flipped last":
        data[sum(sizes[:-1]) + 40] ^= 1
        good[-1] = False
    elif damage == "flipped length":
        data[sum(sizes[:4])] ^= 1
        good[4] = False
    elif damage == "cut inside":
        # The next record's first bytes are taken for this one's last.
        middle = sum(sizes[:4]) + 60
        del data[middle : middle + 20]
        good[4:6] = False
    elif damage == "text":
        data, right = bytearray(b"not a record, but some text\n" * 9), False
    elif damage == "empty":
        data, right = b"", False
    elif damage in ("cut image", "CMYK", "no image", "not an example"):
        good[4] = False
    with open(path, "wb") as f:
        f.write(data)
    files = path
    if damage == "empty shard first":
        files = os.path.join(directory, "*.tfrecord")
        open(os.path.join(directory, "a.tfrecord"), "w").close()
    if not good.all() and damage != "cut at a record":
        right = right and budget > 0
    if label == "one missing":
        good[-1] = False
        right = budget > 0 and damage not in ("GZIP", "ZLIB", "text", "empty")
        right = right or (damage == "cut" and budget > 0) or damage == "cut at a record"
    return _trial(
        f"tfrecord {kind}, {label}, {damage}, budget {budget}",
        dict(files=files, features=features, task=task, max_bad_records=budget),
        right, np.stack(decoded)[good],
        (ages + 0.5 if label == "fraction" else ages)[good], genders[good],
    )  # fmt: skip


def _trial(name, config, right, images, ages, genders) -> Trial:
    if right is None:
        name += " (either)"
    elif not right:
        images = None
    task = config["task"]
    return Trial(
        name,
        config,
        images,
        ages if "age" in task.split("_") else None,
        genders if "gender" in task else None,
    )


def judge(trial: Trial, engine: str) -> str:
    """``right`` or ``refused``; raises AssertionError for anything else."""
    config = input_fn.InputConfig(
        **trial.config, engine=engine, image_size=SIDE, global_batch_size=BATCH
    )
    either = trial.name.endswith("(either)")
    try:
        with input_fn.readable_errors():
            elements = list(input_fn.eval_input_fn(config).as_numpy_iterator())
            for _ in input_fn.train_input_fn(config).take(2):
                pass
    except errors.AfadError as error:
        text = str(error)
        assert "\n" not in text and len(text) > 20, text
        assert trial.images is None or either, f"refused: {text}"
        return "refused"
    if either:
        return "right"
    assert trial.images is not None, "it was read, and should be refused"
    mask = np.concatenate([features["mask"] for features, _ in elements])
    found = np.concatenate([features["image"] for features, _ in elements])[mask]
    assert found.shape == trial.images.shape, (found.shape, trial.images.shape)
    assert np.abs(found.astype(int) - trial.images).max(initial=0) <= 1
    for name, wanted in (("age", trial.ages), ("gender", trial.genders)):
        if wanted is not None:
            values = np.concatenate([labels[name] for _, labels in elements])[mask]
            np.testing.assert_array_equal(values, wanted)
    return "right"


def run(seeds) -> collections.Counter:
    """Tries the files of some seeds; raises AssertionError with the seed and name."""
    outcomes: collections.Counter = collections.Counter()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            trial = draw(seed, directory)
            for engine in ENGINES:
                try:
                    outcomes[judge(trial, engine)] += 1
                except Exception as error:
                    raise AssertionError(
                        f"seed {seed}, {engine}: {trial.name}: {error!r}"
                    ) from error
    return outcomes


def main() -> None:
    """Tries many seeds, and goes on after a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--first_seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes: collections.Counter = collections.Counter()
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.trials):
        try:
            outcomes.update(run([seed]))
        except AssertionError as error:
            outcomes["wrong"] += 1
            print(error, flush=True)
    print(dict(outcomes))


if __name__ == "__main__":
    main()
