"""Writer processes that cannot start, die, or print unexpected lines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from afad_tfdata.common import errors
from afad_tfdata.writing import writer_pool
from tests.robustness.chaos import faults
from tests.writing.data_sets import digests, make_tree, write


def test_a_machine_without_threads_is_one_line(monkeypatch):
    """As under `ulimit -u`; no process that was started is left."""
    started = []
    popen = writer_pool.subprocess.Popen

    def noted(*arguments, **named):
        started.append(popen(*arguments, **named))
        return started[-1]

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(writer_pool.subprocess, "Popen", noted)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(errors.UsageError, match="start a writer process: can't start"):
        writer_pool.WriterPool(2)
    assert started
    assert all(process.poll() is not None for process in started)


def test_lines_that_a_library_prints_are_ignored(sample_tree, tmp_path):
    """The writer once waited for ever after such a line."""
    (tmp_path / "sitecustomize.py").write_text("print('a library says hello')\n")
    subprocess.run(
        [sys.executable, "-m", "afad_tfdata.bin.write_records"]
        + [f"--data_dir={sample_tree}", f"--output_dir={tmp_path / 'two'}"]
        + ["--image_size=24", "--num_shards=3", "--num_workers=2"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        timeout=60,
    )
    write(sample_tree, tmp_path / "one")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("mebibytes", [64, 89, 110])
def test_processes_without_memory_are_one_line(mebibytes, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", subprocess.Popen)  # `undo` puts it back.
    faults.limit_processes(mebibytes << 20)
    tree = make_tree(tmp_path / "faces")
    with pytest.raises(errors.UsageError, match="writer process"):
        write(tree, tmp_path / "out", num_workers=2, num_shards=2)
    monkeypatch.undo()
    write(tree, tmp_path / "out", num_workers=2, num_shards=2)
