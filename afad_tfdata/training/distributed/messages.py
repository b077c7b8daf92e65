"""What one worker sends to the others: JSON values and arrays, and nothing that runs.

The port between workers has no authentication.  A message is therefore data only, in
the same checked form as a checkpoint (`checkpoint_format`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.training import checkpoint_format

# An object with this one key stands for the array of that number.
_ARRAY = "array of the message"
_ERRORS = {
    kind.__name__: kind
    for kind in (
        *(errors.AfadError, errors.UsageError, errors.DataError),
        *(errors.PreemptedError, errors.WorkerLostError),
    )
}


def encode_message(value: Any) -> bytes:
    """A message that contains a value.

    Args:
      value: None, a bool, a number, a string, an array, or lists and dicts of these;
        keys are strings.

    Raises:
      TypeError: The value contains something else.
    """
    arrays: dict[str, np.ndarray] = {}
    plain = _plain_message(value, arrays)  # It fills `arrays`.
    return checkpoint_format.pack(arrays, {"value": plain})


def encode_error_message(error: errors.AfadError) -> bytes:
    """A message that says that the sender raised an error."""
    kind = next(c.__name__ for c in type(error).__mro__ if c.__name__ in _ERRORS)
    return checkpoint_format.pack({}, {"error": kind, "message": str(error)})


def decode_message(message: bytes) -> Any:
    """The value of a message, equal to the one that was encoded.

    Raises:
      AfadError: The sender raised it.
      WorkerLostError: The message was damaged on its way.
    """
    try:
        arrays, content = checkpoint_format.unpack(message)
        if "error" not in content:
            return _restored_message(content["value"], arrays)
        raised = _ERRORS[content["error"]](content["message"])
    except (checkpoint_format.ContentError, LookupError, RecursionError) as error:
        raise errors.WorkerLostError(
            "a message from the first worker arrived damaged"
            f" ({errors.one_line(error)}); the same command on all workers continues"
            " from the last checkpoint"
        ) from error
    raise raised


def _plain_message(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A message as JSON values; its arrays are collected."""
    if isinstance(value, np.ndarray | np.generic):
        number = str(len(arrays))
        arrays[number] = np.asarray(value)
        return {_ARRAY: number}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or value.keys() == {_ARRAY}:
            raise TypeError(f"a message cannot contain a dict of {list(value)}")
        return {key: _plain_message(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_message(item, arrays) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a message cannot contain a {type(value).__name__}")


def _restored_message(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A message from JSON values and arrays."""
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _restored_message(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored_message(item, arrays) for item in value]
    return value
