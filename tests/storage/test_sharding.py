"""Splits, places and shards: tables and statistics, no TensorFlow."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from afad_tfdata.storage import sharding


def _splits(keys, **options):
    found = sharding.splits_of(keys, **options)
    return [sharding.SPLITS[number] for number in found]


def test_split_fractions_equal_those_of_the_original_project():
    """20 % of all, then 20 % of the rest: 64/16/20."""
    keys = map(str, range(20_000))
    counts = collections.Counter(
        _splits(keys, seed=3, test_fraction=0.2, validation_fraction=0.2)
    )
    shares = [counts[split] / 20_000 for split in sharding.SPLITS]
    assert shares == pytest.approx([0.64, 0.16, 0.20], abs=0.012)


@pytest.mark.parametrize(
    ("test_fraction", "validation_fraction", "splits"),
    [
        (0.0, 0.0, {"train"}),
        (1.0, 0.0, {"test"}),
        (0.0, 1.0, {"validation"}),
        (0.5, 0.0, {"train", "test"}),
    ],
)
def test_split_corner_fractions(test_fraction, validation_fraction, splits):
    seen = _splits(
        map(str, range(200)),
        seed=1,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )
    assert set(seen) == splits


def test_split_and_place_are_pinned():
    """A change here moves every record of every data set: it is an API change."""
    key = "15/111/1032008506960-0.jpg"
    assert sharding.places_of([key], seed=1).tolist() == [14506812863689936806]
    assert sharding.salted_hashes(1, "split", ["photo:1032008506960"]).tolist() == [
        18400082324576479275
    ]


def test_one_key_more_moves_no_other():
    keys = [f"15/111/{i}-0.jpg" for i in range(100)]
    fewer = [key for i, key in enumerate(keys) if i % 7]
    by_key = dict(zip(keys, sharding.places_of(keys, seed=1), strict=True))
    places = sharding.places_of(fewer, seed=1)
    assert places.tolist() == [by_key[key] for key in fewer]


def test_split_and_place_are_independent():
    keys = list(map(str, range(8000)))
    splits = _splits(keys, seed=1, test_fraction=0.5, validation_fraction=0)
    shards = sharding.shards_of(sharding.places_of(keys, seed=1), 2)
    both = collections.Counter(zip(splits, shards.tolist(), strict=True))
    assert all(1850 < count < 2150 for count in both.values()) and len(both) == 4


@pytest.mark.parametrize("num_shards", [1, 2, 7, 4096, 65_535])
def test_shards_are_equal_ranges_of_the_places(num_shards):
    places = np.sort(sharding.places_of(map(str, range(1000)), seed=1))
    # The corners, and the last shard's first place with the one before it.
    edge = -(-((num_shards - 1) << 64) // num_shards)
    corners = [0, 2**32 - 1, 2**32, 2**64 - 1, edge, max(0, edge - 1)]
    places = np.concatenate([places, np.array(corners, np.uint64)])
    wanted = [int(place) * num_shards >> 64 for place in places]
    assert sharding.shards_of(places, num_shards).tolist() == wanted


def test_keys_of_any_bytes_can_be_hashed():
    """File names on Linux are bytes; Python represents odd ones by surrogates."""
    odd = b"15/111/\xff-0.jpg".decode("utf-8", "surrogateescape")
    other = odd.replace("\udcff", "\udcfe")
    assert len(set(sharding.places_of([odd, other], seed=1).tolist())) == 2
