"""TensorFlow, Keras and optional packages, imported on first use.

``import tensorflow`` takes seconds, and a command that answers ``--help`` or refuses a
flag does not need it.  Modules therefore write::

    from afad_tfdata.common.lazy_imports import keras, tf

and use neither `keras` nor `tf` while they are being imported.  Type checkers see the
real modules.  At run time each is a stand-in that imports the module on the first
access to one of its attributes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from afad_tfdata.common import errors, preemption

__all__ = ["hide_start_lines", "import_matplotlib", "import_optional", "keras", "tf"]

# TensorFlow 2.21 prints these while it is imported, before it reads its log level.
_START_LINE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|[IWE]\d{4} .*\b(cudart_stub|port|cpu_feature_guard|computation_placer"
    rb"|cuda_(fft|dnn|blas)|util)\.cc:\d+\]"
    rb"|To enable the following instructions: "
)
_hide = False
_hiding = threading.Lock()


def hide_start_lines() -> None:
    """Hides what TensorFlow prints when it is imported, unless the user set a level.

    Only commands call this, because their own output is hard to find among these lines.
    Errors are still raised, and lines that are not known to be harmless are still
    printed.
    """
    global _hide
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        _hide = True


@contextlib.contextmanager
def _without_start_lines() -> Iterator[None]:
    """Removes what TensorFlow prints when it is imported from standard error.

    A child process reads what is written, and writes the other lines.  A thread is not
    enough: TensorFlow may abort this process, for example on a processor that is too
    old for it, and what it prints before that must still be shown.
    """
    try:
        real = os.dup(2)
    except OSError:  # Standard error is closed.
        yield
        return
    if sys.stderr is None:  # It was closed when the program started.
        os.close(real)
        yield
        return
    read, write = os.pipe()
    with contextlib.suppress(OSError):  # A terminal that was closed takes no text.
        sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _copy_other_lines(read, write, real)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os.dup2(real, 2)  # Closes the pipe, which ends the child.
        os.close(real)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _copy_other_lines(read: int, write: int, real: int) -> None:
    """Copies lines that are not TensorFlow's start lines, then ends this child."""
    try:
        # The parent handles a signal to the whole process group.  This process ends
        # when the pipe is closed.
        for number in preemption.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.close(write)
        os.dup2(real, 2)
        with open(read, "rb", closefd=False) as lines:
            for line in lines:
                if not _START_LINE.match(line):
                    os.write(real, line)
    finally:
        os._exit(0)


def _check_docstrings() -> None:
    """Refuses ``python -OO``, with which TensorFlow's import ends in a traceback.

    Raises:
      UsageError: Python removed the docstrings.
    """
    if __doc__ is None:
        raise errors.UsageError(
            "TensorFlow cannot be imported without docstrings: leave -OO and"
            " PYTHONOPTIMIZE=2 out"
        )


def _check_keras_backend() -> None:
    """Refuses another backend of Keras before its import fails, or after it.

    Raises:
      UsageError: Keras uses or would use something else than TensorFlow.
    """
    config = getattr(sys.modules.get("keras"), "config", None)
    used = config.backend() if config else os.environ["KERAS_BACKEND"]
    if used != "tensorflow":
        raise errors.UsageError(
            f"Keras uses the backend {used!r}, and this package needs TensorFlow: set"
            " the environment variable KERAS_BACKEND=tensorflow, before Keras is"
            " imported"
        )


def check_keras_image_format() -> None:
    """Refuses Keras' setting that takes an image's last axis for its width.

    Raises:
      UsageError: The setting is in ``keras.json``, or the program made it.
    """
    used = sys.modules["keras"].config.image_data_format()
    if used != "channels_last":
        raise errors.UsageError(
            f"Keras' image_data_format is {used!r}, and the images here are"
            " channels_last: change ~/.keras/keras.json (or that in $KERAS_HOME), or"
            " call keras.config.set_image_data_format"
        )


def import_matplotlib() -> types.ModuleType:
    """Imports matplotlib on its first use, or before Keras imports it.

    Raises:
      UsageError: matplotlib refuses one of its settings.
    """
    try:
        return importlib.import_module("matplotlib")
    except ValueError as error:
        raise errors.UsageError(
            f"matplotlib does not load ({errors.one_line(error)}): correct the variable"
            " MPLBACKEND or the file matplotlibrc"
        ) from error


def import_optional(module: str, *, extra: str, purpose: str) -> types.ModuleType:
    """Imports an optional dependency, or says how to get it.

    Args:
      module: Name to import, e.g. ``"simplejpeg"``.
      extra: The extra of this package that installs it.
      purpose: What needs it: the subject of the message "... needs simplejpeg".

    Returns:
      The imported module.

    Raises:
      UsageError: The module is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # A broken installation may raise anything.
        raise errors.UsageError(
            f"{purpose} needs {module}, which is not usable here"
            f" ({errors.one_line(error)}): pip install 'afad-tfdata[{extra}]'"
        ) from error


def _import_quietly(name: str) -> Any:
    """Imports TensorFlow or Keras; hides its lines after `hide_start_lines`."""
    # Only the first thread hides lines: the next one would mistake the pipe for stderr.
    if not _hide or "tensorflow" in sys.modules or not _hiding.acquire(blocking=False):
        return importlib.import_module(name)
    try:
        with _without_start_lines():
            return importlib.import_module(name)
    finally:
        _hiding.release()


if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:

    class _LazyModule:
        """Takes the place of a module until one of its attributes is needed."""

        def __init__(self, name: str) -> None:
            self.__dict__["_name"] = name

        def __getattr__(self, attribute: str) -> Any:
            # TensorFlow reads these when it is imported.  Its messages at the start
            # would hide those of the program; its errors are still shown.  Values that
            # the user has set are kept.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            # Without this variable, Keras reads its keras.json.
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            _check_docstrings()
            # TensorFlow imports Keras, which imports matplotlib and works without it.
            with contextlib.suppress(ImportError):
                import_matplotlib()
            is_keras = self.__dict__["_name"] == "keras"
            if is_keras:
                _check_keras_backend()
            module = _import_quietly(self._name)
            if is_keras:
                check_keras_image_format()
            value = getattr(module, attribute)
            # Python calls __getattr__ only for attributes that are not stored here.
            self.__dict__[attribute] = value
            return value

        def __repr__(self) -> str:
            return f"<lazy module {self._name!r}>"

    tf = _LazyModule("tensorflow")
    keras = _LazyModule("keras")
