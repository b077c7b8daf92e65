"""What tells a caller's functions and data apart from others when a run continues.

A run that continues with another loss, other data or another function in a layer ends
without an error, and its history is that of neither.  Objects have no identity from one
process to the next, so that their content is compared: the code of functions with the
values that it uses, and the examples of arrays.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import platform
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras

# So many images of an array are compared, evenly spaced: arrays may have gigabytes.
_COMPARED_IMAGES = 256
_PYTHON = "python"


def of_functions(functions: list[Any]) -> str:
    """A digest of what functions compute; empty if there are none.

    It begins with Python's version, because other versions compile other code.
    """
    if not functions:
        return ""
    version = ".".join(platform.python_version_tuple()[:2])
    seen: dict[int, Any] = {}
    text = "\n".join(_described(function, seen) for function in functions)
    return f"{_PYTHON}{version}:{hashlib.sha256(text.encode()).hexdigest()}"


def may_be_the_same(one: str, other: str) -> bool:
    """Whether two results are equal, or of functions under two versions of Python."""
    functions = one.startswith(_PYTHON) and other.startswith(_PYTHON)
    versions = {text.partition(":")[0] for text in (one, other)}
    return one == other or (functions and len(versions) > 1)


def of_arrays(images: np.ndarray, labels: Mapping[str, np.ndarray]) -> str:
    """A digest of the examples of arrays."""
    digest = hashlib.sha256()
    rows = np.linspace(0, len(images) - 1, min(len(images), _COMPARED_IMAGES))
    digest.update(np.ascontiguousarray(images[rows.astype(int)]).tobytes())
    for name in sorted(labels):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(labels[name]).tobytes())
    return digest.hexdigest()


def _described(value: Any, seen: dict[int, Any]) -> str:
    """A text of what a value computes, equal in each process with the same code."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if id(value) in seen:
        return "seen"
    seen[id(value)] = value  # Kept alive, so that nothing else gets its id.
    if isinstance(value, list | tuple):
        return f"({', '.join(_described(part, seen) for part in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_described(part, seen) for part in value))}}}"
    if isinstance(value, Mapping):
        return _described(sorted(value.items(), key=repr), seen)
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {value.tobytes().hex()}"
    if isinstance(value, functools.partial):
        return _described((value.func, value.args, value.keywords), seen)
    if isinstance(value, types.CodeType):
        parts = (value.co_code, value.co_names, value.co_consts)
        return _described(parts, seen)
    if inspect.ismethod(value):
        return _described((value.__func__, value.__self__), seen)
    if inspect.isfunction(value):
        return _described(_parts_of(value), seen)
    if (function := getattr(value, "python_function", None)) is not None:
        return _described(function, seen)  # That of a tf.function.
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, keras.losses.Loss):
        return f"{name} {_described(value.get_config(), seen)}"
    # An object of a class of the caller's, which may be called like a function.
    call = next((vars(c)["__call__"] for c in _classes(value)), None)
    if inspect.isfunction(call):
        return f"{name} {_described((call, vars(value)), seen)}"
    return str(name)


def _classes(value: Any) -> list[type]:
    """The classes of the caller's that say what a call of an object does."""
    libraries = ("keras", "tensorflow", "builtins")
    return [
        base
        for base in type(value).__mro__
        if "__call__" in vars(base)
        and base.__module__.partition(".")[0] not in libraries
    ]


def _parts_of(function: types.FunctionType) -> tuple[Any, ...]:
    """The code of a function, and the values that it uses."""
    cells = [_content(cell) for cell in function.__closure__ or ()]
    used = {}
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        own = getattr(value, "__module__", None) == function.__module__
        if isinstance(value, bool | int | float | str | tuple | list) or (
            inspect.isfunction(value) and own
        ):
            used[name] = value
    defaults = (function.__defaults__, function.__kwdefaults__)
    return (function.__code__, *defaults, cells, used)


def _content(cell: Any) -> Any:
    """The value of a variable that a function encloses."""
    try:
        return cell.cell_contents
    except ValueError:  # A variable that has no value yet.
        return None
