"""Pipelines that share a graph read their own records, and end as others do."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from afad_tfdata import input_fn, records
from afad_tfdata.reading import engine_mapped, function_tracing


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Multiplies the numbers of a batch, and takes elements of a table."""

    factor: int

    def __call__(self, batch, table):
        return {"taken": tf.gather(table, batch)}, batch * self.factor


def batches(keeps=None, *, factor=2, table=(5.0, 6.0, 7.0, 8.0)) -> tf.data.Dataset:
    numbers = tf.data.Dataset.range(4).batch(2, drop_remainder=True)
    return function_tracing.map_by_shared_graph(
        numbers, Scaled(factor), [tf.constant(table)], 2, keeps
    )


def test_a_graph_is_built_once_for_functions_that_are_equal():
    built = function_tracing._shared_graph.cache_info().misses
    first, second = list(batches()), list(batches(table=(1.0, 2.0, 3.0, 4.0)))
    assert function_tracing._shared_graph.cache_info().misses <= built + 1
    assert [part["taken"].numpy().tolist() for part, _ in first] == [[5, 6], [7, 8]]
    assert [part["taken"].numpy().tolist() for part, _ in second] == [[1, 2], [3, 4]]
    assert [number.numpy().tolist() for _, number in second] == [[0, 2], [4, 6]]
    assert next(iter(batches(factor=3)))[1].numpy().tolist() == [0, 3]


def test_the_mapped_data_set_is_described_as_that_of_map():
    plain = tf.data.Dataset.range(4).batch(2, drop_remainder=True)
    plain = plain.map(lambda batch: Scaled(2)(batch, tf.constant([1.0] * 4)))
    assert batches().element_spec == plain.element_spec
    assert batches().cardinality() == plain.cardinality()


def test_a_data_set_keeps_the_object_and_needs_no_cached_graph():
    class Kept:
        """Something that an argument refers to."""

    kept = Kept()
    seen = weakref.ref(kept)
    dataset = batches(kept).prefetch(1)
    del kept
    function_tracing._shared_graph.cache_clear()
    gc.collect()
    iterator = iter(dataset)
    del dataset
    gc.collect()
    assert seen() is not None
    assert next(iterator)[1].numpy().tolist() == [0, 2]
    del iterator
    gc.collect()
    assert seen() is None


def test_in_a_graph_the_function_is_built_there():
    with tf.Graph().as_default():
        numbers = tf.data.Dataset.range(4).batch(2, drop_remainder=True)
        mapped = function_tracing.map_by_shared_graph(
            numbers, Scaled(2), [tf.constant([5.0, 6.0, 7.0, 8.0])], 2, None
        )
        element = tf.compat.v1.data.make_initializable_iterator(mapped)
        taken = element.get_next()
        with tf.compat.v1.Session() as session:
            session.run(element.initializer)
            assert session.run(taken)[0]["taken"].tolist() == [5, 6]


@pytest.fixture(scope="module", params=["original", "raw"])
def two_data_sets(request, sample_tree, tmp_path_factory) -> list[str]:
    """Two data sets of the same form, of which the images are in different order."""
    places = [str(tmp_path_factory.mktemp("sets") / f"{i}") for i in range(2)]
    for seed, place in enumerate(places):
        records.write_records(
            records.WriteConfig(
                data_dir=sample_tree,
                output_dir=place,
                image_size=32,
                image_encoding=request.param,
                num_shards=2,
                num_workers=1,
                seed=seed,
            )
        )
    return places


def read(place: str, *, train: bool):
    """An iterator over the batches of a data set."""
    config = input_fn.InputConfig(
        records_dir=place, engine="mapped", global_batch_size=4, image_size=32
    )
    if train:
        return iter(input_fn.train_input_fn(config))
    return iter(input_fn.eval_input_fn(config, "train"))


def images(iterator, count: int) -> np.ndarray:
    return np.concatenate([next(iterator)[0]["image"].numpy() for _ in range(count)])


@pytest.mark.parametrize("train", [True, False])
def test_each_pipeline_reads_its_own_data_set(two_data_sets, train):
    alone = []
    for place in two_data_sets:
        function_tracing._shared_graph.cache_clear()
        alone.append(images(read(place, train=train), 6))
    assert not np.array_equal(*alone)
    # All pages are checked now, so that both graphs are those of later pipelines.
    iterators = [read(place, train=train) for place in two_data_sets]
    together = [[], []]
    for _ in range(6):
        for found, iterator in zip(together, iterators, strict=True):
            found.append(images(iterator, 1))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_a_second_pipeline_builds_no_graph(two_data_sets):
    place = two_data_sets[0]
    images(read(place, train=False), 6)  # Checks the first records.
    for _ in range(2):
        images(read(place, train=True), 30)
    built = function_tracing._shared_graph.cache_info().misses
    images(read(place, train=True), 2)
    assert function_tracing._shared_graph.cache_info().misses == built


def test_readers_end_with_their_pipelines(two_data_sets):
    gc.collect()
    before = len(engine_mapped._readers)
    iterator = read(two_data_sets[0], train=True)
    images(iterator, 2)
    assert len(engine_mapped._readers) == before + 1
    del iterator
    gc.collect()
    assert len(engine_mapped._readers) == before
