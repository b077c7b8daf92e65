"""Both engines and every form of records give the same images in the same order."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import sys
import types

import numpy as np
import pytest

from afad_tfdata import input_fn, records
from afad_tfdata.common import errors, resources, tensorflow_io_extra
from afad_tfdata.reading import (
    array_pool,
    bad_records,
    engine_choice,
    index_loading,
    mapped_reader,
    memory_store,
    record_index,
    shard_maps,
)
from afad_tfdata.storage import schema

FORMS = {
    "original": {},
    "jpeg": {"image_encoding": "jpeg"},
    "raw": {"image_encoding": "raw"},
    "hdf5": {"format": "hdf5"},
    "hdf5_float_first": {
        "format": "hdf5",
        "hdf5_dtype": "float32",
        "hdf5_channels": "first",
    },
    "hdf5_gzip": {"format": "hdf5", "hdf5_compression": "gzip"},
}


@pytest.fixture(scope="module", params=FORMS)
def form(request, sample_tree, tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("forms") / request.param)
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            image_size=40,
            num_shards=3,
            num_workers=1,
            **FORMS[request.param],
        )
    )
    return directory


def config(directory: str, engine: str, **fields) -> input_fn.InputConfig:
    return input_fn.InputConfig(
        records_dir=directory, engine=engine, global_batch_size=16, **fields
    )


def take(dataset, count: int | None = None) -> list:
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second) > 0
    for (features, labels), (others, other_labels) in zip(first, second, strict=True):
        difference = features["image"].astype(int) - others["image"]
        assert np.abs(difference).max() <= 1
        for name, values in labels.items():
            assert (values == other_labels[name]).all()
        if "mask" in features:
            assert (features["mask"] == others["mask"]).all()


@pytest.mark.latest
@pytest.mark.parametrize("size", [0, 33])
def test_engines_and_caches_give_the_same(form, size):
    fields = {"image_size": size}
    mapped = take(
        input_fn.train_input_fn(config(form, "mapped", **fields), start_step=3), 12
    )
    for engine, cache in (
        ("graph", "none"),
        ("graph", "decoded"),
        ("mapped", "decoded"),
        ("mapped", "encoded"),
    ):
        other = input_fn.train_input_fn(
            config(form, engine, cache=cache, **fields), start_step=3
        )
        # 12 steps are more than an epoch: cached images are read again.
        assert_same(mapped, take(other, 12))
    assert_same(
        take(input_fn.eval_input_fn(config(form, "mapped", **fields))),
        take(input_fn.eval_input_fn(config(form, "graph", **fields))),
    )


@pytest.mark.latest
@pytest.mark.parametrize("size", [0, 33])
def test_engines_and_caches_decode_fast_alike(form, size):
    def read(decode, engine, **more):
        fields = config(form, engine, image_size=size, decode=decode, **more)
        return take(input_fn.eval_input_fn(fields, "train"))

    found = read("fast", "mapped")
    assert_same(found, read("fast", "graph"))
    for engine in ("mapped", "graph"):
        assert_same(found, read("fast", engine, cache="decoded"))
    accurate = read("accurate", "mapped")
    differences = [
        np.abs(one["image"].astype(int) - other["image"]).mean()
        for (one, _), (other, _) in zip(found, accurate, strict=True)
    ]
    if os.path.basename(form) in ("original", "jpeg"):
        assert min(differences) > 0.2  # Otherwise the option would have no effect.
    else:
        assert max(differences) == 0


def test_gathered_rows_are_those_that_python_copies(form, monkeypatch):
    """From the second epoch on, TensorFlow gathers stored pixels."""
    read = mapped_reader.MappedReader.read
    calls = []

    def counted(reader, records):
        calls.append(len(records))
        return read(reader, records)

    monkeypatch.setattr(mapped_reader.MappedReader, "read", counted)
    fields = config(form, "mapped")
    count = input_fn.num_examples(fields, "train")
    first_epoch = -(-count // 16)
    found = take(input_fn.train_input_fn(fields), 2 * first_epoch)
    late = len(calls)
    again = take(input_fn.train_input_fn(fields), 2 * first_epoch)
    evaluated = take(input_fn.eval_input_fn(fields, "train"))
    gathers = os.path.basename(form) == "hdf5"
    assert (len(calls) == late) == gathers
    assert_same(found, again)
    # A copy has other files, of which nothing is known.
    shutil.copytree(form, form + "_copy")
    try:
        copy = config(form + "_copy", "mapped")
        assert_same(found, take(input_fn.train_input_fn(copy), 2 * first_epoch))
        assert_same(evaluated, take(input_fn.eval_input_fn(copy, "train")))
    finally:
        shutil.rmtree(form + "_copy")


@pytest.mark.parametrize("size", [0, 33])
def test_graph_engine_reads_rows_without_holding_them(form, size, monkeypatch):
    if os.path.basename(form) not in ("hdf5", "hdf5_float_first"):
        pytest.skip("not stored as rows")
    fields = config(form, "mapped", image_size=size)
    wanted = take(input_fn.train_input_fn(fields, start_step=3), 12)
    evaluated = take(input_fn.eval_input_fn(fields, "train"))

    def hold(*_, **__):
        raise AssertionError("the data set is held in memory")

    monkeypatch.setattr(memory_store, "load_store", hold)
    # So little memory that other forms would be shuffled in a window.
    fields = config(form, "graph", image_size=size, memory_budget_mib=1)
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    shard_maps.forget_maps()
    # The second pipeline reads what the first one checked.
    for _ in range(2):
        assert_same(wanted, take(input_fn.train_input_fn(fields, start_step=3), 12))
    assert_same(evaluated, take(input_fn.eval_input_fn(fields, "train")))


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_rows_that_do_not_fit_in_memory_are_asked_for(form, engine, monkeypatch):
    """All rows of a batch at once: page faults would read one after the other."""
    source = index_loading.load_split(form, "train")
    if not source.contiguous or (engine == "graph" and source.format != "hdf5"):
        pytest.skip("not mapped")
    fields = config(form, engine)
    wanted = take(input_fn.train_input_fn(fields), 12)
    evaluated = take(input_fn.eval_input_fn(fields, "train"))
    asked_for: list[tuple[int, int]] = []

    def will_need(maps, shards, begins, ends):
        asked_for.extend(zip(shards, begins, strict=True))

    monkeypatch.setattr(shard_maps.ShardMaps, "will_need", will_need)
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    shard_maps.forget_maps()
    # The second pipeline knows that all checksums are right.
    for _ in range(2):
        asked_for.clear()
        assert_same(evaluated, take(input_fn.eval_input_fn(fields, "train")))
        places = source.entries[["shard", "image_offset"]].tolist()
        assert set(asked_for) >= set(places)
        asked_for.clear()
        assert_same(wanted, take(input_fn.train_input_fn(fields), 12))
        assert len(asked_for) >= 12 * 16
    shard_maps.forget_maps()


def test_images_are_those_of_the_writer(form):
    """Stored pixels come out as they were stored."""
    if form.endswith(("original", "jpeg")):
        pytest.skip("not stored as pixels")
    source = index_loading.load_split(form, "test")
    (features, labels), *_ = take(input_fn.eval_input_fn(config(form, "mapped")))
    if source.format == "hdf5":
        import h5py

        with h5py.File(source.paths[0]) as f:
            stored, ages = np.asarray(f["data"][:2]), np.asarray(f["age"][:2])
        if stored.shape[1] == 3:
            stored = stored.transpose(0, 2, 3, 1)
        assert (features["image"][:2] == stored).all()
        assert (labels["age"][:2] == ages).all()


def test_evaluation_that_does_not_fit_gives_the_same(form, monkeypatch, caplog):
    if form.endswith("gzip"):
        pytest.importorskip("tensorflow_io")
    wanted = take(input_fn.eval_input_fn(config(form, "mapped"), "train"))
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    found = take(input_fn.eval_input_fn(config(form, "graph"), "train"))
    assert_same(wanted, found)
    assert "shuffled" not in caplog.text  # Evaluation never shuffles.


def test_without_tensorflow_io_compressed_pixels_that_do_not_fit_are_refused(
    form, monkeypatch
):
    if not form.endswith("gzip"):
        pytest.skip("other forms are streamed by TensorFlow alone")
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    # tensorflow-io may import where its libraries do not load.
    reason = "tensorflow-io 0.37.1 does not load on TensorFlow 2.21.0"
    monkeypatch.setattr(tensorflow_io_extra, "why_no_hdf5", lambda: reason)
    with pytest.raises(errors.UsageError) as caught:
        take(input_fn.train_input_fn(config(form, "graph")), 1)
    text = str(caught.value)
    assert reason in text and "\n" not in text
    assert "--memory_budget_mib" in text and "--engine=mapped" in text
    assert "pip install 'afad-tfdata[io]'" in text


def test_training_on_compressed_pixels_that_do_not_fit(form, monkeypatch):
    if not form.endswith("gzip"):
        pytest.skip("other forms are in the tests of the streaming fixture")
    pytest.importorskip("tensorflow_io")
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    fields = config(form, "graph", shuffle_window=30)
    count = input_fn.num_examples(fields, "train")
    found = keys(take(input_fn.train_input_fn(fields), 2 * count // 16))
    assert len(set(found[:count])) == count
    resumed = keys(take(input_fn.train_input_fn(fields, start_step=3), 4))
    assert resumed == found[3 * 16 : 7 * 16]
    # Two replicas of one pipeline get the halves of each batch in turn.
    context = types.SimpleNamespace(
        num_input_pipelines=1, input_pipeline_id=0, num_replicas_in_sync=2
    )
    halves = take(input_fn.train_input_fn(fields, context), 8)
    assert {len(features["image"]) for features, _ in halves} == {8}
    assert keys(halves) == found[: 4 * 16]


@pytest.mark.parametrize("memory", [1000, 1 << 30])
def test_remote_shards_are_read_by_the_graph_engine(
    sample_records, monkeypatch, memory
):
    import tensorflow as tf

    target = f"ram://{memory}"
    for name in os.listdir(sample_records):
        with open(os.path.join(sample_records, name), "rb") as f:
            with tf.io.gfile.GFile(f"{target}/{name}", "wb") as out:
                out.write(f.read())
    fields = config(target, "auto")
    source = index_loading.open_index(fields, "train")
    name, reason = engine_choice.choose(fields, source)
    assert name == "graph" and "remote" in reason
    with pytest.raises(errors.UsageError, match="--engine=mapped needs local files"):
        input_fn.train_input_fn(config(target, "mapped"))
    local = config(sample_records, "mapped")
    monkeypatch.setattr(resources, "available_bytes", lambda: memory)
    assert_same(
        take(input_fn.eval_input_fn(local)), take(input_fn.eval_input_fn(fields))
    )
    found = take(input_fn.train_input_fn(fields, start_step=2), 4)
    if memory > 1000:  # Kept in memory, in the order of the mapped engine.
        assert_same(take(input_fn.train_input_fn(local, start_step=2), 4), found)


def test_a_damaged_record_is_not_skipped_in_a_stream(sample_records, tmp_path):
    shutil.copytree(sample_records, tmp_path / "bad")
    source = index_loading.load_split(str(tmp_path / "bad"), "test")
    with open(source.paths[0], "r+b") as f:
        f.seek(int(source.entries["image_offset"][1]) + 20)
        f.write(b"\0\xff\0")
    dataset = input_fn.eval_input_fn(config(str(tmp_path / "bad"), "graph"))
    with pytest.raises(errors.DataError, match="inspect-records --verify names it"):
        with input_fn.readable_errors():
            take(dataset)


@pytest.mark.slow
def test_graph_engine_feeds_a_data_service(sample_records):
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    worker = service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
    fields = config(sample_records, "graph", image_size=24)
    dataset = input_fn.eval_input_fn(fields).apply(
        service.distribute(service.ShardingPolicy.OFF, dispatcher.target)
    )
    assert_same(take(input_fn.eval_input_fn(fields)), take(dataset))
    del worker


@pytest.fixture
def streaming(sample_records, monkeypatch):
    """A configuration whose images do not fit the graph engine's memory."""
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    return config(sample_records, "graph", shuffle_window=40, image_size=16)


