"""HDF5 shards: layouts of rows, compressed rows, links of older programs."""

import os

import h5py
import numpy as np
import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import hdf5

_IMAGES = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), np.uint8)


def _write(path, layout, compression="none", labels="gender"):
    return hdf5.write(
        str(path),
        iter((_IMAGES[:3], _IMAGES[3:])),
        layout=layout,
        ages=[20, 21, 22, 23, 24],
        genders=[0, 1, 0, 1, 1],
        filenames=[b"20/111/a.jpg", b"b", b"c", b"d", b"e"],
        compression=compression,
        labels=labels,
    )


@pytest.mark.parametrize("dtype", hdf5.DTYPES)
@pytest.mark.parametrize("channels", hdf5.CHANNELS)
@pytest.mark.parametrize("compression", hdf5.COMPRESSIONS)
def test_rows_are_what_the_layout_says(dtype, channels, compression, tmp_path):
    path = tmp_path / "shard.h5"
    layout = hdf5.RowLayout(4, dtype, channels)
    offset = _write(path, layout, compression)
    with h5py.File(path) as file:
        assert file["data"].shape == (5, *layout.shape)
        assert file["data"].dtype == dtype
        stored = file["data"][:]
    assert layout.plain == (dtype == "uint8" and channels == "last")
    content = path.read_bytes()
    reader = hdf5.RowReader(str(path), "data")
    for i, image in enumerate(_IMAGES):
        row = stored[i].tobytes()
        assert len(row) == layout.num_bytes
        assert reader.row(i) == row
        np.testing.assert_array_equal(layout.to_image(row), image)
        np.testing.assert_array_equal(layout.to_rows(_IMAGES)[i], stored[i])
        if compression == "none":
            assert content[offset + i * len(row) :].startswith(row)
    assert bool(offset) == (compression == "none")


@pytest.mark.parametrize("count", [1, 1000])
def test_pixels_begin_at_a_page(count, tmp_path):
    """A reader that maps the file gathers rows whose size divides their positions."""
    path = tmp_path / "shard.h5"
    offset = hdf5.write(
        str(path),
        iter([np.zeros((count, 64, 64, 3), np.uint8)]),
        layout=hdf5.RowLayout(64),
        ages=[20] * count,
        genders=[0] * count,
        filenames=[b"name"] * count,
        compression="none",
        labels="gender",
    )
    assert offset > 0 and offset % 4096 == 0
    # Nothing else is aligned, which would waste a page for each data set.
    rest = path.stat().st_size - count * 64 * 64 * 3
    assert rest < 2 * 4096 + count * (8 + 8 + 4)


def test_a_manifest_without_pixels_means_the_default_layout():
    layout = hdf5.RowLayout.of_pixel({}, 4)
    assert layout.plain and layout.num_bytes == 48
    other = hdf5.RowLayout.of_pixel({"dtype": "float32", "channels": "first"}, 4)
    assert other.shape == (3, 4, 4) and other.num_bytes == 192


def test_floats_of_other_programs_are_rounded_and_clipped():
    layout = hdf5.RowLayout(1, "float32")
    row = np.array([-3.0, 99.5, 300.0], np.float32).tobytes()
    np.testing.assert_array_equal(layout.to_image(row), [[[0, 100, 255]]])


@pytest.mark.parametrize("labels", hdf5.LABELS)
def test_names_of_older_programs_link_to_the_labels(labels, tmp_path):
    _write(tmp_path / "shard.h5", hdf5.RowLayout(4), labels=labels)
    with h5py.File(tmp_path / "shard.h5") as file:
        assert file["labels"] == file[labels]
        assert file["labels_0"] == file["age"] and file["labels_1"] == file["gender"]
        assert list(file["filename"][:2]) == [b"20/111/a.jpg", b"b"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(errors.DataError, match="cannot read 'data' of .*text.h5"):
        hdf5.RowReader(str(tmp_path / "text.h5"), "data")


def test_readers_of_compressed_rows_hold_no_descriptors(tmp_path):
    """There may be more shards than a process may open files."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as f:
        f.create_dataset(
            "data", data=np.ones((3, 4), "u1"), chunks=(1, 4), compression="gzip"
        )
    before = len(os.listdir("/proc/self/fd"))
    readers = [hdf5.RowReader(str(path), "data") for _ in range(20)]
    assert [reader.row(1) for reader in readers] == [b"\1\1\1\1"] * 20
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("storage", "wanted"),
    [
        ({}, [0, 1, 2, 3, 4]),  # Contiguous, which is allocated when it is written.
        ({"chunks": (2, 3)}, [0, 1, 4]),
        ({"chunks": (1, 3), "compression": "gzip"}, [0, 1, 3, 4]),
        ({"chunks": (2, 1)}, [0, 1, 4]),
    ],
)
def test_rows_that_were_never_written_are_known(tmp_path, storage, wanted):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        data = f.create_dataset("data", (5, 3), "u1", **storage)
        assert hdf5.unwritten_rows(data) == [0, 1, 2, 3, 4]
        if storage:
            data[2] = 7
            assert hdf5.unwritten_rows(data) == wanted
            data[:, 1] = 7
        else:
            data[2] = 7
        assert len(hdf5.unwritten_rows(data)) < 5
        data[:] = 7
        assert hdf5.unwritten_rows(data) == []
