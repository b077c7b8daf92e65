"""Fingerprints of a caller's model, functions and arrays, for a run that continues.

A run that continues with another loss, other data or another function in a layer ends
without an error, and its history is that of neither.  Objects have no identity from one
process to the next, so that their content is compared: the layers of a model, the code
of functions with the values that it uses, and the examples of arrays.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras

# So many images of an array are compared, evenly spaced: arrays may have gigabytes.
_COMPARED_IMAGES = 256
_PYTHON = "python"
# Keys whose values are names of layers, or do not affect what is computed.
_DROPPED = ("compile_config", "shared_object_id", "build_config", "registered_name")
_NAME_KEYS = ("name", "keras_history", "input_layers", "output_layers")


def of_functions(functions: list[Any]) -> str:
    """A fingerprint of what a caller's functions compute; empty if there are none.

    It begins with Python's version, because other versions compile other code.
    """
    if not functions:
        return ""
    version = ".".join(platform.python_version_tuple()[:2])
    seen: dict[int, Any] = {}
    text = "\n".join(_text_of(function, seen) for function in functions)
    return f"{_PYTHON}{version}:{hashlib.sha256(text.encode()).hexdigest()}"


def may_be_the_same(one: str, other: str) -> bool:
    """Whether two fingerprints are equal, or of functions under two Python versions."""
    functions = one.startswith(_PYTHON) and other.startswith(_PYTHON)
    versions = {text.partition(":")[0] for text in (one, other)}
    return one == other or (functions and len(versions) > 1)


def of_arrays(images: np.ndarray, labels: Mapping[str, np.ndarray]) -> str:
    """A fingerprint of the examples in a caller's arrays."""
    digest = hashlib.sha256()
    rows = np.linspace(0, len(images) - 1, min(len(images), _COMPARED_IMAGES))
    digest.update(np.ascontiguousarray(images[rows.astype(int)]).tobytes())
    for name in sorted(labels):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(labels[name]).tobytes())
    return digest.hexdigest()


def of_model(model: keras.Model) -> str:
    """A fingerprint of a caller's model: its layers and connections, without names.

    Keras counts layers in the whole process, so that the same code gives other names
    the second time.
    """
    try:
        description = keras.saving.serialize_keras_object(model)
    except Exception:  # Another check refuses such a model and gives the reason.
        description = {"class_name": type(model).__qualname__}
    places: dict[str, str] = {}
    value = {
        "layers": _without_names(description, places),
        "weights": [list(weight.shape) for weight in model.weights],
        "trained": [list(w.shape) for w in model.trainable_weights],
    }
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def functions_in(model: keras.Model) -> list[Any]:
    """The Python functions in a model's layers, which its fingerprint leaves out."""
    found = (getattr(x, "function", None) for x in model._flatten_layers())
    return [function for function in found if callable(function)]


def _text_of(value: Any, seen: dict[int, Any]) -> str:
    """What a fingerprint is taken of: a text, equal wherever the code is the same."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if id(value) in seen:
        return "seen"
    seen[id(value)] = value  # Kept alive, so that nothing else gets its id.
    if isinstance(value, list | tuple):
        return f"({', '.join(_text_of(part, seen) for part in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_text_of(part, seen) for part in value))}}}"
    if isinstance(value, Mapping):
        return _text_of(sorted(value.items(), key=repr), seen)
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {value.tobytes().hex()}"
    if isinstance(value, functools.partial):
        return _text_of((value.func, value.args, value.keywords), seen)
    if isinstance(value, types.CodeType):
        parts = (value.co_code, value.co_names, value.co_consts)
        return _text_of(parts, seen)
    if inspect.ismethod(value):
        return _text_of((value.__func__, value.__self__), seen)
    if inspect.isfunction(value):
        return _text_of(_function_parts(value), seen)
    if (function := getattr(value, "python_function", None)) is not None:
        return _text_of(function, seen)  # That of a tf.function.
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, keras.losses.Loss):
        return f"{name} {_text_of(value.get_config(), seen)}"
    # An object of a class of the caller's, which may be called like a function.
    call = next((vars(c)["__call__"] for c in _callable_classes(value)), None)
    if inspect.isfunction(call):
        return f"{name} {_text_of((call, vars(value)), seen)}"
    return str(name)


def _callable_classes(value: Any) -> list[type]:
    """For a fingerprint: the caller's classes that say what calling an object does."""
    libraries = ("keras", "tensorflow", "builtins")
    return [
        base
        for base in type(value).__mro__
        if "__call__" in vars(base)
        and base.__module__.partition(".")[0] not in libraries
    ]


def _function_parts(function: types.FunctionType) -> tuple[Any, ...]:
    """For a fingerprint: the code of a function, and the values that it uses."""
    cells = [_cell_content(cell) for cell in function.__closure__ or ()]
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


def _cell_content(cell: Any) -> Any:
    """For a fingerprint: the value of a variable that a function encloses."""
    try:
        return cell.cell_contents
    except ValueError:  # A variable that has no value yet.
        return None


def _without_names(value: Any, places: dict[str, str], key: str = "") -> Any:
    """For a fingerprint: a description in which order replaces the names of layers."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"  # `functions_in` a model are compared by themselves.
        return {
            k: _without_names(v, places, k)
            for k, v in value.items()
            if k not in _DROPPED
        }
    if isinstance(value, list | tuple):
        return [_without_names(v, places, key) for v in value]
    if isinstance(value, str) and key in _NAME_KEYS:
        return places.setdefault(value, f"layer {len(places)}")
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
