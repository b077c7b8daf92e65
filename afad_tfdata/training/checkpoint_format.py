"""The formats of checkpoints: safetensors with a digest, and that of version 0.1.0.

A checkpoint is one safetensors file of named arrays and JSON values.  Workers send each
other messages in the same form.

Any program opens the arrays with ``safetensors.numpy.load_file``.  The header's
``__metadata__`` contains what the format itself has no place for::

    format      "afad_tfdata"
    version     of this layout, "2"
    values      JSON: what belongs to the arrays, such as a training's state
    dtypes      JSON: dtypes that numpy does not have, such as bfloat16, by array; those
                arrays are stored as unsigned integers of the same bits
    sha256      hexadecimal, of the content; see `_digest`

The digest is of the content and not of the file's bytes: it stays right if another
program writes the same arrays and metadata in another order.

Version 0.1.0 wrote another format, which is only read::

    magic "AFADCKP1" | header length (8 bytes) | header JSON | array bytes | SHA-256

Its header contains ``arrays``, a list of name, dtype, shape and offset, and ``state``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

FORMAT = "afad_tfdata"
VERSION = "2"
# safetensors has the same limit for headers, and refuses longer ones.
_MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
# The dtypes that both safetensors and numpy have.
_NATIVE = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"},
}
_OTHER_DTYPE = re.compile(r"(u?int|bfloat|float|complex)[0-9][0-9a-z_]{0,20}")
# The errors that parsing a damaged file may raise.  This module turns all of them into
# `ContentError`.
_PARSE_ERRORS = (LookupError, TypeError, ValueError, OverflowError, RecursionError)
# The format of version 0.1.0.
FIRST_MAGIC = b"AFADCKP1"
# Plain numbers, as `numpy.dtype.str` names them: no objects and no structures.
_FIRST_DTYPE = re.compile(r"[<>|=][biufcV]\d+")
_DIGEST_BYTES = 32
# The header begins after the magic and the 8 bytes of its length.
_FIRST_HEADER_START = len(FIRST_MAGIC) + 8


class ContentError(ValueError):
    """The content is not what `pack` returns, or was changed since."""


class Content(NamedTuple):
    """What a file contains.

    Attributes:
      arrays: By name, in alphabetical order, with the shapes and dtypes that they had.
      values: JSON values.
    """

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def pack(arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint: arrays and JSON values in the safetensors format.

    Args:
      arrays: Numbers of any dtype of numpy or ml_dtypes, of any shape.  Big-endian ones
        are stored as little-endian ones.
      values: JSON values; infinity and NaN are allowed.

    Raises:
      TypeError: An array contains objects, text or structures.
    """
    from safetensors import numpy as safetensors_numpy

    stored, dtypes = {}, {}
    for name, array in arrays.items():
        stored[name], other = _as_native(np.asarray(array), name)
        if other:
            dtypes[name] = other
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "values": json.dumps(dict(values)),
        "dtypes": json.dumps(dtypes),
    }
    metadata["sha256"] = _digest(stored, metadata)
    return safetensors_numpy.save(stored, metadata=metadata)


def unpack(content: bytes) -> Content:
    """The arrays and values in the bytes of a checkpoint, after checking its digest.

    The memory that it needs is at most a small multiple of the content's size, whatever
    the content claims.

    Raises:
      ContentError: It is damaged, or not from `pack`.
    """
    import safetensors

    try:
        # It also checks that the arrays are inside the file and do not overlap.
        found = safetensors.deserialize(content)
    except (safetensors.SafetensorError, *_PARSE_ERRORS) as error:
        raise ContentError(str(error)) from error
    try:
        metadata = _metadata_of(_parsed_header(content[:_LENGTH_BYTES], content[8:]))
        stored = {
            name: np.frombuffer(part["data"], _NATIVE[part["dtype"]]).reshape(
                part["shape"]
            )
            for name, part in sorted(found, key=lambda pair: pair[0])
        }
        if _digest(stored, metadata) != metadata["sha256"]:
            raise ContentError("its SHA-256 does not match")
        dtypes = json.loads(metadata["dtypes"])
        arrays = {
            name: _from_native(array, dtypes[name]) if name in dtypes else array
            for name, array in stored.items()
        }
        return Content(arrays, _values_in(metadata))
    except ContentError:
        raise
    except _PARSE_ERRORS as error:
        raise ContentError(f"{type(error).__name__}: {error}") from error


def read_values(path: str) -> dict[str, Any]:
    """The JSON values in a checkpoint, without its arrays, which may be gigabytes.

    The header and the file's size are checked, the digest is not.

    Raises:
      ContentError: The header is damaged, or the size is not the one that it gives.
      OSError: The file cannot be read.
    """
    with open(path, "rb") as f:
        start = f.read(_LENGTH_BYTES)
        text = f.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES))
        size = f.seek(0, 2)
    try:
        header = _parsed_header(start, text)
        ends = (
            part["data_offsets"][1]
            for name, part in header.items()
            if name != "__metadata__"
        )
        whole = len(start) + int.from_bytes(start, "little") + max(ends, default=0)
        # A file that was cut off is the most frequent damage.
        if size != whole:
            raise ContentError(f"it has {size} bytes instead of {whole}")
        return _values_in(_metadata_of(header))
    except ContentError:
        raise
    except _PARSE_ERRORS as error:
        raise ContentError(f"{type(error).__name__}: {error}") from error


