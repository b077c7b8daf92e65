"""TensorFlow and Keras, imported on first use.

``import tensorflow`` costs seconds; a command that answers ``--help`` or refuses a
flag has no use for it.  Modules write
``from afad_tfdata.common.lazy import keras, tf`` and
touch neither at import time: type checkers see the real modules, and everybody else a
stand-in that imports on the first attribute access.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__all__ = ["keras", "tf"]

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:

    class _LazyModule:
        """Stands for a module until an attribute of it is asked for."""

        def __init__(self, name: str) -> None:
            self.__dict__["_name"] = name

        def __getattr__(self, attribute: str) -> Any:
            # The C++ runtime's start-up chatter hides a program's own lines; errors
            # still show.  A value set by the user wins.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            value = getattr(importlib.import_module(self._name), attribute)
            self.__dict__[attribute] = value
            return value

        def __repr__(self) -> str:
            return f"<lazy module {self._name!r}>"

    tf = _LazyModule("tensorflow")
    keras = _LazyModule("keras")
