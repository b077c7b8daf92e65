"""Checkpoints: one self-checking file each, the same for any number of replicas.

A file holds named arrays and one JSON value (the outer loop's state), and ends with the
SHA-256 of everything before, so that a torn or changed file is noticed::

    magic "AFADCKP1" | header length (8 bytes) | header JSON | array bytes | SHA-256

A mirrored variable is stored once and restored to every replica, however many there are
then.  ``tf.train.Checkpoint`` would leave out the dropout seeds of a Keras model, and
restores a torn file without an error if its index is undamaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.distributed import strategies

# Plain numbers, as `numpy.dtype.str` names them.  No objects, which numpy would
# unpickle, and no structures.
_DTYPE = re.compile(r"[<>|=][biufcV]\d+")
_MAGIC = b"AFADCKP1"
_DIGEST_BYTES = 32
# After the magic and the 8 bytes that hold the header's length.
_HEADER_START = len(_MAGIC) + 8
_NAME = re.compile(r"step-(\d{10})\.ckpt")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
      arrays: By name.
      state: The outer loop's, as JSON values.
    """

    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def path_of(directory: str, step: int) -> str:
    """File name of the checkpoint after so many steps."""
    return files.join(directory, f"step-{step:010d}.ckpt")


def steps(directory: str) -> list[int]:
    """Steps of the checkpoints in a directory, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(m.group(1)) for n in names if (m := _NAME.fullmatch(n)))


def save(path: str, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
      path: Where to.
      arrays: Named arrays of plain dtypes.
      state: JSON values.

    Raises:
      UsageError: The disk is full or the directory cannot be written.
    """
    table, blobs, offset = [], [], 0
    for name, array in arrays.items():
        # ascontiguousarray makes a scalar one-dimensional; reshape undoes that.
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        table.append([name, array.dtype.str, list(array.shape), offset])
        blobs.append(array.tobytes())
        offset += array.nbytes
    header = json.dumps({"arrays": table, "state": state}).encode()
    body = b"".join([_MAGIC, len(header).to_bytes(8, "little"), header, *blobs])
    files.write_atomic(path, body + hashlib.sha256(body).digest())


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
            f"cannot read the checkpoint {path}: {error.strerror}; name one that is"
            " there"
        ) from error
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise errors.DataError(
            f"the checkpoint {path} is torn or damaged: its SHA-256 does not fit;"
            " use another one"
        )
    try:
        return _parsed(body)
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise errors.DataError(
            f"the checkpoint {path} is none that this version wrote"
            f" ({errors.one_line(error)}); use another one"
        ) from error


def load_state(path: str) -> dict[str, Any]:
    """Reads the state of a checkpoint without its arrays, which may be gigabytes.

    A damaged array is therefore not noticed; `load` checks before anything is used.

    Raises:
      DataError: The file cannot be read, is torn, or its header is damaged.
    """
    try:
        with open(path, "rb") as f:
            start = f.read(_HEADER_START)
            length = int.from_bytes(start[len(_MAGIC) :], "little")
            if not start.startswith(_MAGIC) or length > os.path.getsize(path):
                raise ValueError("it does not begin as one does")
            header = json.loads(f.read(length))
        end = max(
            (
                offset + np.dtype(dtype).itemsize * math.prod(shape)
                for _, dtype, shape, offset in header["arrays"]
            ),
            default=0,
        )
        # A file that was cut off is the commonest damage, and its size tells.
        whole = _HEADER_START + length + end + _DIGEST_BYTES
        if os.path.getsize(path) != whole:
            raise ValueError(f"it should have {whole} bytes")
        return dict(header["state"])
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise errors.DataError(
            f"the checkpoint {path} is torn or damaged ({errors.one_line(error)});"
            " use another one"
        ) from error


def _parsed(body: bytes) -> Checkpoint:
    """The content of a file whose digest fits; any error where it is not ours."""
    start = _HEADER_START
    length = int.from_bytes(body[len(_MAGIC) : start], "little")
    header = json.loads(body[start : start + length])
    arrays = {}
    for name, dtype, shape, offset in header["arrays"]:
        if not _DTYPE.fullmatch(dtype):
            raise TypeError(f"an array of {dtype!r}")
        kind = np.dtype(dtype)
        count = math.prod(shape)
        flat = np.frombuffer(body, kind, count, start + length + offset)
        arrays[name] = flat.reshape(shape)
    if not isinstance(header["state"], dict):
        raise TypeError("its state is no object")
    return Checkpoint(arrays=arrays, state=header["state"])


def load_newest(directory: str) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none.

    A damaged one is named in the log, and the one before is taken.

    Raises:
      DataError: There are checkpoints, and none is whole.
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
      directory: Where they are.
      keep: Steps whose checkpoints stay: the best, and every few epochs.
      last: How many of the newest stay.
    """
    found = steps(directory)
    staying = {*keep, *found[-last:]}
    for step in found:
        if step not in staying:
            files.remove_if_there(path_of(directory, step))


def variable_values(
    strategy: tf.distribute.Strategy, groups: Mapping[str, Sequence[keras.Variable]]
) -> dict[str, np.ndarray]:
    """Logical values of lists of Keras variables, by ``group/position``."""
    return {
        f"{group}/{i}": strategies.local_value(strategy, variable)
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
    """Puts stored values into variables, on every replica.

    Args:
      strategy: That of the variables.
      groups: As they were saved.
      arrays: From a `Checkpoint`.
      where: What was read, for the message.

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
                f"{where} does not fit this network: {variable.path} has shape"
                f" {tuple(variable.shape)}, stored is {found}; use the flags that it"
                " was trained with"
            )
    if len(stored) != len(pairs):
        raise errors.UsageError(
            f"{where} does not fit this network: it holds {len(stored)} variables,"
            f" this network has {len(pairs)}; use the flags that it was trained with"
        )
    with strategy.scope():
        for name, variable in pairs:
            variable.assign(arrays[name])
