"""Checkpoints: each is one file with a digest, the same for any number of replicas.

A file contains named arrays and the outer loop's state, in the safetensors format with
a digest (`checkpoint_format`): other programs open it with ``safetensors``.  The arrays
are called ``group/position path``, such as ``model/0000 conv2d/kernel``, where the path
is Keras' path of the variable.  Reading uses only group and position, because Keras
counts layers, and so chooses their names, in each process.

A mirrored variable is stored once and restored to every replica, however many there
are.  ``tf.train.Checkpoint`` would leave out the dropout seeds of a Keras model, and
restores a torn file without an error if its index is undamaged.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import checkpoint_format
from afad_tfdata.training.distributed import strategies

_NAME = re.compile(r"step-(\d{10})\.ckpt")
_KEY = re.compile(r"([^/]+)/(0|[1-9][0-9]*)")
_STORED_NAME = re.compile(r"([^/]+)/([0-9]{4,})(?: (.*))?", re.DOTALL)
# Keras counts such objects in each process, and their names contain the number.
_COUNTED = re.compile(r"(seed_generator)_\d+")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
      arrays: Arrays by ``group/position``.
      state: The outer loop's state, as JSON values.
      paths: Keras' paths of the variables, by ``group/position``; empty in a file of
        version 0.1.0.
    """

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]
    paths: dict[str, str] = dataclasses.field(default_factory=dict)


def path_of(directory: str, step: int) -> str:
    """Path of the checkpoint after a number of steps."""
    return files.join(directory, f"step-{step:010d}.ckpt")


def steps(directory: str) -> list[int]:
    """Steps of the checkpoints in a directory, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(m.group(1)) for n in names if (m := _NAME.fullmatch(n)))


def save(
    path: str,
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    paths: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint, completely or not at all.

    Args:
      path: The file.
      arrays: Arrays of numbers, by ``group/position``.
      state: JSON values.
      paths: Names of the arrays for other programs, by ``group/position``.

    Raises:
      UsageError: The disk is full or the directory cannot be written.
    """
    paths = paths or {}
    named = {_stored_name(key, paths.get(key, "")): arrays[key] for key in arrays}
    files.write_atomic(path, checkpoint_format.pack(named, state))


def load(path: str) -> Checkpoint:
    """Reads a checkpoint, after checking its SHA-256.

    Raises:
      UsageError: The file cannot be read.
      DataError: It is torn or was changed.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise errors.UsageError(
            f"cannot read the checkpoint {path}: {error.strerror}; name one that exists"
        ) from error
    try:
        if content.startswith(checkpoint_format.FIRST_MAGIC):
            arrays, state = checkpoint_format.unpack_first(content)
            return Checkpoint(arrays, state)
        return _checkpoint_of(checkpoint_format.unpack(content))
    except checkpoint_format.ContentError as error:
        raise _damaged_checkpoint(path, error) from error


def load_state(path: str) -> dict[str, Any]:
    """Reads the state of a checkpoint without its arrays, which may be gigabytes.

    Damage in an array is therefore not noticed here; `load` checks the whole file.

    Raises:
      DataError: The file cannot be read, is torn, or its header is damaged.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(len(checkpoint_format.FIRST_MAGIC))
        if start == checkpoint_format.FIRST_MAGIC:
            return checkpoint_format.read_first_state(path)
        return checkpoint_format.read_values(path)
    except (OSError, checkpoint_format.ContentError) as error:
        raise _damaged_checkpoint(path, error) from error


def _damaged_checkpoint(path: str, error: Exception) -> errors.DataError:
    """The error of a checkpoint that is damaged."""
    return errors.DataError(
        f"the checkpoint {path} is torn or damaged ({errors.one_line(error)}); use"
        " another one"
    )


def _stored_name(key: str, path: str) -> str:
    """An array's name in a checkpoint, with a position of 4 digits for sorting."""
    if not (match := _KEY.fullmatch(key)):
        return key
    name = f"{match[1]}/{int(match[2]):04d}"
    return f"{name} {path}" if path else name


