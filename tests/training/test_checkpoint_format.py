"""Arrays and values in a safetensors file: any dtype, any damage, other programs."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from afad_tfdata.training import checkpoint_format

_DTYPES = (
    *("float16", "float32", "float64", ">f4", "bool", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
)
_VALUES = {"step": 3, "loss": [0.1 + 0.2, math.inf], "best": None, "text": "é\n"}


def array_of(dtype, shape):
    numbers = np.arange(math.prod(shape)).reshape(shape) % 5
    return numbers.astype(getattr(ml_dtypes, dtype, dtype))


def stored_header(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("shape", [(), (0, 4), (1,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_dtype_and_shape_comes_back(dtype, shape, tmp_path):
    array = array_of(dtype, shape)
    content = checkpoint_format.pack({"model/0 a": array}, _VALUES)
    arrays, values = checkpoint_format.unpack(content)
    found = arrays["model/0 a"]
    assert values == _VALUES
    assert found.shape == shape and found.dtype == array.dtype.newbyteorder("=")
    assert found.tobytes() == array.astype(found.dtype).tobytes()
    # Other programs open it, too.
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    foreign = safetensors_numpy.load_file(path)["model/0 a"]
    assert foreign.tobytes() == found.tobytes()
    assert checkpoint_format.read_values(str(path)) == _VALUES


def test_transposed_arrays_keep_their_order():
    array = array_of("float32", (3, 5)).T
    found = checkpoint_format.unpack(checkpoint_format.pack({"a": array}, {})).arrays[
        "a"
    ]
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "array",
    [np.array(["text"]), np.array([None]), np.zeros(2, [("a", "i4")])],
)
def test_only_numbers_are_stored(array):
    with pytest.raises(TypeError, match="cannot store weights, an array of"):
        checkpoint_format.pack({"weights": array}, {})


def test_what_another_program_rewrites_keeps_its_digest():
    arrays = {"b": array_of("float32", (2,)), "a": array_of("int8", (3,))}
    content = checkpoint_format.pack(arrays, _VALUES)
    header, _ = stored_header(content)
    again = safetensors_numpy.save(
        dict(reversed(safetensors_numpy.load(content).items())),
        metadata=header["__metadata__"],
    )
    assert checkpoint_format.unpack(again).values == _VALUES


def test_every_changed_byte_is_noticed_or_changes_nothing():
    arrays = {"a": array_of("float32", (5,)), "b": array_of("bfloat16", ())}
    content = checkpoint_format.pack(arrays, {"step": 1})
    whole = checkpoint_format.unpack(content)
    unnoticed = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        try:
            found = checkpoint_format.unpack(bytes(changed))
        except checkpoint_format.ContentError:
            continue
        unnoticed += 1
        assert found.values == whole.values and found.arrays.keys() == arrays.keys()
        for name, array in found.arrays.items():
            assert array.tobytes() == whole.arrays[name].tobytes()
    assert unnoticed < 8  # Spaces that fill the header up to a multiple of 8.
    for length in range(0, len(content), 7):
        with pytest.raises(checkpoint_format.ContentError):
            checkpoint_format.unpack(content[:length])


def _overlapping(header, data):
    header["b"] = dict(header["a"])
    return with_header(header, data)


def _huge(header, data):
    header["a"].update(shape=[1 << 40], data_offsets=[0, 1 << 42])
    return with_header(header, data)


def _huge_and_empty(header, data):
    header["a"].update(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])
    return with_header(header, b"")


def _long_header(header, data):
    return (1 << 60).to_bytes(8, "little") + with_header(header, data)[8:]


def _unknown_dtype(header, data):
    header["__metadata__"]["dtypes"] = json.dumps({"a": "object"})
    return with_header(header, data)


def _deep_values(header, data):
    header["__metadata__"]["values"] = "[" * 100_000
    return with_header(header, data)


def _later_version(header, data):
    header["__metadata__"]["version"] = "3"
    return with_header(header, data)


def _list_of_values(header, data):
    header["__metadata__"]["values"] = "[1]"
    return with_header(header, data)


def _foreign(header, data):
    del header["__metadata__"]
    return with_header(header, data)


@pytest.mark.parametrize(
    "damage",
    [
        *(_overlapping, _huge, _huge_and_empty, _long_header, _unknown_dtype),
        *(_deep_values, _later_version, _list_of_values, _foreign),
    ],
)
@pytest.mark.parametrize("forged", [False, True])
def test_hostile_files_are_refused(damage, forged, monkeypatch, tmp_path):
    header, data = stored_header(
        checkpoint_format.pack({"a": array_of("int8", (16,))}, {})
    )
    content = damage(header, data)
    if forged:
        # Whoever writes such a file can also give it a digest that fits.
        digest = header.get("__metadata__", {}).get("sha256")
        monkeypatch.setattr(checkpoint_format, "_digest", lambda *_: digest)
    with pytest.raises(checkpoint_format.ContentError) as caught:
        checkpoint_format.unpack(content)
    assert "\n" not in str(caught.value)
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    try:
        assert isinstance(checkpoint_format.read_values(str(path)), dict)
    except checkpoint_format.ContentError:
        pass
