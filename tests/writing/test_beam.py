"""Apache Beam as the runner gives the bytes of the local one."""

from __future__ import annotations

import pickle
import sys

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from tests.writing.data_sets import digests, write


class _FakeBeam:
    """A replacement of the library that runs a pipeline here, through pickle."""

    class PipelineOptions:
        def __init__(self, flags):
            assert flags == ["--runner=Fake"]

    class Pipeline:
        def __init__(self, options):
            self.value = None

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def __or__(self, transform):
            self.value = transform(self.value)
            return self

    class _Named:
        def __init__(self, call):
            self._call = call

        def __rrshift__(self, name):
            return self._call

    @classmethod
    def Create(cls, values):
        return cls._Named(lambda _: list(values))

    @classmethod
    def Reshuffle(cls):
        return cls._Named(lambda values: values[::-1])

    @classmethod
    def Map(cls, function):
        def run(values):
            copy = pickle.loads(pickle.dumps(function))
            return [copy(value) for value in values]

        return cls._Named(run)


@pytest.mark.parametrize("format", schema.FORMATS)
def test_tasks_can_be_sent_to_the_processes_of_beam(
    format, sample_tree, tmp_path, monkeypatch
):
    """Without Beam: the tasks survive pickle, and write the local runner's bytes."""
    monkeypatch.setitem(sys.modules, "apache_beam", _FakeBeam)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", _FakeBeam)
    write(sample_tree, tmp_path / "local", format=format)
    flags = {"runner": "beam", "beam_options": "--runner=Fake"}
    write(sample_tree, tmp_path / "beam", format=format, **flags)
    assert digests(tmp_path / "local") == digests(tmp_path / "beam")


@pytest.mark.slow
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


@pytest.mark.slow
def test_options_that_beam_refuses_are_one_error(sample_tree, tmp_path):
    pytest.importorskip("apache_beam")
    with pytest.raises(errors.UsageError, match="Beam could not write"):
        write(
            sample_tree,
            tmp_path / "out",
            runner="beam",
            beam_options="--runner=NoSuchRunner",
        )


def test_beam_options_need_the_beam_runner(sample_tree, tmp_path):
    with pytest.raises(errors.UsageError, match="only be used with --runner=beam"):
        write(sample_tree, tmp_path / "out", beam_options="--x=1")
