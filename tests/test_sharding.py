"""Names, splits and places: tables and statistics, no TensorFlow."""

from __future__ import annotations

import collections

import pytest

from afad_tfdata import sharding


@pytest.mark.parametrize(
    ("key", "photo"),
    [
        ("15/111/1032-0.jpg", "1032"),
        ("15/111/1032-11.JPEG", "1032"),
        ("1032-0.jpg", "1032"),
        # No photo id: other data sets' names, and names that only look alike.
        ("15/111/image_0001.png", None),
        ("15/111/1032.jpg", None),
        ("15/111/a1032-0.jpg", None),
        ("15/1032-0.jpg/x.jpg", None),
    ],
)
def test_photo_id(key, photo):
    assert sharding.photo_id(key) == photo


def test_group_is_the_photo_or_the_key():
    assert sharding.group_key("1/111/7-0.jpg", "photo") == sharding.group_key(
        "2/112/7-3.jpg", "photo"
    )
    assert sharding.group_key("1/111/7-0.jpg", "image") == "1/111/7-0.jpg"
    # The same file name in two folders stays two groups where there is no photo id.
    assert sharding.group_key("1/111/a.png", "photo") != sharding.group_key(
        "2/111/a.png", "photo"
    )


def test_split_fractions_are_the_originals():
    """20 % of all, then 20 % of the rest: 64/16/20."""
    counts = collections.Counter(
        sharding.split_of(str(i), seed=3, test_fraction=0.2, validation_fraction=0.2)
        for i in range(20_000)
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
    seen = {
        sharding.split_of(
            str(i),
            seed=1,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
        )
        for i in range(200)
    }
    assert seen == splits


def test_split_and_place_are_pinned():
    """A change here moves every record of every data set: it is an API change."""
    key = "15/111/1032008506960-0.jpg"
    assert sharding.place_of(key, seed=1) == 14506812863689936806
    assert sharding.salted_hash(1, "split", "photo:1032008506960") == (
        18400082324576479275
    )


def test_split_and_place_are_independent():
    both = collections.Counter(
        (
            sharding.split_of(k, seed=1, test_fraction=0.5, validation_fraction=0),
            sharding.shard_of(sharding.place_of(k, seed=1), 2),
        )
        for k in map(str, range(8000))
    )
    assert all(1850 < count < 2150 for count in both.values()) and len(both) == 4


def test_shards_are_ranges_of_the_places():
    places = sorted(sharding.place_of(str(i), seed=1) for i in range(1000))
    shards = [sharding.shard_of(place, 7) for place in places]
    assert shards == sorted(shards) and set(shards) == set(range(7))
    assert sharding.shard_of(2**64 - 1, 7) == 6 and sharding.shard_of(0, 7) == 0


def test_names():
    assert (
        sharding.shard_name("afad", "train", 3, 16, "tfrecord")
        == "afad-train.tfrecord-00003-of-00016"
    )
    assert (
        sharding.shard_name("afad", "test", 0, 1, "hdf5")
        == "afad-test-00000-of-00001.h5"
    )


def test_keys_of_any_bytes_can_be_hashed():
    """File names on Linux are bytes; Python hands odd ones over as surrogates."""
    odd = b"15/111/\xff-0.jpg".decode("utf-8", "surrogateescape")
    assert 0 <= sharding.place_of(odd, seed=1) < 2**64
