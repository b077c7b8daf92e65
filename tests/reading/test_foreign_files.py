"""Files of other programs are read as they are."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib

import h5py
import numpy as np
import pytest
import tensorflow as tf

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.images import codec
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import tfrecord

SIDE, COUNT = 20, 23


def take(dataset, count=None):
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)


def write_tfrecord(path, pixels, ages, *, image="img", label="years"):
    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for array, age in zip(pixels, ages, strict=True):
            values = {
                image: feature(tf.io.encode_png(array).numpy()),
                label: feature([age]),
                "landmarks": feature([1, 2, 3]),  # More than one value.
            }
            features = tf.train.Features(feature=values)
            writer.write(tf.train.Example(features=features).SerializeToString())


@pytest.mark.latest
@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_tfrecords_with_other_names(pixels, tmp_path, engine):
    ages = [20 + i for i in range(COUNT)]
    for shard, rows in enumerate((slice(0, 10), slice(10, COUNT))):
        path = tmp_path / f"train-{shard}.tfrecord"
        write_tfrecord(path, pixels[rows], ages[rows])
    config = input_fn.InputConfig(
        files=str(tmp_path / "{split}-*.tfrecord"),
        features="image=img,age=years",
        task="age",
        global_batch_size=5,
        engine=engine,
    )
    elements = take(input_fn.eval_input_fn(config, "train"))
    mask = np.concatenate([f["mask"] for f, _ in elements])
    found = np.concatenate([f["image"] for f, _ in elements])[mask]
    assert (found == pixels).all()
    assert (
        np.concatenate([label["age"] for _, label in elements])[mask].tolist() == ages
    )
    assert set(elements[0][1]) == {"age"}
    assert len(take(input_fn.train_input_fn(config), 3)) == 3


def test_tfrecord_errors(pixels, tmp_path):
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path, pixels[:3], [1, 2, 3])

    def config(**fields):
        return input_fn.InputConfig(
            **{"files": str(path), "task": "age", "image_size": 8, **fields}
        )

    for fields, text in (
        ({}, "must name the image .* which has img, landmarks, years"),
        ({"features": "image=img"}, "needs the label 'age'"),
        ({"features": "image=img,age=old"}, "has no feature 'old' for the age"),
        ({"features": "picture=img"}, "--features takes image=NAME"),
        ({"files": str(tmp_path / "none*")}, "matches no file"),
    ):
        with pytest.raises(errors.UsageError, match=text):
            input_fn.eval_input_fn(config(**fields), "test")
    good = config(features="image=img,age=years")
    with pytest.raises(errors.UsageError, match="--mean_file"):
        input_fn.eval_input_fn(
            config(features="image=img,age=years", as_supervised=True), "test"
        )
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.DataError, match="record 0 of .* damaged: .* checksum"):
        input_fn.eval_input_fn(good, "test")
    path.write_bytes(data[:-10])
    with pytest.raises(errors.DataError):
        input_fn.eval_input_fn(good, "test")


@pytest.mark.parametrize(
    ("pack", "text"),
    [
        (gzip.compress, r"is compressed \(GZIP\).*gunzip.*TFRecordWriter"),
        (zlib.compress, r"is compressed \(ZLIB\).*TFRecordWriter"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "is a pointer of Git LFS, .*: git lfs pull",
        ),
    ],
    ids=["gzip", "zlib", "git lfs"],
)
def test_a_file_in_another_form_is_named(pack, text, pixels, tmp_path):
    """It was called cut short."""
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path, pixels[:3], [20, 30, 40])
    path.write_bytes(pack(path.read_bytes()))
    config = input_fn.InputConfig(
        files=str(path), features="image=img,age=years", task="age"
    )
    with pytest.raises(errors.UsageError, match=text) as caught:
        input_fn.num_examples(config, "test")
    assert "cut short" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("storage", ["contiguous", "gzip", "lzf blocks"])
@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_older_hdf5_files(pixels, tmp_path, engine, storage):
    """`data` float32 and one `labels`, as the original project's packer wrote them."""
    path = tmp_path / "train.h5"
    filters = {
        "contiguous": {},
        "gzip": {"compression": "gzip", "chunks": (1, SIDE, SIDE, 3)},
        "lzf blocks": {"compression": "lzf", "chunks": (4, SIDE, SIDE, 3)},
    }[storage]
    with h5py.File(path, "w") as f:
        f.create_dataset("data", data=pixels.astype(np.float32), **filters)
        f["labels"] = np.arange(COUNT) % 2
    (tmp_path / "mean.json").write_text(json.dumps({"R": 1.0, "G": 2.0, "B": 3.0}))
    config = input_fn.InputConfig(
        files=str(path),
        task="gender",
        global_batch_size=5,
        engine=engine,
        mean_file=str(tmp_path / "mean.json"),
        as_supervised=True,
    )
    elements = take(input_fn.eval_input_fn(config, "train"))
    found = np.concatenate([image for image, _ in elements])
    wanted = (pixels.astype(np.float32) - [1, 2, 3]) / 127.5
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    labels = np.concatenate([label for _, label in elements])
    assert labels.tolist() == [i % 2 for i in range(COUNT)]


