"""Arbitrary bytes into everything that reads files: only the package's own errors."""

from __future__ import annotations

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from afad_tfdata import (
    archive,
    checkpoints,
    errors,
    files,
    images,
    schema,
    selection,
    source,
    tfrecord,
)
from tests import bad_files
from tests.test_schema import _manifest

_SETTINGS = hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
_SEEDS = [data for data, _ in bad_files.contents().values() if data]


@st.composite
def _damaged(draw, seeds):
    """One of the seeds, cut, with some bytes replaced and some put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(
        data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    )


@_SETTINGS
@hypothesis.given(st.one_of(st.binary(max_size=400), _damaged(_SEEDS)))
def test_images(data):
    try:
        header = images.probe(data)
        images.check(header, as_stored=True, max_pixels=100_000)
        image = images.decode(data, header)
    except images.ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.dtype == np.uint8


@_SETTINGS
@hypothesis.given(_damaged([schema.manifest_bytes(_manifest())]))
def test_manifest(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    try:
        manifest = schema.load_manifest(str(tmp_path))
    except errors.AfadError as error:
        assert "\n" not in str(error)
    else:
        assert manifest == _manifest()


@_SETTINGS
@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
    )
)
def test_manifest_of_other_json(tmp_path, value):
    if isinstance(value, dict):
        value["checksum"] = files.json_checksum(value)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(errors.AfadError):
        schema.load_manifest(str(tmp_path))


@_SETTINGS
@hypothesis.given(data=st.data())
def test_index(sample_records, tmp_path, data):
    manifest = schema.load_manifest(sample_records)
    name = manifest.splits["test"].index.name
    with open(f"{sample_records}/{name}", "rb") as f:
        content = f.read()
    damaged = data.draw(_damaged([content]))
    (tmp_path / name).write_bytes(damaged)
    try:
        index = schema.load_index(str(tmp_path), manifest, "test")
    except errors.DataError as error:
        assert "\n" not in str(error)
    else:
        assert index.shape == (manifest.splits["test"].num_examples,)


@_SETTINGS
@hypothesis.given(st.binary(max_size=300))
def test_records(data):
    for read in (tfrecord.check_record, tfrecord.parse_example):
        try:
            read(data)
        except tfrecord.RecordError as error:
            assert "\n" not in str(error)


@_SETTINGS
@hypothesis.given(data=st.binary(max_size=600), name=st.sampled_from("xyz"))
def test_archives(tmp_path, data, name):
    suffix = {"x": ".tar.xzaa", "y": ".tar", "z": ".tgz"}[name]
    path = tmp_path / f"faces{suffix}"
    path.write_bytes(data)
    try:
        archive.scan([str(path)], {"111": 0})
    except errors.DataError as error:
        assert "\n" not in str(error)


@_SETTINGS
@hypothesis.given(data=st.binary(max_size=120), suffix=st.sampled_from(["csv", "json"]))
def test_split_files_and_label_files(tmp_path, data, suffix):
    path = tmp_path / f"protocol.{suffix}"
    path.write_bytes(data)
    try:
        selection.load_split_file(str(path))
    except errors.UsageError as error:
        assert "\n" not in str(error)
    header = b"path,age,gender\n"
    for content in (data, header + data):
        path.write_bytes(content)
        try:
            source.scan_csv(str(path), str(tmp_path), {"111": 0})
        except errors.UsageError as error:
            assert "\n" not in str(error)


@_SETTINGS
@hypothesis.given(data=st.data())
def test_checkpoints(tmp_path, data):
    path = str(tmp_path / "step-0000000001.ckpt")
    checkpoints.save(path, {"a": np.arange(6).reshape(2, 3)}, {"step": 1})
    with open(path, "rb") as f:
        content = f.read()
    damaged = data.draw(_damaged([content]))
    with open(path, "wb") as f:
        f.write(damaged)
    try:
        loaded = checkpoints.load(path)
    except errors.DataError as error:
        assert "\n" not in str(error)
    else:
        np.testing.assert_array_equal(loaded.arrays["a"], np.arange(6).reshape(2, 3))
