"""The order: uncorrelated permutations, the same for every number of pipelines."""

from __future__ import annotations

import math
import types

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from afad_tfdata.common import errors
from afad_tfdata.reading import order, replica_batches

AFAD = 165_501
PINNED_EPOCH_0 = [764, 554, 742, 921, 735, 788, 517, 682]
PINNED_FAR = [543, 736, 952, 336, 542, 160, 709, 2]
PINNED_BALANCED = [0, 4, 2, 5, 3, 0, 2, 1, 1, 2, 3, 0]


def records(stream: order.Order, start: int, stop: int) -> np.ndarray:
    return stream.records(np.arange(start, stop)).numpy()


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    n=st.integers(1, 300),
    seed=st.integers(-(1 << 63), (1 << 63) - 1),
    epoch=st.integers(0, 1 << 40),
)
@hypothesis.example(n=1, seed=0, epoch=0)  # The smallest permutation.
@hypothesis.example(n=2, seed=-1, epoch=1 << 40)
def test_every_epoch_is_a_permutation(n, seed, epoch):
    found = records(order.Order(n, seed), epoch * n, (epoch + 1) * n)
    assert sorted(found.tolist()) == list(range(n))


@pytest.mark.latest
def test_the_order_of_a_seed_does_not_change():
    # The order is an interface: runs that other versions started are continued by it.
    stream = order.Order(1000, 7)
    assert records(stream, 0, 8).tolist() == PINNED_EPOCH_0
    assert records(stream, 1000 * (1 << 33) - 4, 1000 * (1 << 33) + 4).tolist() == (
        PINNED_FAR
    )
    balanced = order.Order(6, 7, (np.array([0, 2]), np.array([1, 3, 4, 5])))
    assert records(balanced, 0, 12).tolist() == PINNED_BALANCED


def test_seeds_and_epochs_differ():
    n = 500
    epochs = [tuple(records(order.Order(n, 3), e * n, e * n + n)) for e in range(6)]
    others = [tuple(records(order.Order(n, s), 0, n)) for s in (4, 3 + (1 << 32), -3)]
    assert len({*epochs, *others}) == 9


def test_epochs_are_uncorrelated_at_the_size_of_afad():
    epochs = [
        records(order.Order(AFAD, 1), e * AFAD, (e + 1) * AFAD) for e in (0, 1, 2, 9)
    ]
    batch = 128
    full = AFAD // batch * batch
    per_batch = batch * (batch - 1) // 2
    chance = (full // batch) * per_batch * (batch - 1) / (AFAD - 1)
    for i, first in enumerate(epochs):
        assert abs(np.corrcoef(first, np.arange(AFAD))[0, 1]) < 0.02
        for second in epochs[i + 1 :]:
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
            # Pairs of records that share a batch in both epochs.
            where = np.zeros((2, AFAD), np.int64)
            where[0, first], where[1, second] = (np.arange(AFAD) // batch,) * 2
            kept = (where < full // batch).all(axis=0)
            cells = np.unique(where[0, kept] * AFAD + where[1, kept], return_counts=1)
            together = (cells[1] * (cells[1] - 1) // 2).sum()
            assert together == pytest.approx(chance, rel=0.05)


def test_balanced_order_draws_every_group_once_a_round():
    labels = np.array([0] * 30 + [1] * 5 + [2] * 1)
    groups = order.groups_by_label(labels)
    found = records(order.Order(36, 2, groups), 0, 3 * 600)
    drawn = labels[found].reshape(-1, 3)
    assert (np.sort(drawn, axis=1) == [0, 1, 2]).all()
    assert len({tuple(row) for row in drawn.tolist()}) == 6  # Rounds differ.
    for group in groups:  # Members follow one another in permutations.
        members = found[np.isin(found, group)][: len(group) * 20].reshape(20, -1)
        assert (np.sort(members, axis=1) == np.sort(group)).all()
    assert len({tuple(m) for m in found[labels[found] == 1].reshape(-1, 5)}) > 50


@pytest.mark.parametrize("n", [2, 3, 4])
def test_small_permutations_come_up_equally_often(n):
    stream = order.Order(n, 5, tuple(np.array([i]) for i in range(n)))
    found = records(stream, 0, n * 6000).reshape(-1, n)
    counts = np.unique(found, axis=0, return_counts=True)[1]
    expected = 6000 / math.factorial(n)
    assert len(counts) == math.factorial(n)
    # Chi-squared; 50 is beyond the 99.9 % point for 23 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 50


def context(pipelines: int, pipeline: int, replicas: int):
    return types.SimpleNamespace(
        num_input_pipelines=pipelines,
        input_pipeline_id=pipeline,
        num_replicas_in_sync=replicas,
    )


@pytest.mark.parametrize(
    ("pipelines", "replicas"),
    # A host with two devices has one pipeline and two replicas.
    [(1, 1), (1, 2), (2, 2), (2, 4), (4, 8), (8, 8), (4, 1)],
)
def test_slices_join_to_global_batches(pipelines, replicas):
    found = []
    for pipeline in range(pipelines):
        slices = replica_batches.ReplicaBatches.of_pipeline(
            16, context(pipelines, pipeline, replicas), pad=False
        )
        local = np.arange(slices.num_local_replicas)
        found.append(
            [
                slices.positions(step * slices.num_local_replicas + local).numpy()
                for step in (0, 5)
            ]
        )
    for i, step in enumerate((0, 5)):
        joined = np.concatenate([of_pipeline[i].ravel() for of_pipeline in found])
        assert joined.tolist() == list(range(step * 16, step * 16 + 16))


def test_a_batch_that_cannot_be_divided():
    of_pipeline = replica_batches.ReplicaBatches.of_pipeline
    with pytest.raises(errors.UsageError, match="--global_batch_size=10 .* 4 replicas"):
        of_pipeline(10, context(1, 0, 4), pad=False)
    padded = of_pipeline(10, context(1, 0, 4), pad=True)
    assert padded.per_replica_batch_size == 3
    assert padded.global_batch_size == 12
    assert padded.num_replicas == 4
    with pytest.raises(errors.UsageError, match="do not divide"):
        of_pipeline(12, context(2, 0, 3), pad=False)


def test_whole_permutations_depend_on_each_argument():
    base = order.permutation(97, 5, -1, tf.constant(3, tf.int64)).numpy()
    assert sorted(base.tolist()) == list(range(97))
    again = order.permutation(97, 5, -1, tf.constant(3, tf.int64)).numpy()
    np.testing.assert_array_equal(base, again)
    for seed, stream, epoch in ((6, -1, 3), (5, -2, 3), (5, -1, 4)):
        other = order.permutation(97, seed, stream, tf.constant(epoch, tf.int64))
        assert sorted(other.numpy().tolist()) == list(range(97))
        assert (other.numpy() == base).mean() < 0.2


@pytest.mark.parametrize("size, groups", [(100, 0), (5000, 0), (5000, 3)])
def test_a_stream_begins_like_it_goes_on(size, groups):
    """The first batches are computed in another way than those after them."""
    members = order.groups_by_label(np.arange(size) % groups) if groups else ()
    shuffle = order.Order(size, 3, members)
    # The second of two pipelines with one replica each.
    slices = replica_batches.ReplicaBatches(512, 1024, 1, 1)
    for start in (0, 7):
        stream = order.stream_batches(shuffle, slices, start)
        found = np.stack(list(stream.take(40).as_numpy_iterator()))
        steps = np.arange(start, start + 40)
        positions = steps[:, np.newaxis] * 1024 + 512 + np.arange(512)
        assert found.dtype == np.int64
        assert (found == shuffle.records(positions).numpy()).all()