def keys(elements: list) -> list[bytes]:
    return [image.tobytes() for features, _ in elements for image in features["image"]]


def test_records_that_do_not_fit_are_shuffled_in_a_window(streaming, caplog):
    caplog.set_level(logging.INFO)
    count = input_fn.num_examples(streaming, "train")
    first = keys(take(input_fn.train_input_fn(streaming), 40))
    assert "window of 40 records" in caplog.text
    assert keys(take(input_fn.train_input_fn(streaming), 40)) == first
    epochs = [first[i * count : (i + 1) * count] for i in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len(set(epochs[0])) == count
    for step in (1, 13, 27):
        resumed = input_fn.train_input_fn(streaming, start_step=step)
        assert keys(take(resumed, 5)) == first[step * 16 : (step + 5) * 16]


def test_windowed_shuffling_cannot_balance_or_skip(streaming, sample_records):
    for fields, text in (
        (dict(balance="age"), "--balance .* raise --memory_budget_mib"),
        (dict(max_bad_records=1), "raise --memory_budget_mib, or use --engine=mapped"),
    ):
        with pytest.raises(errors.UsageError, match=text):
            input_fn.train_input_fn(config(sample_records, "graph", **fields))


def test_arrays_are_aligned_and_used_again():
    pool = array_pool.ArrayPool()
    first = pool.take((4, 5, 5, 3))
    assert first.ctypes.data % 64 == 0 and first.flags.c_contiguous
    row = first[2]
    second = pool.take((4, 5, 5, 3))
    assert not np.shares_memory(first, second)
    address = first.ctypes.data
    del first
    assert pool.take((4, 5, 5, 3)).ctypes.data != address  # A row of it is in use.
    del row
    assert pool.take((4, 5, 5, 3)).ctypes.data == address
    assert len(pool) == 3


def test_no_batch_changes_while_it_is_in_use(sample_records):
    """The pool must not recycle the array of a batch that a program still has."""
    dataset = input_fn.train_input_fn(config(sample_records, "mapped"))
    batches, copies = [], []
    for features, _ in itertools.islice(dataset.as_numpy_iterator(), 30):
        batches.append(features["image"])
        copies.append(features["image"].copy())
    assert all((a == b).all() for a, b in zip(batches, copies, strict=True))


def test_the_pool_of_arrays_does_not_grow(sample_records):
    pool = array_pool.shared_pool()
    gc.collect()
    pool.trim()
    before = len(pool)
    for _ in range(3):  # Pipelines share the arrays.
        iterator = iter(input_fn.train_input_fn(config(sample_records, "mapped")))
        for _ in range(100):
            next(iterator)
    del iterator
    assert len(pool) < before + 20


def test_arrays_that_nothing_uses_are_given_back():
    pool = array_pool.ArrayPool()
    arrays = [pool.take((64, 1 << 20)) for _ in range(8)]
    pool.trim()
    assert len(pool) == 8
    del arrays
    pool.trim()
    assert len(pool) == 3  # 256 MiB, less what aligns them.


def test_choice_of_engine(sample_records, monkeypatch):
    fields = config(sample_records, "auto")
    source = index_loading.open_index(fields, "train")
    name, reason = engine_choice.choose(fields, source, cores=2)
    assert name == "mapped" and "simplejpeg" in reason and "2 threads" in reason
    # With so many cores the interpreter lock of one process is the limit.
    name, reason = engine_choice.choose(fields, source, cores=64)
    assert name == "graph" and "64 cores" in reason


@pytest.mark.parametrize("module, title", [("cv2", "OpenCV"), ("simplejpeg",) * 2])
def test_without_a_library_the_graph_engine_decodes(
    sample_records, monkeypatch, module, title
):
    monkeypatch.setitem(sys.modules, module, None)
    fields = config(sample_records, "auto", decode="fast")
    source = index_loading.open_index(fields, "train")
    name, reason = engine_choice.choose(fields, source, cores=2)
    assert name == "graph"
    assert reason == f"{title} is missing: pip install 'afad-tfdata[fast]'"
    assert len(take(input_fn.train_input_fn(fields), 2)) == 2
    with pytest.raises(errors.UsageError, match=f"--engine=mapped needs {module}"):
        input_fn.train_input_fn(config(sample_records, "mapped"))


def test_the_choice_is_logged(sample_records, caplog):
    caplog.set_level(logging.INFO)
    input_fn.train_input_fn(config(sample_records, "auto"))
    (line,) = [r.getMessage() for r in caplog.records if "engine" in r.getMessage()]
    assert line.startswith("input: mapped engine for train (local shards")


def test_a_reader_needs_no_tensorflow_dataset(sample_records):
    source = index_loading.load_split(sample_records, "test")
    reader = mapped_reader.MappedReader(source, 24, bad_records.BadRecords(source, 0))
    images, ages, genders, mask = reader.read(np.array([2, -1, 0]))
    assert images.shape == (3, 24, 24, 3) and mask.tolist() == [True, False, True]
    assert ages.tolist() == [source.entries["age"][2], 0.0, source.entries["age"][0]]
    assert genders[1] == 0 and not images[1].any()


def test_shards_begin_where_the_index_says():
    shards = np.array([0, 0, 2, 2, 2, 5], np.uint16)
    entries = np.zeros(6, schema.INDEX_DTYPE)
    entries["shard"] = shards
    source = record_index.RecordIndex(
        paths=tuple("abcdef"),
        entries=entries,
        format="tfrecord",
        stored_size=0,
        image_size=0,
        pixel={},
        dataset="",
        labels=(),
        mean_rgb=None,
        split="train",
        features={},
    )
    assert source.shard_starts().tolist() == [0, 2, 2, 5, 5, 5, 6]
