"""Checkpoints as version 0.1.0 wrote them; they are only read.

::

    magic "AFADCKP1" | header length (8 bytes) | header JSON | array bytes | SHA-256

The header contains ``arrays``, a list of name, dtype, shape and offset, and ``state``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from typing import Any

import numpy as np

from afad_tfdata.training import safetensors_files

MAGIC = b"AFADCKP1"
# Plain numbers, as `numpy.dtype.str` names them: no objects and no structures.
_DTYPE = re.compile(r"[<>|=][biufcV]\d+")
_DIGEST_BYTES = 32
# The header begins after the magic and the 8 bytes of its length.
_HEADER_START = len(MAGIC) + 8
_PARSE_ERRORS = (LookupError, TypeError, ValueError, OverflowError, RecursionError)


def unpack(content: bytes) -> safetensors_files.Content:
    """The arrays and the state, after checking the digest.

    Raises:
      ContentError: The content is damaged.
    """
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise safetensors_files.ContentError("its SHA-256 does not match")
    try:
        length = int.from_bytes(body[len(MAGIC) : _HEADER_START], "little")
        header = json.loads(body[_HEADER_START : _HEADER_START + length])
        arrays = {}
        for name, dtype, shape, offset in header["arrays"]:
            if not _DTYPE.fullmatch(dtype):
                raise TypeError(f"an array of {dtype!r}")
            flat = np.frombuffer(
                body, dtype, math.prod(shape), _HEADER_START + length + offset
            )
            arrays[name] = flat.reshape(shape)
        if not isinstance(header["state"], dict):
            raise TypeError("its state is no object")
        return safetensors_files.Content(arrays, header["state"])
    except _PARSE_ERRORS as error:
        raise safetensors_files.ContentError(
            f"{type(error).__name__}: {error}"
        ) from error


def read_state(path: str) -> dict[str, Any]:
    """The state without the arrays; the digest is not checked.

    Raises:
      ContentError: The header is damaged, or the size is not the one that it gives.
      OSError: The file cannot be read.
    """
    with open(path, "rb") as f:
        start = f.read(_HEADER_START)
        size = os.path.getsize(path)
        length = int.from_bytes(start[len(MAGIC) :], "little")
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
        whole = _HEADER_START + length + end + _DIGEST_BYTES
        if size != whole:
            raise ValueError(f"it has {size} bytes instead of {whole}")
        return dict(header["state"])
    except _PARSE_ERRORS as error:
        raise safetensors_files.ContentError(
            f"{type(error).__name__}: {error}"
        ) from error
