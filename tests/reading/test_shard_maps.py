"""Shards in one range of addresses, and what a process remembers of them."""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import pytest

from afad_tfdata.common import errors, resources
from afad_tfdata.reading import shard_maps


def write(path, offset: int, rows: np.ndarray) -> str:
    path.write_bytes(bytes(offset) + rows.tobytes() + b"end")
    return str(path)


# Rows of a prime number of bytes, of a multiple of a page, and in between.
@pytest.mark.parametrize(
    "row_bytes, offsets, pieces",
    [
        (7919, (3, 2048, 4097), 1),
        (12288, (4096, 0, 8192), 1),
        (12288, (2048, 0, 6144), 2),
        (67500, (15681, 27161, 2), 4),
        (4800, (64, 128, 0), 1),
        (4096, (1, 2, 3), None),
        (100, (4, 8, 12), None),
    ],
)
def test_rows_of_several_files_are_one_matrix(tmp_path, row_bytes, offsets, pieces):
    rng = np.random.default_rng(0)
    files = [rng.integers(0, 256, (4, row_bytes), np.uint8) for _ in offsets]
    paths = [
        write(tmp_path / str(i), offset, rows)
        for i, (offset, rows) in enumerate(zip(offsets, files, strict=True))
    ]
    maps = shard_maps.ShardMaps(paths, row_bytes, offsets)
    for shard, path in zip(maps.shards, paths, strict=True):
        with open(path, "rb") as f:
            assert shard.tobytes() == f.read()
    if pieces is None:
        assert maps.rows is None
        return
    assert maps.rows.pieces == pieces
    for first, rows in zip(maps.rows.first, files, strict=True):
        for number, row in enumerate(rows):
            begin = first + number * pieces
            found = maps.rows.matrix[begin : begin + pieces]
            assert found.tobytes() == row.tobytes()
    blank = maps.rows.matrix[maps.rows.blank : maps.rows.blank + pieces]
    assert blank.size == row_bytes and not blank.any()


def test_files_without_bytes_and_files_that_are_missing(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    path = str(tmp_path / "empty")
    assert [len(s) for s in shard_maps.ShardMaps([path]).shards] == [0]
    with pytest.raises(errors.DataError, match="cannot read .*missing: No such file"):
        shard_maps.ShardMaps([str(tmp_path / "missing")])


def test_maps_hold_no_descriptors(tmp_path):
    """There may be more shards than a process may open files."""
    paths = [write(tmp_path / str(i), 0, np.array([[i]], np.uint8)) for i in range(30)]
    before = len(os.listdir("/proc/self/fd"))
    maps = shard_maps.ShardMaps(paths)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [int(shard[0]) for shard in maps.shards] == list(range(30))


def mapped(path: str) -> bool:
    with open("/proc/self/maps") as f:
        return path in f.read()


def test_maps_are_given_back_with_the_last_array(tmp_path):
    path = write(tmp_path / "shard", 0, np.ones((3, 5000), np.uint8))
    maps = shard_maps.ShardMaps([path])
    part = maps.shards[0][10:20]
    descriptors = os.listdir("/proc/self/fd")
    del maps
    gc.collect()
    assert mapped(path) and part.all()
    del part
    gc.collect()
    assert not mapped(path) and len(os.listdir("/proc/self/fd")) <= len(descriptors)


def wait_for(maps: shard_maps.ShardMaps) -> shard_maps.ShardMaps:
    while maps._populating.locked():
        time.sleep(0.001)
    return maps


def test_parts_are_announced_when_their_pages_are_in_memory(tmp_path, monkeypatch):
    paths = [write(tmp_path / n, 0, np.ones((3, 5000), np.uint8)) for n in "ab"]
    monkeypatch.setattr(shard_maps, "_POPULATED_BYTES", 8192)
    user = np.empty(1)
    announced = []

    def loaded(given, shard, begin, end):
        announced.append((given is user, shard, begin, end))

    maps = shard_maps.ShardMaps(paths)
    maps.populate(user, loaded)
    wait_for(maps)
    parts = [(True, s, b, e) for s in (0, 1) for b, e in ((0, 8192), (8192, 15003))]
    assert announced == parts
    # Pages that could not be loaded must not be read: the disk may have failed.
    announced.clear()
    monkeypatch.setattr(shard_maps, "_advise_kernel", lambda address, size, advice: 1)
    maps = shard_maps.ShardMaps(paths)
    maps.populate(user, loaded)
    wait_for(maps)
    assert not announced


# Outside of tests, an error that leaves a thread is a traceback on standard error.
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_what_is_done_with_loaded_parts_stays_silent(tmp_path):
    path = write(tmp_path / "shard", 0, np.ones((3, 5000), np.uint8))
    user, calls = np.empty(1), []

    def loaded(*part):
        calls.append(part)
        raise MemoryError

    maps = shard_maps.ShardMaps([path])
    maps.populate(user, loaded)
    wait_for(maps)
    assert len(calls) == 1 and maps._populated


def test_pages_are_brought_in_if_they_fit(tmp_path, monkeypatch):
    path = write(tmp_path / "shard", 0, np.ones((300, 5000), np.uint8))
    advised = []
    monkeypatch.setattr(
        shard_maps, "_advise_kernel", lambda *call: advised.append(call) or 0
    )

    user = array = np.empty(1)
    maps = shard_maps.ShardMaps([path])
    maps.populate(user)
    wait_for(maps).populate(user)  # The second time there is nothing left to do.
    wait_for(maps)
    assert sum(size for _, size, _ in advised) == os.path.getsize(path)
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)
    advised.clear()
    maps = shard_maps.ShardMaps([path])
    maps.populate(array)
    assert not maps.fits_in_memory and not advised
    maps.will_need([0], [5000], [10_000])
    ((address, size, _),) = advised
    begin = maps.shards[0].ctypes.data + 5000
    assert address % 4096 == 0 and address <= begin < address + size
    assert address + size == begin + 5000
