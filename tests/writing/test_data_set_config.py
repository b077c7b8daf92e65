"""The JSON of the options that decide bytes, which plans and manifests contain."""

from __future__ import annotations

import json

import pytest

from afad_tfdata import records
from afad_tfdata.writing import data_set_config

# These are in every manifest since 0.1.0, whose bytes depend on their order.
_ALWAYS = (
    *("format", "image_size", "test_fraction", "validation_fraction", "split_by"),
    *("seed", "min_age", "max_age", "max_faces_per_photo", "gender_codes"),
    *("duplicates", "conflicts", "max_pixels", "max_file_bytes"),
)
_HDF5 = ("hdf5_labels", "hdf5_dtype", "hdf5_channels", "hdf5_compression")


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        ({}, ()),
        ({"image_encoding": "raw", "hdf5_dtype": "float32"}, ()),
        ({"image_encoding": "jpeg", "jpeg_quality": 80}, ("jpeg_quality",)),
        ({"format": "hdf5", "hdf5_labels": "age", "jpeg_quality": 80}, _HDF5),
    ],
    ids=["original", "raw", "jpeg", "hdf5"],
)
def test_json_keeps_its_names_and_their_order(flags, extra):
    config = records.WriteConfig(seed=7, min_age=20, **flags)
    value = config.data_set.to_json()
    assert tuple(value) == (*_ALWAYS, *extra, "image_encoding", "split_file")
    for name in set(value) - {"image_encoding", "split_file"}:
        assert value[name] == getattr(config, name)
    stored = json.loads(json.dumps(value))
    assert data_set_config.DataSetConfig.from_json(stored) == config.data_set


def test_options_that_do_not_decide_bytes_are_left_out():
    flags = {"num_workers": 3, "max_rejected": 7, "data_dir": "a", "output_dir": "b"}
    assert records.WriteConfig(**flags).data_set == records.WriteConfig().data_set
    assert records.WriteConfig(seed=2).data_set != records.WriteConfig().data_set
