"""From payloads to shards: full disks, and file systems without links."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from afad_tfdata.storage import schema
from tests.writing.data_sets import digests, make_tree, write


@pytest.mark.parametrize("format", schema.FORMATS)
def test_after_a_full_disk_the_writer_continues(format, sample_tree, tmp_path):
    """A limit on file sizes replaces the full disk: the system refuses to write."""
    write(sample_tree, tmp_path / "undisturbed", format=format)
    out = tmp_path / "out"
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "from afad_tfdata.bin import write_records\n"
        "write_records.run()"
    )
    flags = [f"--data_dir={sample_tree}", f"--output_dir={out}", f"--format={format}"]
    flags += ["--image_size=24", "--num_shards=3", "--num_workers=2"]
    run = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert "cannot write" in run.stderr.splitlines()[-1]
    assert not list(out.glob("afad-*"))
    write(sample_tree, out, format=format)
    assert digests(tmp_path / "undisturbed") == digests(out)


def test_a_full_disk_while_hdf5_shards_are_made_is_one_error(tmp_path):
    tree = make_tree(tmp_path / "tree", 60)
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150000, 150000))\n"
        "from afad_tfdata.bin import write_records\n"
        "write_records.run()"
    )
    flags = [f"--data_dir={tree}", f"--output_dir={tmp_path}/out", "--format=hdf5"]
    flags += ["--hdf5_dtype=float32", "--image_size=24", "--num_workers=1"]
    flags += ["--num_shards=1"]
    run = subprocess.run(
        [sys.executable, "-c", code, *flags], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr, run.stderr
    assert "cannot write" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / schema.MANIFEST_NAME).exists()
    assert not list((tmp_path / "out").glob("*.part"))
    flags = {"format": "hdf5", "hdf5_dtype": "float32", "num_shards": 1}
    write(tree, tmp_path / "out", **flags)
    write(tree, tmp_path / "expected", **flags)
    assert digests(tmp_path / "out") == digests(tmp_path / "expected")


def test_a_file_system_without_links(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "tree")
    write(tree, tmp_path / "expected")

    def no_link(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_link)
    write(tree, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "expected")
