"""Commands whose standard streams are closed, as daemons and cron jobs start them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from afad_tfdata import schema
from tests.bin.command_line import BIN, ROOT


def _run(closed: str, name: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BIN / f"{name}.py"), *flags]
    script = f'exec "$@" {closed}'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_data_set_is_written(closed, sample_tree, tmp_path):
    flags = (f"--data_dir={sample_tree}", f"--output_dir={tmp_path / 'records'}")
    result = _run(closed, "write_records", *flags)
    assert result.returncode == 0, result.stderr
    assert schema.load_manifest(str(tmp_path / "records")).split("train").num_examples


def test_an_error_has_its_status(tmp_path):
    result = _run("2>&-", "inspect_records", f"--records_dir={tmp_path}")
    assert result.returncode == 1 and result.stdout == ""


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """TensorFlow would write its log lines into that file."""
    code = (
        "import os, sys\n"
        "from afad_tfdata.bin import streams\n"
        "streams.open_closed_streams()\n"
        f"f = open({str(tmp_path / 'shard')!r}, 'wb')\n"
        "assert f.fileno() > 2, f.fileno()\n"
        "os.write(2, b'a line of a library')\n"
        "print('kept', file=sys.stderr)\n"
        "f.write(b'bytes'); f.close()\n"
    )
    subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (tmp_path / "shard").read_bytes() == b"bytes"
