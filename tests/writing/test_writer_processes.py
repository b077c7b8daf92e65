"""Writer processes that cannot start, die, or print unexpected lines."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from afad_tfdata.common import child_process, errors
from afad_tfdata.writing import writer_processes
from tests.robustness.chaos import faults
from tests.writing.data_sets import digests, make_tree, write


def test_a_machine_without_threads_is_one_line(monkeypatch):
    """As under `ulimit -u`; no process that was started is left."""
    started = []
    popen = writer_processes.subprocess.Popen

    def noted(*arguments, **named):
        started.append(popen(*arguments, **named))
        return started[-1]

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(writer_processes.subprocess, "Popen", noted)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(errors.UsageError, match="start a writer process: can't start"):
        writer_processes.WriterPool(2)
    assert started
    assert all(process.poll() is not None for process in started)


_COMMAND = "from afad_tfdata.bin import write_records; write_records.run()"


def test_a_folder_with_modules_of_the_users_own(sample_tree, tmp_path):
    """The processes took them for the standard library's, and the writer waited."""
    folder = tmp_path / "folder"
    (folder / "cv2").mkdir(parents=True)
    (folder / "cv2" / "__init__.py").write_text("print('my own vision')\n")
    for name in ("random", "queue", "json", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"print('my own {name}')\n")
    subprocess.run(
        # Isolated, as the installed command is: without the folder it is called in.
        [sys.executable, "-I", "-c", _COMMAND]
        + [f"--data_dir={sample_tree}", f"--output_dir={tmp_path / 'two'}"]
        + ["--image_size=24", "--num_shards=3", "--num_workers=2"],
        cwd=folder,
        check=True,
        timeout=60,
    )
    write(sample_tree, tmp_path / "one")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def _start_after(monkeypatch, code: str) -> None:
    """Makes each writer process run this code before its own."""

    def command(*arguments: str) -> list[str]:
        _, isolated, *rest = start(*arguments)
        script = rest.index(child_process.__file__)
        program = (
            f"{code}\nimport sys, runpy\nsys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        return [sys.executable, isolated, *rest[:script], "-c", program, *rest[script:]]

    start = child_process.command
    monkeypatch.setattr(child_process, "command", command)


@pytest.mark.parametrize(
    "code",
    [
        "print('a library says hello', flush=True)",
        "print('{\"images\": 7}')",
        "import os; os.write(1, b'\\xff\\xfe no text'); os.write(2, b'x' * 300_000)",
        "import sys; sys.stdin.read()",
        "import sys; sys.stdout.close()",
    ],
)
def test_what_a_library_does_with_the_streams_does_not_matter(
    code, sample_tree, tmp_path, monkeypatch
):
    """One such line once ended the thread that listens, and the writer waited."""
    _start_after(monkeypatch, code)
    manifest = write(sample_tree, tmp_path / "out", num_workers=2)
    assert manifest.written == 240


@pytest.mark.parametrize("fault", ["no JSON", "the listener ends"])
def test_a_process_that_is_not_heard_any_more_is_one_line(
    fault, sample_tree, tmp_path, monkeypatch
):
    if fault == "no JSON":
        monkeypatch.setattr(writer_processes.json, "loads", lambda line: int("x"))
    else:
        monkeypatch.setattr(writer_processes, "_LOOK_EVERY_SECS", 0.1)
        monkeypatch.setattr(
            writer_processes._WriterProcess, "_listen", lambda process: None
        )
    with pytest.raises(errors.UsageError, match="writer process ended with status -9"):
        write(sample_tree, tmp_path / "out", num_workers=2)


@pytest.mark.parametrize("mebibytes", [64, 89, 110])
def test_processes_without_memory_are_one_line(mebibytes, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", subprocess.Popen)  # `undo` puts it back.
    faults.limit_processes(mebibytes << 20)
    tree = make_tree(tmp_path / "faces")
    with pytest.raises(errors.UsageError, match="writer process"):
        write(tree, tmp_path / "out", num_workers=2, num_shards=2)
    monkeypatch.undo()
    write(tree, tmp_path / "out", num_workers=2, num_shards=2)
