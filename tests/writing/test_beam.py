"""Writing on Apache Beam gives the local writer's bytes."""

from __future__ import annotations

import pytest

from afad_tfdata.common import errors
from tests.writing.test_records import digests, write

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "beam_options",
    [
        "--runner=DirectRunner --direct_num_workers=1",
        "--runner=DirectRunner --direct_num_workers=2"
        " --direct_running_mode=multi_processing",
    ],
    ids=["in_memory", "two_processes"],
)
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_beam_writes_the_same_bytes(format, beam_options, sample_tree, tmp_path):
    pytest.importorskip("apache_beam")
    write(sample_tree, tmp_path / "local", format=format)
    write(
        sample_tree,
        tmp_path / "beam",
        format=format,
        runner="beam",
        beam_options=beam_options,
    )
    assert digests(tmp_path / "local") == digests(tmp_path / "beam")


def test_options_that_beam_refuses_are_one_line(sample_tree, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(errors.UsageError, match="Beam could not write"):
        write(
            sample_tree,
            tmp_path / "out",
            runner="beam",
            beam_options="--runner=NoSuchRunner",
        )
    with pytest.raises(errors.UsageError, match="only be used with --runner=beam"):
        write(sample_tree, tmp_path / "out", beam_options="--x=1")
