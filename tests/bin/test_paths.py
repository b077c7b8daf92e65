"""Flags that take paths, with paths that cannot be read: one line, status 1 or 2."""

import importlib
import resource
import sys

import pytest

from afad_tfdata.bin import command

PATHS = {
    "http": "http://127.0.0.1:9/x",
    "hdfs": "hdfs://127.0.0.1:9/x",
    "a scheme that nobody has": "abc://x/y",
    "missing": "missing",
    "a file": "a_file",
    "a folder": "a_folder",
    "a name that is too long": "x" * 300,
    "a NUL byte": "a\0b",
    "a device without an end": "/dev/zero",
}
# Each flag with the others that the command needs; {} is the path.
FLAGS = [
    ("inspect_records", "--records_dir={}"),
    ("inspect_records", "--records_dir={} --verify"),
    ("write_records", "--data_dir={} --output_dir=out"),
    ("write_records", "--labels_csv={} --output_dir=out"),
    ("write_records", "--labels_csv=labels.csv --data_dir={} --output_dir=out"),
    ("write_records", "--data_dir=faces --split_file={} --output_dir=out"),
    ("train", "--records_dir={} --run_dir=run"),
    ("train", "--records_dir=data --weights={} --run_dir=run"),
    ("train", "--records_dir=data --weights= --init_from={} --run_dir=run"),
    ("train", "--records_dir=data --weights= --init_from={}.keras --run_dir=run"),
    ("train", "--flagfile={}"),
    ("train", "--files={} --run_dir=run"),
    ("evaluate", "--model={} --records_dir=data"),
    ("evaluate", "--model={}.keras --records_dir=data"),
    ("evaluate", "--model={}.pb --records_dir=data"),
    ("evaluate", "--run_dir={}"),
    ("freeze", "--model={} --output_dir=out"),
    ("freeze", "--model={}.keras --output_dir=out"),
    ("freeze", "--model={}.h5 --output_dir=out"),
    ("freeze", "--model={}.ckpt --output_dir=out"),
    ("freeze", "--run_dir={} --output_dir=out"),
    ("predict", "--graph={} face.jpg"),
    ("predict", "--graph={}.pb face.jpg"),
    ("predict", "--graph={}.tflite face.jpg"),
    ("benchmark_input", "--records_dir={}"),
]


def call(name, flags, monkeypatch):
    """The exit status of a command that runs in this process."""
    statuses = []

    def run(main, config_class, *, arguments="", **_):
        monkeypatch.setattr(sys, "argv", [f"afad-{name}", *flags])
        statuses.append(
            command._exit_status_of(
                f"afad-{name}", main, config_class, takes_arguments=bool(arguments)
            )
        )

    monkeypatch.setattr(command, "run", run)
    importlib.import_module(f"afad_tfdata.bin.{name}").run()
    return statuses[0]


@pytest.fixture
def little_memory():
    """Two GiB more than now, so that reading a device ends."""
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(("name", "flags"), FLAGS)
def test_a_path_that_cannot_be_read(name, flags, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_folder").mkdir()
    for ending in ("", ".keras", ".pb", ".h5", ".ckpt", ".tflite"):
        (tmp_path / f"a_file{ending}").write_text("This is no such file.\n")
    (tmp_path / "labels.csv").write_text("path,age,gender\nface.jpg,20,male\n")
    given = [flag.format(PATHS[kind]) for flag in flags.split()]
    assert call(name, given, monkeypatch) in (1, 2)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("afad-")]
    assert len(lines) == 1 and " error: " in lines[0], captured.err
    assert "Traceback" not in captured.err
