"""Names of the files of a data set."""

from __future__ import annotations

from afad_tfdata.storage import file_names


def test_names():
    assert (
        file_names.shard_name("afad", "train", 3, 16, "tfrecord")
        == "afad-train.tfrecord-00003-of-00016"
    )
    assert (
        file_names.shard_name("afad", "test", 0, 1, "hdf5")
        == "afad-test-00000-of-00001.h5"
    )
