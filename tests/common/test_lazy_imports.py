"""Settings of Keras that this package cannot work with are one line."""

import os
import pty
import subprocess
import sys

import pytest

from afad_tfdata.common import errors, lazy_imports


@pytest.fixture
def keras():
    """Keras itself, and not the stand-in that has read some attributes already."""
    import keras

    image_format = keras.config.image_data_format()
    yield keras
    keras.config.set_image_data_format(image_format)


def first_use():
    return lazy_imports._LazyModule("keras").Model


def test_the_usual_settings(keras):
    assert first_use() is keras.Model


def test_channels_first_is_refused(keras):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(errors.UsageError, match="'channels_first'.*keras.json"):
        first_use()


def test_another_backend_that_is_loaded_is_refused(keras, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(errors.UsageError, match="'jax'.*KERAS_BACKEND=tensorflow"):
        first_use()


def test_another_backend_is_refused_before_its_import_fails(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(errors.UsageError, match="'torch'.*KERAS_BACKEND=tensorflow"):
        first_use()
    assert "keras" not in sys.modules


@pytest.mark.parametrize("name", ["keras", "tensorflow"])
def test_a_setting_that_matplotlib_refuses(name, monkeypatch):
    """TensorFlow imports Keras, and Keras imports matplotlib."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    with pytest.raises(errors.UsageError, match="'nonsense' is not.*MPLBACKEND or"):
        str(lazy_imports._LazyModule(name).__version__)
    assert name not in sys.modules


def test_python_without_docstrings_is_refused(monkeypatch):
    """As with -OO, under which the docstring of every module is None."""
    monkeypatch.setattr(lazy_imports, "__doc__", None)
    with pytest.raises(errors.UsageError, match="-OO and PYTHONOPTIMIZE=2"):
        first_use()


def test_a_line_that_a_closed_terminal_did_not_take_is_no_error():
    code = (
        "import os, sys\n"
        "from afad_tfdata.common import lazy_imports\n"
        "try:\n"
        "    print('a line', file=sys.stderr)\n"
        "except OSError:\n"
        "    with lazy_imports._without_start_lines():\n"
        "        pass\n"
        "    os._exit(7)\n"
    )
    terminal, stderr = pty.openpty()
    os.close(terminal)
    # Unbuffered, nothing of the line would be left to flush.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, stderr=stderr, env=environment).returncode == 7
    os.close(stderr)
