"""The checksum of several rows follows from those of the rows."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from afad_tfdata.reading import batch_checksums


@pytest.mark.parametrize("row_bytes", [1, 7, 192, 4800])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_blocks_have_the_checksum_of_their_bytes(count, row_bytes):
    rows = np.random.default_rng(count).integers(0, 256, (count, row_bytes), np.uint8)
    found = batch_checksums.of_blocks(
        np.array([zlib.crc32(row) for row in rows], np.uint32), row_bytes
    )
    step = batch_checksums.BLOCK_ROWS
    starts = range(0, count, step)
    assert found.tolist() == [zlib.crc32(rows[s : s + step]) for s in starts]
