"""Faces with age and gender, from the AFAD folder to a verified frozen graph.

Each module can be used alone; the output of one is the input of the next::

    records -> input_fn -> trainer -> evaluation -> freeze -> prediction

``afad_tfdata.records`` works after ``import afad_tfdata``.  Importing the package is
cheap: a module is loaded on first use, and TensorFlow by the first call that needs it.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

__all__ = [
    "augment",
    "evaluation",
    "faces",
    "freeze",
    "input_fn",
    "models",
    "prediction",
    "preprocess",
    "records",
    "report",
    "schema",
    "trainer",
]


def __getattr__(name: str) -> Any:
    # PEP 562.  Imported submodules become attributes, so that this runs once for each.
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
