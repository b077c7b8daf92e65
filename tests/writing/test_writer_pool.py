"""Writer processes that cannot start, die, or say what nobody asked."""

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
    """As under `ulimit -u`; nothing that was started stays."""
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


def test_what_a_library_prints_is_no_answer(sample_tree, tmp_path):
    """The writer waited for ever where a process printed something else."""
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
    monkeypatch.setattr(subprocess, "Popen", subprocess.Popen)  # What is put back.
    faults.limit_processes(mebibytes << 20)
    tree = make_tree(tmp_path / "faces")
    with pytest.raises(errors.UsageError, match="writer process"):
        write(tree, tmp_path / "out", num_workers=2, num_shards=2)
    monkeypatch.undo()
    write(tree, tmp_path / "out", num_workers=2, num_shards=2)