def _checkpoint_of(content: checkpoint_format.Content) -> Checkpoint:
    """A checkpoint from the content of its file."""
    arrays, paths = {}, {}
    for name, array in content.arrays.items():
        key = name
        if match := _STORED_NAME.fullmatch(name):
            key = f"{match[1]}/{int(match[2])}"
            if match[3]:
                paths[key] = match[3]
        if key in arrays:
            raise checkpoint_format.ContentError(f"{key} is in it twice")
        arrays[key] = array
    return Checkpoint(arrays, content.values, paths)


def load_newest(directory: str) -> Checkpoint | None:
    """The newest checkpoint that is not damaged; None if there are no checkpoints.

    If a checkpoint is damaged, the log names it, and the one before is taken.

    Raises:
      DataError: There are checkpoints, but all are damaged.
    """
    found = steps(directory)
    for step in reversed(found):
        try:
            return load(path_of(directory, step))
        except errors.DataError as error:
            _log.warning("%s; going back to the one before", error)
    if found:
        raise errors.DataError(
            f"none of the {len(found)} checkpoints in {directory} is whole; remove"
            " the directory to train from the start"
        )
    return None


def prune(directory: str, keep: Sequence[int], *, last: int) -> None:
    """Removes all checkpoints but the last few and the named ones.

    Args:
      directory: Directory of the checkpoints.
      keep: Steps whose checkpoints are kept: the best, and every few epochs.
      last: Number of the newest checkpoints that are kept.
    """
    found = steps(directory)
    staying = {*keep, *found[-last:]}
    for step in found:
        if step not in staying:
            files.remove_if_there(path_of(directory, step))


def variable_values(
    strategy: tf.distribute.Strategy, groups: Mapping[str, Sequence[keras.Variable]]
) -> dict[str, np.ndarray]:
    """Values of Keras variables for a checkpoint, by ``group/position``."""
    return {
        f"{group}/{i}": strategies.local_value(strategy, variable)
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def variable_paths(
    groups: Mapping[str, Sequence[keras.Variable]],
) -> dict[str, str]:
    """Keras' paths of the variables in a checkpoint, by ``group/position``.

    They are for people and other programs, and need not be unique.
    """
    return {
        f"{group}/{i}": _COUNTED.sub(r"\1", _variable_path(variable))
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def assign(
    strategy: tf.distribute.Strategy,
    groups: Mapping[str, Sequence[keras.Variable]],
    arrays: Mapping[str, np.ndarray],
    *,
    where: str,
) -> None:
    """Puts the values of a checkpoint into variables, on every replica.

    Args:
      strategy: The strategy of the variables.
      groups: Lists of variables by group, as for `variable_values`.
      arrays: Arrays of a `Checkpoint`.
      where: Where the arrays come from, for the message.

    Raises:
      UsageError: The variables are not those that were saved; nothing is changed.
    """
    pairs = [
        (f"{group}/{i}", variable)
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    ]
    stored = {n for n in arrays if n.partition("/")[0] in groups}
    for name, variable in pairs:
        if name not in arrays or tuple(variable.shape) != arrays[name].shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise errors.UsageError(
                f"{where} does not fit this network: {_variable_path(variable)} has"
                f" shape {tuple(variable.shape)}, stored is {found}; use the flags that"
                " it was trained with"
            )
    if len(stored) != len(pairs):
        raise errors.UsageError(
            f"{where} does not fit this network: it has {len(stored)} variables,"
            f" this network has {len(pairs)}; use the flags that it was trained with"
        )
    with strategy.scope():
        for name, variable in pairs:
            variable.assign(arrays[name])


def _variable_path(variable: keras.Variable | tf.Variable) -> str:
    """The path of a variable in a checkpoint; TensorFlow's own have only a name."""
    return getattr(variable, "path", "") or variable.name
