"""What users of `input_fn` rely on: shapes, order, slices, masks, errors."""

from __future__ import annotations

import dataclasses
import errno
import gc
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from afad_tfdata import input_benchmark, input_fn, models, records
from afad_tfdata.common import crc32, errors, remote_files, resources
from afad_tfdata.images import drawn_faces
from afad_tfdata.reading import (
    bad_records,
    index_loading,
    mapped_reader,
    shard_maps,
)

BATCH = 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """97 images of 8 x 8 pixels, all in the training split."""
    root = tmp_path_factory.mktemp("tiny")
    drawn_faces.make_sample(
        drawn_faces.SampleConfig(output_dir=str(root / "faces"), num_images=97, seed=1)
    )
    records.write_records(
        records.WriteConfig(
            data_dir=str(root / "faces"),
            output_dir=str(root / "records"),
            image_encoding="raw",
            image_size=8,
            test_fraction=0.0,
            validation_fraction=0.0,
            num_shards=3,
            num_workers=1,
        )
    )
    assert input_fn.num_examples(config(str(root / "records")), "train") == 97
    return str(root / "records")


def config(directory: str, **fields) -> input_fn.InputConfig:
    return input_fn.InputConfig(
        records_dir=directory, **{"global_batch_size": BATCH, **fields}
    )


def context(pipelines: int, pipeline: int, replicas: int):
    return types.SimpleNamespace(
        num_input_pipelines=pipelines,
        input_pipeline_id=pipeline,
        num_replicas_in_sync=replicas,
    )


def take(dataset, count: int) -> list:
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def rows_of(elements) -> list[bytes]:
    """Pixels and labels of each example that is not padding, as one string."""
    found = []
    for features, labels in elements:
        mask = features.get("mask", np.ones(len(features["image"]), bool))
        for i in np.flatnonzero(mask):
            pixels = features["image"][i].tobytes()
            found.append(pixels + bytes([int(labels["age"][i]), labels["gender"][i]]))
    return found


@pytest.fixture(scope="module")
def expected_rows(tiny) -> list[bytes]:
    """The 97 examples as they are in the shards, in the order of the index."""
    source = index_loading.load_split(tiny, "train")
    shards = [np.fromfile(path, np.uint8) for path in source.paths]
    return [
        shards[row["shard"]][row["image_offset"] :][: row["image_length"]].tobytes()
        + bytes([row["age"], row["gender"]])
        for row in source.entries
    ]


