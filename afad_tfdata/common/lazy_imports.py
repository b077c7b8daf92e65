"""TensorFlow and Keras, imported on first use.

``import tensorflow`` takes seconds, and a command that answers ``--help`` or refuses a
flag does not need it.  Modules write
``from afad_tfdata.common.lazy_imports import keras, tf`` and
use neither while they are imported themselves: type checkers see the real modules, and
at run time each is a stand-in that imports the module on the first access to one of its
attributes.
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
            # TensorFlow reads these when it is imported.  Its messages at start would
            # hide a program's own; its errors are still shown.  A user's values win.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            value = getattr(importlib.import_module(self._name), attribute)
            # Python calls __getattr__ only for attributes that are not stored here.
            self.__dict__[attribute] = value
            return value

        def __repr__(self) -> str:
            return f"<lazy module {self._name!r}>"

    tf = _LazyModule("tensorflow")
    keras = _LazyModule("keras")
