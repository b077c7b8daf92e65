"""The input benchmark: figures that fit together, and advice that fits them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from afad_tfdata import input_benchmark, records
from afad_tfdata.common import errors, resources


@pytest.fixture(scope="module")
def pixels(sample_tree, tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("pixels") / "hdf5")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            format="hdf5",
            image_size=32,
            num_workers=1,
        )
    )
    return directory


def run(directory: str, **fields) -> input_benchmark.BenchmarkResult:
    return input_benchmark.run(
        input_benchmark.BenchmarkConfig(
            records_dir=directory, batch_size=16, seconds=0.1, **fields
        )
    )


def test_figures_fit_together(sample_records):
    result = run(sample_records)
    speed = result.speed
    assert result.engine == "mapped" and speed.images_per_second > 0
    assert 0 < speed.p50_ms <= speed.p99_ms
    assert speed.first_batch_seconds > 0 and speed.memory_mib > 10
    assert result.rates == {} and result.advice == result.slowest == ""
    assert f"{speed.images_per_second:,.0f}" in result.table()
    assert result.to_dict()["images_per_second"] == speed.images_per_second


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("mapped", ["order", "read", "check", "decode", "resize", "batch"]),
        ("graph", ["order", "read", "gather", "parse", "decode", "resize", "batch"]),
    ],
)
def test_transformations_of_encoded_images(sample_records, engine, names):
    result = run(sample_records, engine=engine, analyze=True, image_size=40)
    assert list(result.rates) == names
    assert all(rate > 0 for rate in result.rates.values())
    assert result.slowest != "check" and result.advice
    assert (result.ceiling > 0) == (engine == "mapped")
    assert json.loads(json.dumps(result.to_dict()))["stages"] == result.rates
    assert f"advice           {result.advice}" in result.table()


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("mapped", ["order", "check", "gather", "batch"]),
        ("graph", ["order", "read", "gather", "decode", "batch"]),
    ],
)
def test_transformations_of_pixels(pixels, engine, names):
    assert list(run(pixels, engine=engine, analyze=True).rates) == names


def test_other_splits_are_measured_too(sample_records):
    assert run(sample_records, split="validation").speed.images_per_second > 0


def test_advice(sample_records, monkeypatch):
    text = run(sample_records, analyze=True, model_rate=0.5).advice
    assert text.startswith("nothing: the pipeline gives")
    monkeypatch.setattr(resources, "cores", lambda: 30)
    text = run(sample_records, analyze=True, engine="mapped").advice
    assert "stops scaling near 22 threads" in text


def test_errors(tmp_path):
    with pytest.raises(errors.UsageError, match="--seconds must be between"):
        input_benchmark.BenchmarkConfig(records_dir="a", seconds=0)
    with pytest.raises(errors.UsageError, match="--batch_size must be"):
        input_benchmark.BenchmarkConfig(records_dir="a", batch_size=0)
    with pytest.raises(errors.UsageError, match="write_records"):
        run(str(tmp_path))


@pytest.mark.slow
def test_command(sample_records):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "afad_tfdata.bin.benchmark_input", "--json"),
            *(f"--records_dir={sample_records}", "--seconds=0.1", "--batch_size=8"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "mapped"