def _parsed_header(start: bytes, rest: bytes) -> dict[str, Any]:
    """The JSON header of a checkpoint, a safetensors file."""
    length = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or length > min(len(rest), _MAX_HEADER_BYTES):
        raise ContentError("its header is cut off")
    header = json.loads(rest[:length])
    if not isinstance(header, dict):
        raise ContentError("its header is not a JSON object")
    return header


def _metadata_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The metadata in the header of a checkpoint that this package wrote."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ContentError("this package did not write it")
    if metadata["version"] != VERSION:
        raise ContentError(
            f"its layout is version {metadata['version']!r}, and this package reads"
            f" {VERSION}"
        )
    return metadata


def _values_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON values in the metadata of a checkpoint."""
    values = json.loads(metadata["values"])
    if not isinstance(values, dict):
        raise ContentError("its values are not a JSON object")
    return values


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of a checkpoint's metadata, and of each array's name, dtype and bytes.

    The JSON lines between the bytes give every array's length.  Different contents are
    therefore never the same sequence of bytes.
    """
    digest = hashlib.sha256()
    covered = {name: text for name, text in metadata.items() if name != "sha256"}
    digest.update(json.dumps(covered, sort_keys=True).encode() + b"\n")
    for name, array in sorted(arrays.items()):
        line = [name, array.dtype.str, list(array.shape)]
        digest.update(json.dumps(line).encode() + b"\n")
        # The view has no dimension of length 0, and no copy is made.
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _as_native(array: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """The array that a checkpoint stores; its dtype if stored as other numbers."""
    # ascontiguousarray makes a scalar one-dimensional; reshape undoes that.
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype.str in _NATIVE.values():
        return array, ""
    dtype = array.dtype.name
    if array.dtype.hasobject or not _OTHER_DTYPE.fullmatch(dtype):
        raise TypeError(f"cannot store {name}, an array of {dtype}")
    size = array.dtype.itemsize
    if size in (1, 2, 4, 8):
        return array.view(f"<u{size}"), dtype
    # Other dtypes, such as complex128, are stored as bytes in one more dimension.
    return array.reshape(-1).view(np.uint8).reshape(*array.shape, size), dtype


def _from_native(array: np.ndarray, name: str) -> np.ndarray:
    """An array of a checkpoint with its own dtype; undoes `_as_native`."""
    if not _OTHER_DTYPE.fullmatch(name):
        raise ContentError(f"an array of {name!r}")
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, name, name))
    if array.dtype.itemsize == dtype.itemsize:
        return array.view(dtype)
    shape = array.shape[:-1]
    if array.dtype != np.uint8 or array.shape[-1:] != (dtype.itemsize,):
        raise ContentError(f"an array of {name} with elements of another size")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return array.reshape(-1).view(dtype).reshape(shape)


def unpack_first(content: bytes) -> Content:
    """The arrays and state in a checkpoint of version 0.1.0, after checking its digest.

    Raises:
      ContentError: The content is damaged.
    """
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ContentError("its SHA-256 does not match")
    try:
        length = int.from_bytes(body[len(FIRST_MAGIC) : _FIRST_HEADER_START], "little")
        header = json.loads(body[_FIRST_HEADER_START : _FIRST_HEADER_START + length])
        arrays = {}
        for name, dtype, shape, offset in header["arrays"]:
            if not _FIRST_DTYPE.fullmatch(dtype):
                raise TypeError(f"an array of {dtype!r}")
            flat = np.frombuffer(
                body, dtype, math.prod(shape), _FIRST_HEADER_START + length + offset
            )
            arrays[name] = flat.reshape(shape)
        if not isinstance(header["state"], dict):
            raise TypeError("its state is no object")
        return Content(arrays, header["state"])
    except _PARSE_ERRORS as error:
        raise ContentError(f"{type(error).__name__}: {error}") from error


def read_first_state(path: str) -> dict[str, Any]:
    """The state in a checkpoint of version 0.1.0, without its arrays.

    The digest is not checked.

    Raises:
      ContentError: The header is damaged, or the size is not the one that it gives.
      OSError: The file cannot be read.
    """
    with open(path, "rb") as f:
        start = f.read(_FIRST_HEADER_START)
        size = os.path.getsize(path)
        length = int.from_bytes(start[len(FIRST_MAGIC) :], "little")
        text = f.read(min(length, size))
    try:
        header = json.loads(text)
        end = max(
            (
                offset + np.dtype(dtype).itemsize * math.prod(shape)
                for _, dtype, shape, offset in header["arrays"]
            ),
            default=0,
        )
        whole = _FIRST_HEADER_START + length + end + _DIGEST_BYTES
        if size != whole:
            raise ValueError(f"it has {size} bytes instead of {whole}")
        return dict(header["state"])
    except _PARSE_ERRORS as error:
        raise ContentError(f"{type(error).__name__}: {error}") from error
