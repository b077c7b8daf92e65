"""The CRC-32 of stored images is zlib's, whichever library computes it."""

from __future__ import annotations

import importlib
import sys
import zlib

import numpy as np
import pytest

from afad_tfdata.common import crc32


@pytest.fixture(params=["isal", "zlib_ng", "zlib"])
def library(request, monkeypatch):
    """The module as if only this library were installed."""
    if request.param != "zlib":
        pytest.importorskip(request.param)
    for other in {"isal", "zlib_ng"} - {request.param}:
        monkeypatch.setitem(sys.modules, other, None)
        monkeypatch.setitem(sys.modules, f"{other}.{other}", None)
        monkeypatch.setitem(sys.modules, f"{other}.{other}_zlib", None)
    module = importlib.reload(crc32)
    assert request.param == module.LIBRARY
    yield module
    monkeypatch.undo()
    importlib.reload(crc32)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 63, 64, 4095, 5121, 67500])
def test_each_library_has_the_values_of_zlib(library, length):
    data = np.random.default_rng(length).bytes(length)
    assert library.crc32(data) == zlib.crc32(data)
    assert library.crc32(data, 77) == zlib.crc32(data, 77)


def test_the_value_is_that_of_the_standard(library):
    assert library.crc32(b"123456789") == 0xCBF43926


def test_buffers_of_any_form_are_not_copied_first(library):
    rows = np.random.default_rng(1).integers(0, 256, (4, 5, 3), np.uint8)
    for data in (rows, memoryview(rows), rows[2], memoryview(rows.tobytes())[7:]):
        assert library.crc32(data) == zlib.crc32(bytes(data))
    with pytest.raises(ValueError, match="contiguous"):
        library.crc32(rows[:, ::2])


def test_parts_give_the_value_of_the_whole(library):
    data = bytes(range(256)) * 40
    assert library.crc32(data[9000:], library.crc32(data[:9000])) == zlib.crc32(data)


@pytest.mark.parametrize("row_bytes", [1, 7, 192, 4800])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_blocks_have_the_checksum_of_their_bytes(count, row_bytes):
    rows = np.random.default_rng(count).integers(0, 256, (count, row_bytes), np.uint8)
    found = crc32.block_checksums(
        np.array([zlib.crc32(row) for row in rows], np.uint32), row_bytes
    )
    step = crc32.BLOCK_ROWS
    starts = range(0, count, step)
    assert found.tolist() == [zlib.crc32(rows[s : s + step]) for s in starts]
