"""The script that unpacks a bundle: what it refuses, and what it calls."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

_RUN = pathlib.Path(__file__).parents[2] / "examples" / "bundle" / "run.sh"
_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Stands for pip: "installs" a command that prints its arguments.
_PIP = """import pathlib, sys
place = pathlib.Path(sys.prefix) / "bin" / "afad-gpu-check"
place.write_text('#!/bin/sh\\necho check "$@"\\n')
place.chmod(0o755)
print("pip", *sys.argv[1:])
"""


@pytest.fixture
def bundle(tmp_path) -> pathlib.Path:
    """A bundle of two parts, whose pip is a stand-in."""
    content = tmp_path / "content"
    (content / "wheels").mkdir(parents=True)
    (content / "faces").mkdir()
    (content / "bundle.env").write_text(
        f"extras=fast\npython_version={_VERSION}\nwheel=afad_tfdata-1-py3.whl\n"
    )
    pip = content / "wheels" / "pip-1.whl" / "pip"
    pip.mkdir(parents=True)
    (pip / "__main__.py").write_text(_PIP)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(content, "content")
    data = (tmp_path / "all.tar").read_bytes()
    place = tmp_path / "bundle"
    place.mkdir()
    (place / "run.sh").write_bytes(_RUN.read_bytes())
    half = len(data) // 2
    (place / "afad-bundle.tar.part-000").write_bytes(data[:half])
    (place / "afad-bundle.tar.part-001").write_bytes(data[half:])
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted(place.iterdir())
    ]
    (place / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    return place


def _run(bundle, *flags, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(bundle / "run.sh"), *flags],
        cwd=bundle.parent,
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
    )


def test_it_unpacks_installs_and_runs_and_installs_once(bundle):
    home = bundle.parent / "afad"
    first = _run(bundle, "--devices=cpu:2")
    assert first.returncode == 0, first.stderr
    wheels = home / "content" / "wheels"
    assert "--no-index" in first.stdout
    assert f"{wheels}/afad_tfdata-1-py3.whl[fast]" in first.stdout
    faces = home / "content" / "faces"
    checked = f"check --data_dir={faces} --output_dir={home}/gpu_check --devices=cpu:2"
    assert checked in first.stdout
    second = _run(bundle, "--minutes=1")
    assert second.returncode == 0 and "pip" not in second.stdout
    assert "--minutes=1" in second.stdout


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_part_is_refused(bundle, missing):
    part = bundle / "afad-bundle.tar.part-001"
    if missing:
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    done = _run(bundle)
    assert done.returncode == 1
    assert "missing or damaged: copy it again" in done.stderr
    assert not (bundle.parent / "afad" / "content").exists()


def test_another_python_is_refused(bundle, tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 2.7\n")
    other.chmod(0o755)
    done = _run(bundle, PYTHON=str(other))
    assert done.returncode == 1
    assert f"is for Python {_VERSION}, and {other} is Python 2.7" in done.stderr
    done = _run(bundle, PYTHON="/no/python")
    assert done.returncode == 1 and "/no/python does not run" in done.stderr