@pytest.mark.latest
def test_elements_have_static_shapes(sample_records):
    train = input_fn.train_input_fn(config(sample_records, image_size=32))
    features, labels = train.element_spec
    assert {n: (s.shape.as_list(), s.dtype.name) for n, s in features.items()} == {
        "image": ([BATCH, 32, 32, 3], "uint8")
    }
    assert {n: (s.shape.as_list(), s.dtype.name) for n, s in labels.items()} == {
        "age": ([BATCH], "float32"),
        "gender": ([BATCH], "int32"),
    }
    assert train.cardinality().numpy() == -1  # Infinite.
    test = input_fn.eval_input_fn(config(sample_records), split="test")
    features, _ = test.element_spec
    assert features["image"].shape.as_list() == [BATCH, 48, 48, 3]
    assert features["mask"].shape.as_list() == [BATCH]
    assert features["mask"].dtype.name == "bool"
    count = input_fn.num_examples(config(sample_records), "test")
    assert test.cardinality().numpy() == -(-count // BATCH)


@pytest.fixture(scope="module", params=["tfrecord", "hdf5"])
def pixels(request, tiny, tmp_path_factory) -> str:
    """The faces of `tiny` in one shard of 40 x 40 pixels, in either format."""
    directory = tmp_path_factory.mktemp("pixels") / "records"
    records.write_records(
        records.WriteConfig(
            data_dir=os.path.join(os.path.dirname(tiny), "faces"),
            output_dir=str(directory),
            format=request.param,
            image_encoding="raw",
            image_size=40,
            test_fraction=0.0,
            validation_fraction=0.0,
            num_shards=1,
            num_workers=1,
        )
    )
    return str(directory)


def test_every_flipped_byte_is_noticed_in_the_first_pass(pixels, tmp_path):
    directory = str(tmp_path / "bad")
    shutil.copytree(pixels, directory)
    source = index_loading.load_split(directory, "train")
    rng = np.random.default_rng(3)
    with open(source.paths[0], "r+b") as f:
        for trial in range(60):
            entry = source.entries[rng.integers(97)]
            place = int(entry["image_offset"]) + int(rng.integers(4800))
            f.seek(place)
            (byte,) = f.read(1)
            f.seek(place)
            f.write(bytes([byte ^ 1 << int(rng.integers(8))]))
            f.flush()
            # Changes in quick succession may get the same time: these must not.
            os.utime(source.paths[0], ns=(trial, trial))
            reader = mapped_reader.MappedReader(
                source, 40, bad_records.BadRecords(source, 0)
            )
            with pytest.raises(errors.DataError, match="do not match its checksum"):
                for start in range(0, 97, 16):
                    reader.read(np.arange(start, min(start + 16, 97)))
            f.seek(place)
            f.write(bytes([byte]))
            f.flush()


@pytest.mark.parametrize("pixels", ["hdf5"], indirect=True)
def test_rows_are_checked_while_the_pipeline_is_built(pixels, tmp_path):
    """All blocks are checked but the one that the damaged record is in."""
    directory = damaged(pixels, tmp_path / "bad", rows=(41,))
    source = index_loading.load_split(directory, "train")
    reader = mapped_reader.MappedReader(source, 40, bad_records.BadRecords(source, 1))
    while reader._maps._populating.locked():
        time.sleep(0.001)
    step = crc32.BLOCK_ROWS
    block = range(41 // step * step, 41 // step * step + step)
    assert np.flatnonzero(reader._unchecked).tolist() == list(block)
    _, _, _, mask = reader.read(np.arange(97))
    assert np.flatnonzero(~mask).tolist() == [41]
    assert np.flatnonzero(reader._unchecked).tolist() == [41]


def test_what_was_checked_is_remembered_until_the_file_changes(
    pixels, tmp_path, monkeypatch
):
    # Otherwise, a thread checks all records at once.
    monkeypatch.setattr(shard_maps.ShardMaps, "populate", lambda *_: None)
    directory = str(tmp_path / "copy")
    shutil.copytree(pixels, directory)
    source = index_loading.load_split(directory, "train")

    def reader():
        return mapped_reader.MappedReader(source, 40, bad_records.BadRecords(source, 0))

    first = reader()
    assert first._unchecked.all()
    first.read(np.arange(97))
    assert not first._unchecked.any() and not reader()._unchecked.any()
    with open(source.paths[0], "r+b") as f:
        f.seek(int(source.entries["image_offset"][7]))
        f.write(b"\x55\xaa\x55")
    os.utime(source.paths[0], ns=(7, 7))
    with pytest.raises(errors.DataError, match="record 7 of .*its checksum"):
        reader().read(np.arange(97))


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_bad_rows_are_replaced_or_masked_in_every_epoch(pixels, tmp_path, engine):
    directory = damaged(pixels, tmp_path / "bad", rows=(5, 40, 41))
    fields = config(directory, max_bad_records=3, engine=engine)
    whole = rows_of(take(input_fn.train_input_fn(config(pixels)), 25))
    found = rows_of(take(input_fn.train_input_fn(fields), 25))
    pristine = rows_of(take(input_fn.eval_input_fn(config(pixels), "train"), 99))
    bad = {pristine[row] for row in (5, 40, 41)}
    for row, other in zip(whole, found, strict=True):
        assert (row == other) == (row not in bad)
    assert not bad & set(found)
    for _ in range(2):
        kept = rows_of(take(input_fn.eval_input_fn(fields, "train"), 99))
        assert kept == [row for row in pristine if row not in bad]


def test_many_pipelines_leave_no_map_and_no_file(pixels):
    def used():
        gc.collect()
        with open("/proc/self/maps") as f:
            return len(os.listdir("/proc/self/fd")), f.read().count(pixels)

    fields = config(pixels, global_batch_size=48)
    seen = []
    for _ in range(12):
        take(input_fn.train_input_fn(fields), 7)
        seen.append(used())
    assert seen[-1] == seen[2] and seen[-1][1] <= 1


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_every_epoch_has_every_example_once(tiny, expected_rows, engine):
    dataset = input_fn.train_input_fn(config(tiny, engine=engine))
    # 97 steps of 16 are 16 epochs; batches straddle them.
    found = rows_of(take(dataset, 97))
    assert len(set(expected_rows)) == 97
    for epoch in range(16):
        assert sorted(found[epoch * 97 : (epoch + 1) * 97]) == sorted(expected_rows)
    assert found[:97] != found[97 : 2 * 97]


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_a_stream_that_starts_later_equals_the_end_of_the_whole_one(tiny, engine):
    whole = [rows_of([e]) for e in take(input_fn.train_input_fn(config(tiny)), 120)]
    steps = np.random.default_rng(0).permutation(118)
    for step in steps[: 50 if engine == "mapped" else 5].tolist():
        resumed = input_fn.train_input_fn(config(tiny, engine=engine), start_step=step)
        assert [rows_of([e]) for e in take(resumed, 2)] == whole[step : step + 2]


@pytest.mark.parametrize(
    ("pipelines", "replicas"), [(2, 2), (4, 4), (8, 8), (1, 2), (2, 4)]
)
@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_same_global_batches_for_any_number_of_pipelines(
    tiny, engine, pipelines, replicas
):
    whole = rows_of(take(input_fn.train_input_fn(config(tiny)), 8))
    here = replicas // pipelines
    parts = [
        take(
            input_fn.train_input_fn(
                config(tiny, engine=engine), context(pipelines, i, replicas)
            ),
            8 * here,
        )
        for i in range(pipelines)
    ]
    joined = []
    for step in range(8):
        for part in parts:
            joined += rows_of(part[step * here : (step + 1) * here])
    assert joined == whole


def test_threads_do_not_change_the_order(tiny):
    for calls in (1, 3):
        dataset = input_fn.train_input_fn(config(tiny, num_parallel_calls=calls))
        found = rows_of(take(dataset, 30))
        assert found == rows_of(take(input_fn.train_input_fn(config(tiny)), 30))


def test_evaluation_has_every_example_once_for_every_batch_size(tiny, expected_rows):
    for size in range(1, 99):
        dataset = input_fn.eval_input_fn(
            config(tiny, global_batch_size=size), split="train"
        )
        assert rows_of(dataset.as_numpy_iterator()) == expected_rows, size


@pytest.mark.parametrize(
    ("engine", "pipelines", "replicas", "size"),
    # 10 does not divide by 4: the batch grows to 12 and is padded.
    [("mapped", 2, 2, 16), ("mapped", 2, 4, 10), ("graph", 4, 4, 10)],
)
def test_evaluation_over_pipelines(
    tiny, expected_rows, engine, pipelines, replicas, size
):
    parts = [
        list(
            input_fn.eval_input_fn(
                config(tiny, engine=engine, global_batch_size=size),
                "train",
                context(pipelines, i, replicas),
            ).as_numpy_iterator()
        )
        for i in range(pipelines)
    ]
    assert len({len(part) for part in parts}) == 1  # No pipeline waits for another.
    here = replicas // pipelines
    joined = []
    for step in range(len(parts[0]) // here):
        for part in parts:
            joined += rows_of(part[step * here : (step + 1) * here])
    assert joined == expected_rows


@pytest.mark.latest
def test_replicas_get_contiguous_slices(tiny, two_replicas):
    whole = take(input_fn.train_input_fn(config(tiny)), 3)
    distributed = two_replicas.distribute_datasets_from_function(
        lambda ctx: input_fn.train_input_fn(config(tiny), ctx)
    )
    iterator = iter(distributed)
    for features, _ in whole:
        images = next(iterator)[0]["image"]
        per_replica = [
            t.numpy() for t in two_replicas.experimental_local_results(images)
        ]
        assert [len(image) for image in per_replica] == [BATCH // 2] * 2
        assert (np.concatenate(per_replica) == features["image"]).all()


def test_balanced_sampling_is_even_and_deterministic(tiny):
    def ages(start):
        dataset = input_fn.train_input_fn(config(tiny, balance="age"), start_step=start)
        return np.concatenate([labels["age"] for _, labels in take(dataset, 60)])

    found = ages(0)
    counts = np.unique(found, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    assert (ages(20)[: 40 * BATCH] == found[20 * BATCH :]).all()
    genders = take(input_fn.train_input_fn(config(tiny, balance="gender")), 4)
    assert all(labels["gender"].sum() == BATCH // 2 for _, labels in genders)


@pytest.mark.parametrize("task", ["age_gender", "gender"])
def test_as_supervised_feeds_fit(tiny, task):
    fields = config(tiny, task=task, as_supervised=True, image_size=16)
    image, label = take(input_fn.train_input_fn(fields), 1)[0]
    assert image.dtype == np.float32 and np.abs(image).max() <= 2
    inputs = keras.Input((16, 16, 3), name="root_input")
    hidden = keras.layers.Flatten()(inputs)
    outputs = {
        "age_output": keras.layers.Dense(1, name="age_output")(hidden),
        "gender_output": keras.layers.Dense(
            1, activation="sigmoid", name="gender_output"
        )(hidden),
    }
    losses = {"age_output": "mae", "gender_output": "binary_crossentropy"}
    if task == "gender":
        assert label.shape == (BATCH,)
        outputs, losses = outputs["gender_output"], losses["gender_output"]
    else:
        assert set(label) == {"age_output", "gender_output"}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", losses)
    model.fit(input_fn.train_input_fn(fields), steps_per_epoch=2, verbose=0)
    padded = input_fn.eval_input_fn(fields, split="train")
    assert np.isfinite(model.evaluate(padded, verbose=0)).all()


@pytest.mark.parametrize("task", ["age_gender", "age", "gender"])
def test_as_supervised_feeds_our_models(tiny, task):
    fields = config(tiny, task=task, as_supervised=True, image_size=32)
    model = models.build_model(
        models.ModelConfig(
            backbone="small_cnn", weights="none", task=task, image_size=32
        )
    )
    losses = {"age_output": "mae", "gender_output": "binary_crossentropy"}
    model.compile("sgd", {name: losses[name] for name in model.output_names})
    model.fit(input_fn.train_input_fn(fields), steps_per_epoch=2, verbose=0)
    padded = input_fn.eval_input_fn(fields, split="train")
    found = model.evaluate(padded, verbose=0, return_dict=True)
    assert np.isfinite(list(found.values())).all()


def test_both_labels_feed_keras_2(tiny):
    tf_keras = pytest.importorskip("tf_keras")
    fields = config(tiny, as_supervised=True, image_size=16)
    image = tf_keras.Input((16, 16, 3))
    hidden = tf_keras.layers.Flatten()(image)
    outputs = [
        tf_keras.layers.Dense(1, name="age_output")(hidden),
        tf_keras.layers.Dense(1, activation="sigmoid", name="gender_output")(hidden),
    ]
    model = tf_keras.Model(image, outputs)
    model.compile("sgd", {"age_output": "mae", "gender_output": "binary_crossentropy"})
    model.fit(input_fn.train_input_fn(fields), steps_per_epoch=2, verbose=0)
    padded = input_fn.eval_input_fn(fields, split="train")
    assert np.isfinite(model.evaluate(padded, verbose=0)).all()


def predicts_1000() -> keras.Model:
    """A model whose mean absolute error tells which ages were counted."""
    inputs = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(
        1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(1e3)
    )
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    model.compile("sgd", metrics=["mae"], weighted_metrics=["mse"], loss="mae")
    return model


# The last batch has 1, 2 or 37 examples of 97, or there is no second one.
@pytest.mark.parametrize("size", [60, 96, 95, 200])
@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_keras_counts_and_predicts_each_example_once(tiny, engine, size):
    ages = index_loading.load_split(tiny, "train").entries["age"]
    fields = config(
        tiny, task="age", as_supervised=True, global_batch_size=size, engine=engine
    )
    model = predicts_1000()
    validation = input_fn.eval_input_fn(fields, "train")
    found = model.evaluate(validation, verbose=0, return_dict=True)
    for name in ("loss", "mae"):
        assert found[name] == pytest.approx(1000 - ages.mean(), rel=1e-5)
    assert len(model.predict(validation, verbose=0)) == len(ages)
    history = model.fit(
        input_fn.train_input_fn(fields),
        steps_per_epoch=1,
        validation_data=validation,
        verbose=0,
    ).history
    assert np.isfinite(history["val_mae"]).all()


@pytest.mark.parametrize("size", [60, 96])
def test_keras_counts_each_example_once_over_replicas(tiny, two_replicas, size):
    ages = index_loading.load_split(tiny, "train").entries["age"]
    fields = config(tiny, task="age", as_supervised=True, global_batch_size=size)
    with two_replicas.scope():
        model = predicts_1000()
    validation = input_fn.eval_input_fn(fields, "train")
    found = model.evaluate(validation, verbose=0, return_dict=True)
    assert found["mae"] == pytest.approx(1000 - ages.mean(), rel=1e-5)
    assert len(model.predict(validation, verbose=0)) == len(ages)


def test_padded_batches_of_replicas_have_weights(tiny):
    fields = config(tiny, task="age", as_supervised=True, global_batch_size=60)
    parts = [
        list(
            input_fn.eval_input_fn(
                fields, "train", context(2, i, 2)
            ).as_numpy_iterator()
        )
        for i in range(2)
    ]
    weights = [weight for part in parts for _, _, weight in part]
    assert {len(weight) for weight in weights} == {30}
    assert sum(weight.sum() for weight in weights) == len(
        index_loading.load_split(tiny, "train").entries
    )


def test_class_weights_act_in_keras(tiny):
    fields = config(tiny, task="gender", as_supervised=True)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mae")
    losses = [
        model.fit(
            input_fn.train_input_fn(fields),
            steps_per_epoch=3,
            class_weight=weight,
            verbose=0,
        ).history["loss"][0]
        for weight in (None, {0: 3.0, 1: 3.0})
    ]
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_feeds_keras_2(tiny):
    tf_keras = pytest.importorskip("tf_keras")
    fields = config(tiny, task="gender", as_supervised=True)
    model = tf_keras.Sequential(
        [tf_keras.layers.Flatten(), tf_keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile("sgd", "binary_crossentropy")
    history = model.fit(input_fn.train_input_fn(fields), steps_per_epoch=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def damaged(directory: str, target, *, rows: tuple[int, ...]) -> str:
    """A copy of a data set with a flipped byte in these records' images."""
    shutil.copytree(directory, target)
    source = index_loading.load_split(str(target), "train")
    for row in rows:
        entry = source.entries[row]
        with open(source.paths[entry["shard"]], "r+b") as f:
            f.seek(int(entry["image_offset"]) + int(entry["image_length"]) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 0x10]))
    return str(target)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_a_flipped_byte_is_named(sample_records, tmp_path, engine):
    directory = damaged(sample_records, tmp_path / "bad", rows=(11,))
    source = index_loading.load_split(directory, "train")
    with pytest.raises(errors.DataError) as caught, input_fn.readable_errors():
        dataset = input_fn.train_input_fn(config(directory, engine=engine))
        take(dataset, len(source) // BATCH + 1)
    text = str(caught.value)
    assert "\n" not in text and "checksum" in text
    shard = int(source.entries["shard"][11])
    assert f"record {11 - source.shard_starts()[shard]} of" in text
    assert source.paths[shard] in text and "index 11" in text and ".jpg" in text
    assert "--max_bad_records" in text


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_bad_records_are_skipped_within_the_budget(
    tiny, expected_rows, tmp_path, engine, caplog
):
    directory = damaged(tiny, tmp_path / "bad", rows=(3, 4, 60))
    good = [row for i, row in enumerate(expected_rows) if i not in (3, 4, 60)]
    fields = config(directory, engine=engine, max_bad_records=3)
    found = rows_of(input_fn.eval_input_fn(fields, "train").as_numpy_iterator())
    assert found == good
    assert [r.getMessage().split(" skipped")[0] for r in caplog.records][-3:] == [
        f"bad record {i} of at most 3" for i in (1, 2, 3)
    ]
    # In training the next good record replaces a bad one.
    stream = rows_of(take(input_fn.train_input_fn(fields), 97))[: 16 * 97]
    for epoch in range(16):
        counts = {row: stream[epoch * 97 : epoch * 97 + 97].count(row) for row in good}
        assert [counts[good[i]] for i in (0, 3, 57)] == [1, 3, 1]
        assert counts[expected_rows[61]] == 2
    fields = dataclasses.replace(fields, max_bad_records=2)
    with pytest.raises(errors.DataError, match="2 before it were skipped"):
        with input_fn.readable_errors():
            list(input_fn.eval_input_fn(fields, "train"))


def test_errors_keep_their_class_inside_tensorflow():
    """A `UsageError` means exit status 1, a `DataError` 2."""
    for raised in (errors.UsageError("wanted a; got b"), errors.DataError("x is bad")):

        def fail(number, error=raised):
            raise error

        dataset = tf.data.Dataset.range(1).map(
            lambda number, fail=fail: tf.numpy_function(fail, [number], tf.int64)
        )
        with pytest.raises(type(raised)) as caught, input_fn.readable_errors():
            list(dataset)
        assert type(caught.value) is type(raised)
        assert str(caught.value) == str(raised)


def take_one(dataset, *, in_function: bool):
    """An element; the message of an error in a tf.function has more lines."""
    function = tf.function(lambda x: next(x)) if in_function else next
    return function(iter(dataset))


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("name", ["gone.tfrecord", "my jpegs; old/gone.tfrecord"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_that_tensorflow_cannot_open_is_named(
    name, relative, in_function, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = name if relative else str(tmp_path / name)
    read = tf.data.Dataset.from_tensor_slices([path]).map(tf.io.read_file)
    for dataset in (tf.data.TFRecordDataset(path), read):
        with pytest.raises(FileNotFoundError) as caught, input_fn.readable_errors():
            take_one(dataset, in_function=in_function)
        assert caught.value.filename == path
        assert caught.value.strerror == "No such file or directory"


@pytest.mark.parametrize("where", ["faces/records/a.tfrecord", "no-such-bucket"])
def test_a_store_that_fails_is_named(where):
    text = f"Error executing an HTTP request: code 6\n\t when reading gs://{where}"
    with pytest.raises(remote_files.StoreError) as caught, input_fn.readable_errors():
        raise tf.errors.FailedPreconditionError(None, None, text)
    assert caught.value.filename == f"gs://{where}"
    assert caught.value.strerror == "Error executing an HTTP request: code 6"


@pytest.mark.parametrize(
    "before", ["{{function_node f}} ", "Graph execution error:\n\n"]
)
def test_a_store_that_tensorflow_does_not_know_is_named(before):
    what = "File system scheme 's3' not implemented (file: 's3://a/b.tfrecord')"
    text = f"{before}{what}\n\t [[{{{{node IteratorGetNext}}}}]] [Op:IteratorGetNext]"
    with pytest.raises(remote_files.StoreError) as caught, input_fn.readable_errors():
        raise tf.errors.UnimplementedError(None, None, text)
    assert caught.value.filename == "s3://a/b.tfrecord"
    assert caught.value.strerror == what


def test_an_error_whose_text_has_a_path_is_no_error_of_a_file():
    """It must keep its class and its text."""

    def fail(number):
        raise ValueError("in /faces/a.npy; No such file or directory")

    def refuse(number):
        tf.debugging.Assert(number > 5, ["see /docs/labels; ages must be known"])
        return number

    def call(number):
        return tf.numpy_function(fail, [number], tf.int64)

    for function in (call, refuse):
        dataset = tf.data.Dataset.range(1).map(function)
        with pytest.raises(tf.errors.InvalidArgumentError), input_fn.readable_errors():
            list(dataset)


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize(
    "content, match",
    [
        (b"\xff\xd8\xff no image", "damaged: jpeg::Uncompress failed"),
        (b"", "damaged: Input is empty"),
    ],
)
def test_an_image_that_tensorflow_cannot_decode_is_a_damaged_record(
    content, match, in_function
):
    dataset = tf.data.Dataset.from_tensor_slices([content]).map(tf.io.decode_jpeg)
    with (
        pytest.raises(errors.DataError, match=match),
        input_fn.readable_errors(),
    ):
        take_one(dataset, in_function=in_function)


def test_the_path_of_a_program_is_no_sign_of_a_damaged_image():
    text = (
        "Graph execution error:\n\nDetected at node add defined at (most recent call"
        ' last):\n  File "/home/a/jpeg_faces/train.py", line 1, in <module>\n\n'
        "Incompatible shapes: [2] vs. [3]\n\t [[{{node add}}]] [Op:__inference_f_1]"
    )
    with pytest.raises(tf.errors.InvalidArgumentError), input_fn.readable_errors():
        raise tf.errors.InvalidArgumentError(None, None, text)


def test_bytes_are_checked_on_request_only(tiny, tmp_path):
    directory = damaged(tiny, tmp_path / "bad", rows=(5,))
    take(input_fn.train_input_fn(config(directory, verify=False)), 8)


def test_a_shard_that_lost_its_end(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "cut")
    source = index_loading.load_split(str(tmp_path / "cut"), "train")
    last = source.entries[source.shard_starts()[2] - 1]
    # At a record's end: without the index the file would look whole.
    os.truncate(source.paths[1], int(last["record_offset"]))
    with pytest.raises(errors.DataError, match="the manifest says"):
        input_fn.train_input_fn(config(str(tmp_path / "cut")))
    os.remove(source.paths[1])
    with pytest.raises(errors.DataError, match="cannot read the shard"):
        input_fn.train_input_fn(config(str(tmp_path / "cut")))


def test_configurations_that_cannot_be(tiny, tmp_path, monkeypatch):
    for fields, text in (
        (dict(task="height"), "--task takes one of"),
        (dict(global_batch_size=0), "--global_batch_size must be between 1"),
        (dict(image_size=5000), "--image_size must be between"),
        (dict(features="image=a"), "--features describes --files"),
        (dict(cache_dir="http://a/b"), "--cache_dir=.* is not a local directory"),
        (dict(files="a.tfrecord"), "one of them; got both"),
    ):
        with pytest.raises(errors.UsageError, match=text):
            config(tiny, **fields)
    with pytest.raises(errors.UsageError, match="got neither"):
        input_fn.train_input_fn(input_fn.InputConfig())
    with pytest.raises(errors.UsageError, match="got neither"):
        input_fn.num_examples(input_fn.InputConfig(), "train")
    with pytest.raises(errors.UsageError, match="write_records has finished"):
        input_fn.train_input_fn(config(str(tmp_path)))
    with pytest.raises(errors.UsageError, match="no examples in split 'test'"):
        input_fn.eval_input_fn(config(tiny), "test")
    with pytest.raises(errors.UsageError, match="97 examples for 128 replicas"):
        input_fn.train_input_fn(
            config(tiny, global_batch_size=128), context(128, 0, 128)
        )
    with pytest.raises(errors.UsageError, match="start_step"):
        input_fn.train_input_fn(config(tiny), start_step=-1)
    monkeypatch.setattr(resources, "available_bytes", lambda: 10_000)
    with pytest.raises(errors.UsageError, match="takes .* are free: use a smaller"):
        input_fn.train_input_fn(config(tiny, cache="decoded"))


@pytest.mark.slow
def test_a_process_ends_without_error_while_the_pipeline_reads(sample_records):
    program = (
        "import itertools\nfrom afad_tfdata import input_fn\n"
        f"config = input_fn.InputConfig(records_dir={sample_records!r},"
        " global_batch_size=64, image_size=299, prefetch=8)\n"
        "iterator = iter(input_fn.train_input_fn(config))\n"
        "print(next(iterator)[0]['image'].shape)\n"
    )
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "64, 299, 299, 3" in done.stdout


@pytest.mark.slow
def test_memory_stays_flat_over_epochs(sample_records):
    dataset = input_fn.train_input_fn(config(sample_records, global_batch_size=64))
    steps = input_fn.num_examples(config(sample_records), "train") * 100 // 64
    iterator = iter(dataset)
    used = []
    for _ in range(4):
        for _ in range(steps):
            next(iterator)
        with open("/proc/self/status") as f:
            status = dict(line.split(":", 1) for line in f)
        used.append(int(status["RssAnon"].split()[0]) / 1024)
    assert used[-1] - used[0] < 8  # MiB; the first pass fills the pool of arrays.


def _alive(kind):
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def test_pipelines_that_are_gone_keep_nothing(tiny):
    before = _alive(mapped_reader.MappedReader), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for _ in input_fn.eval_input_fn(config(tiny, engine="mapped"), "train"):
            pass
        batches = iter(input_fn.train_input_fn(config(tiny, engine="mapped")))
        next(batches)
        del batches
    assert _alive(mapped_reader.MappedReader) == before[0]
    assert len(os.listdir("/proc/self/fd")) <= before[1] + 2


def test_an_iterator_keeps_its_pipeline(tiny, two_replicas):
    batches = iter(input_fn.train_input_fn(config(tiny, engine="mapped")))
    distributed = iter(
        two_replicas.distribute_datasets_from_function(
            lambda context: input_fn.train_input_fn(
                config(tiny, engine="mapped"), context
            )
        )
    )
    gc.collect()
    for _ in range(30):
        next(batches)
        next(distributed)


@pytest.mark.parametrize("kind", ["one shot", "initializable"])
def test_a_graph_keeps_its_pipeline(tiny, kind):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        dataset = input_fn.train_input_fn(config(tiny, engine="mapped"))
        if kind == "one shot":
            iterator = tf.compat.v1.data.make_one_shot_iterator(dataset)
        else:
            iterator = tf.compat.v1.data.make_initializable_iterator(dataset)
            session.run(iterator.initializer)
        features, _ = iterator.get_next()
        del dataset, iterator
        gc.collect()
        for _ in range(30):
            assert session.run(features["image"]).shape == (BATCH, 8, 8, 3)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_data_sets_can_be_built_where_tensorflow_traces(tiny, engine):
    """AutoGraph failed in the reading of the index, which was then called damaged."""
    fields = config(tiny, engine=engine)
    ages = index_loading.load_split(tiny, "train").entries["age"]

    @tf.function
    def total():
        found = tf.constant(0.0)
        for _, labels in input_fn.eval_input_fn(fields, "train"):
            found += tf.reduce_sum(labels["age"])
        return found

    assert float(total()) == float(total()) == ages.sum()
    twice = tf.data.Dataset.range(2).interleave(
        lambda _: input_fn.eval_input_fn(fields, "train")
    )
    trained = tf.data.Dataset.range(1).flat_map(
        lambda _: input_fn.train_input_fn(fields).take(2)
    )
    gc.collect()  # The objects of the inner data sets are gone.
    found = sum(labels["age"].sum() for _, labels in twice.as_numpy_iterator())
    assert found == 2 * ages.sum()
    wanted = take(input_fn.train_input_fn(fields), 2)
    for (image, _), (expected, _) in zip(take(trained, 2), wanted, strict=True):
        assert (image["image"] == expected["image"]).all()


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_relative_directories_hold_after_a_change_of_the_directory(
    tiny, tmp_path, monkeypatch, engine
):
    monkeypatch.chdir(pathlib.Path(tiny).parent)
    dataset = input_fn.eval_input_fn(
        config(pathlib.Path(tiny).name, engine=engine), "train"
    )
    monkeypatch.chdir(tmp_path)
    assert len(list(dataset.as_numpy_iterator()))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EMFILE, "Too many open files; raise the limit of open files"),
        (errno.EACCES, "Permission denied; its owner must permit it"),
    ],
)
def test_what_the_system_refuses_is_not_called_damaged(tiny, monkeypatch, number, text):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(np, "load", refuse)
        with pytest.raises(errors.UsageError, match=rf"cannot read .*\.npy: {text}"):
            input_fn.eval_input_fn(config(tiny), "train")
    monkeypatch.setattr(os.path, "getsize", refuse)
    with pytest.raises(errors.UsageError, match=f"cannot read .*: {text}"):
        input_fn.eval_input_fn(config(tiny), "train")


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_shards_without_records_are_read(tmp_path, engine):
    """There are more shards than images."""
    drawn_faces.make_sample(
        drawn_faces.SampleConfig(output_dir=tmp_path / "faces", num_images=30, seed=1)
    )
    records.write_records(
        records.WriteConfig(
            data_dir=tmp_path / "faces", output_dir=tmp_path / "records", num_shards=40
        )
    )
    fields = input_fn.InputConfig(
        records_dir=tmp_path / "records",
        engine=engine,
        image_size=16,
        global_batch_size=4,
        memory_budget_mib=1,
    )
    masks = [f["mask"] for f, _ in input_fn.eval_input_fn(fields, "train")]
    count = input_fn.num_examples(fields, "train")
    assert sum(int(mask.numpy().sum()) for mask in masks) == count
    assert len(take(input_fn.train_input_fn(fields), 2)) == 2
    result = input_benchmark.run(
        input_benchmark.BenchmarkConfig(
            records_dir=tmp_path / "records",
            engine=engine,
            image_size=16,
            batch_size=4,
            seconds=0.05,
            analyze=True,
        )
    )
    assert result.rates