def test_hdf5_errors(pixels, tmp_path):
    def load(name, **fields):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as f:
            for key, value in fields.items():
                f[key] = value
        return input_fn.eval_input_fn(
            input_fn.InputConfig(files=str(path), task="gender"), "test"
        )

    labels = np.zeros(COUNT, int)
    for name, fields, text in (
        ("a", dict(data=pixels[..., :2], labels=labels), "three channels in the order"),
        ("b", dict(data=pixels[:, :-2], labels=labels), "resize or crop .* to squares"),
        (
            "g",
            dict(data=pixels[:, :3, :3], labels=labels),
            "which axis has the colours",
        ),
        ("c", dict(data=pixels / np.float32(255), labels=labels), "=pixels=0..1"),
        ("d", dict(data=pixels, labels=labels[:-1]), "23 images and 22 labels"),
        ("e", dict(data=pixels, labels=labels + 111), "from 0 to 1, .*; it is 111"),
        ("f", dict(data=pixels), "needs the label 'gender'"),
    ):
        with pytest.raises((errors.UsageError, errors.DataError), match=text):
            load(name, **fields)


def test_our_own_shards_can_be_read_as_foreign(sample_records):
    source = index_loading.load_split(sample_records, "test")
    config = input_fn.InputConfig(files=",".join(source.paths), image_size=24)
    other = index_loading.open_index(config, "test")
    assert other.labels == ("age", "gender")
    for name in source.entries.dtype.names:
        if name != "place":
            assert (other.entries[name] == source.entries[name]).all(), name
    # The features were found by their usual names.
    assert other.features == source.features
    record = source.entries[0]
    data = np.fromfile(source.paths[0], np.uint8)
    framed = data[record["record_offset"] :][: record["record_length"]].tobytes()
    encoded = tfrecord.parse_example(tfrecord.check_record(framed))["image/encoded"]
    assert codec.decode(bytes(encoded)).shape[2] == 3


def test_a_warning_names_files_that_serve_as_two_splits(pixels, tmp_path, caplog):
    path = tmp_path / "a.tfrecord"
    write_tfrecord(path, pixels, [20] * COUNT)
    config = input_fn.InputConfig(
        files=f"file://{path}", features="image=img,age=years", task="age"
    )
    assert input_fn.num_examples(config, "train") == COUNT
    assert "the same records" not in caplog.text
    assert input_fn.num_examples(config, "test") == COUNT
    assert "the same records are train and test" in caplog.text


def test_relative_paths_hold_after_a_change_of_the_directory(
    pixels, tmp_path, monkeypatch
):
    write_tfrecord(tmp_path / "a.tfrecord", pixels, [20] * COUNT)
    monkeypatch.chdir(tmp_path)
    for engine in ("mapped", "graph"):
        dataset = input_fn.eval_input_fn(
            input_fn.InputConfig(
                files="a.tfrecord",
                features="image=img,age=years",
                task="age",
                engine=engine,
            )
        )
        (tmp_path / engine).mkdir()
        monkeypatch.chdir(tmp_path / engine)
        assert len(take(dataset)) == 1
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ("pixels=1..0", "pixels= takes the values of black and white"),
        ("pixels=bright", "got 'bright'"),
        ("gender=gender+1", "years are added to an age only"),
        ("age=gender[0]", "has one value, not several"),
    ],
)
def test_wrong_features_are_refused(pixels, tmp_path, features, text):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["data"], f["gender"] = pixels, np.arange(COUNT) % 2
    config = input_fn.InputConfig(
        files=str(tmp_path / "a.h5"), features=features, task="gender"
    )
    with pytest.raises(errors.UsageError, match=text):
        input_fn.num_examples(config, "test")


def test_files_that_cannot_be_opened_are_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "a.tfrecord").write_bytes(b"x")

    def refuse(*_, **__):
        raise OSError(24, "Too many open files", str(tmp_path / "a.tfrecord"))

    monkeypatch.setattr("builtins.open", refuse)
    config = input_fn.InputConfig(files=str(tmp_path / "a.tfrecord"))
    with pytest.raises(errors.UsageError, match="cannot read .*: Too many open files"):
        input_fn.num_examples(config, "test")


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_two_data_sets_of_one_file_are_not_mixed_up(pixels, tmp_path, engine):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["first"], f["second"] = pixels, pixels[::-1]
        f["gender"] = np.arange(COUNT) % 2
    for name, wanted in (("first", pixels), ("second", pixels[::-1])):
        config = input_fn.InputConfig(
            files=str(tmp_path / "a.h5"),
            features=f"image={name}",
            task="gender",
            engine=engine,
        )
        (features, _) = take(input_fn.eval_input_fn(config))[0]
        assert (features["image"][:COUNT] == wanted).all()
