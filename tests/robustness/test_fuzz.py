"""Everything that reads files answers arbitrary bytes with the package's own errors.

Each of `fuzz.TARGETS` gets a few hundred inputs here; `make fuzz` runs for minutes.
"""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from afad_tfdata.common import errors, files
from afad_tfdata.storage import schema
from tests.robustness import fuzz

_SETTINGS = hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@st.composite
def _damaged(draw, seeds):
    """One of the seeds, cut, with some bytes replaced and some inserted."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(
        data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    )


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_arbitrary_bytes(name, tmp_path):
    target = fuzz.TARGETS[name](fuzz.package(), str(tmp_path))
    target.read(target.seeds[0])  # An undamaged input is read.

    @_SETTINGS
    @hypothesis.given(st.one_of(st.binary(max_size=400), _damaged(target.seeds)))
    def check(data):
        fuzz.check(target, data)

    check()


@pytest.mark.parametrize("error", [KeyError("x"), errors.DataError("two\nlines")])
def test_what_must_not_be_raised_is_noticed(error):
    def read(data):
        raise error

    with pytest.raises((KeyError, AssertionError)):
        fuzz.check(fuzz.Target(read, [b""]), b"")


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
