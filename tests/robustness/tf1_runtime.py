"""The real TensorFlow 1.15 runtime, for the tests marked ``tf1``.

``python -m tests.robustness.tf1_runtime DIR`` downloads the wheel of 1.15.5 (110 MB)
and unpacks it into DIR.  `Runtime` calls the C library in it with ctypes, so that
neither Python 3.7 nor a second environment is needed.  A process cannot load two
versions of TensorFlow, so `run` starts another process::

    outputs = tf1_runtime.run(
        os.environ["AFAD_TF1_WHEEL_DIR"], "frozen.pb",
        {"root_input": images}, ["age_output/BiasAdd"])
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

VERSION = "1.15.5"
_LIBRARY = "tensorflow_core/python/_pywrap_tensorflow_internal.so"
_FRAMEWORK = "tensorflow_core/libtensorflow_framework.so.1"
# The wheel's library needs this symbol, which CPython exports before 3.9 only.  Only
# its Python bindings read it, and the C API does not.  In a copy of the library it is
# therefore replaced by another data symbol, which every CPython exports.
_GONE = b"_Py_CheckRecursionLimit\0"
_INSTEAD = b"_Py_NoneStruct\0"

_STRING = 7  # TF_STRING
_DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    ]


_P, _I, _S, _N = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
_DIMS = ctypes.POINTER(ctypes.c_int64)
_SIGNATURES = {
    "TF_Version": (_S, ()),
    "TF_NewStatus": (_P, ()),
    "TF_GetCode": (_I, (_P,)),
    "TF_Message": (_S, (_P,)),
    "TF_NewGraph": (_P, ()),
    "TF_DeleteGraph": (None, (_P,)),
    "TF_NewBufferFromString": (_P, (_S, _N)),
    "TF_DeleteBuffer": (None, (_P,)),
    "TF_NewImportGraphDefOptions": (_P, ()),
    "TF_DeleteImportGraphDefOptions": (None, (_P,)),
    "TF_GraphImportGraphDef": (None, (_P, _P, _P, _P)),
    "TF_GraphOperationByName": (_P, (_P, _S)),
    "TF_NewSessionOptions": (_P, ()),
    "TF_DeleteSessionOptions": (None, (_P,)),
    "TF_NewSession": (_P, (_P, _P, _P)),
    "TF_DeleteSession": (None, (_P, _P)),
    "TF_AllocateTensor": (_P, (_I, _DIMS, _I, _N)),
    "TF_DeleteTensor": (None, (_P,)),
    "TF_TensorData": (_P, (_P,)),
    "TF_TensorType": (_I, (_P,)),
    "TF_TensorByteSize": (_N, (_P,)),
    "TF_NumDims": (_I, (_P,)),
    "TF_Dim": (ctypes.c_int64, (_P, _I)),
    "TF_StringEncodedSize": (_N, (_N,)),
    "TF_StringEncode": (_N, (_S, _N, _P, _N, _P)),
    "TF_SessionRun": (None, (_P, _P, _P, _P, _I, _P, _P, _I, _P, _I, _P, _P)),
    "TF_GetAllOpList": (ctypes.POINTER(_Buffer), ()),
}


class TF1Error(Exception):
    """An error of the runtime, in its words."""


class Runtime:
    """TensorFlow 1.15's C library.

    Args:
      wheel_dir: Where `download` unpacked the wheel.
    """

    def __init__(self, wheel_dir: str) -> None:
        root = pathlib.Path(wheel_dir)
        ctypes.CDLL(str(root / _FRAMEWORK), mode=os.RTLD_LAZY | os.RTLD_GLOBAL)
        library = _for_any_python(root / _LIBRARY)
        self.c = ctypes.CDLL(str(library), mode=os.RTLD_LAZY | os.RTLD_LOCAL)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        self._status = self.c.TF_NewStatus()

    @property
    def version(self) -> str:
        return self.c.TF_Version().decode()

    def op_list(self) -> bytes:
        """The registry of operations: a serialized OpList."""
        buffer = self.c.TF_GetAllOpList().contents
        return ctypes.string_at(buffer.data, buffer.length)

    def load(self, path: str | os.PathLike[str]) -> Graph:
        return Graph(self, pathlib.Path(path).read_bytes())

    def checked(self, call, *arguments):
        """Calls a function whose last argument is a status, and raises its error."""
        result = call(*arguments, self._status)
        if self.c.TF_GetCode(self._status):
            raise TF1Error(self.c.TF_Message(self._status).decode())
        return result


class Graph:
    """A graph in a session of that runtime.

    Args:
      runtime: The library.
      graph_def: Serialized GraphDef.

    Raises:
      TF1Error: The runtime refuses the graph.
    """

    def __init__(self, runtime: Runtime, graph_def: bytes) -> None:
        self._runtime, c = runtime, runtime.c
        self._graph = c.TF_NewGraph()
        buffer = c.TF_NewBufferFromString(graph_def, len(graph_def))
        options = c.TF_NewImportGraphDefOptions()
        try:
            runtime.checked(c.TF_GraphImportGraphDef, self._graph, buffer, options)
        finally:
            c.TF_DeleteImportGraphDefOptions(options)
            c.TF_DeleteBuffer(buffer)
        options = c.TF_NewSessionOptions()
        self._session = runtime.checked(c.TF_NewSession, self._graph, options)
        c.TF_DeleteSessionOptions(options)

    def close(self) -> None:
        self._runtime.checked(self._runtime.c.TF_DeleteSession, self._session)
        self._runtime.c.TF_DeleteGraph(self._graph)

    def run(
        self, feeds: Mapping[str, np.ndarray | Sequence[bytes]], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs it once.

        Args:
          feeds: Arrays by operation name, or lists of byte strings.
          fetches: Operation names; output 0 of each is meant.
        """
        c = self._runtime.c
        inputs = (_Output * len(feeds))(*[self._output(name) for name in feeds])
        values = (_P * len(feeds))(*[self._tensor(v) for v in feeds.values()])
        outputs = (_Output * len(fetches))(*[self._output(name) for name in fetches])
        results = (_P * len(fetches))()
        try:
            self._runtime.checked(
                c.TF_SessionRun,
                *(self._session, None, inputs, values, len(feeds)),
                *(outputs, results, len(fetches), None, 0, None),
            )
            return {
                name: self._array(t) for name, t in zip(fetches, results, strict=True)
            }
        finally:
            for tensor in (*values, *results):
                if tensor:
                    c.TF_DeleteTensor(tensor)

    def _output(self, name: str) -> _Output:
        operation = self._runtime.c.TF_GraphOperationByName(self._graph, name.encode())
        if not operation:
            raise TF1Error(f"no operation is named {name!r}")
        return _Output(operation, 0)

    def _tensor(self, value) -> int:
        if isinstance(value, list):
            return self._string_tensor(value)
        c = self._runtime.c
        array = np.ascontiguousarray(value)
        dims = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        code = _CODES[array.dtype]
        tensor = c.TF_AllocateTensor(code, dims, array.ndim, array.nbytes)
        ctypes.memmove(c.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def _string_tensor(self, value: list[bytes]) -> int:
        """Offsets (8 bytes each), then the strings, each after its length."""
        c = self._runtime.c
        sizes = [c.TF_StringEncodedSize(len(text)) for text in value]
        dims = (ctypes.c_int64 * 1)(len(value))
        total = 8 * len(value) + sum(sizes)
        tensor = c.TF_AllocateTensor(_STRING, dims, 1, total)
        start = c.TF_TensorData(tensor)
        offsets = np.cumsum([0, *sizes[:-1]]).astype(np.uint64)
        ctypes.memmove(start, offsets.ctypes.data, offsets.nbytes)
        for text, offset, size in zip(value, offsets.tolist(), sizes, strict=True):
            target = start + 8 * len(value) + offset
            self._runtime.checked(c.TF_StringEncode, text, len(text), target, size)
        return tensor

    def _array(self, tensor: int) -> np.ndarray:
        c = self._runtime.c
        shape = [c.TF_Dim(tensor, i) for i in range(c.TF_NumDims(tensor))]
        raw = ctypes.string_at(c.TF_TensorData(tensor), c.TF_TensorByteSize(tensor))
        dtype = _DTYPES[c.TF_TensorType(tensor)]
        return np.frombuffer(raw, dtype).reshape(shape).copy()


def run(
    wheel_dir: str,
    path: str | os.PathLike[str],
    feeds: Mapping[str, np.ndarray | Sequence[bytes]],
    fetches: Sequence[str],
) -> dict[str, np.ndarray]:
    """Runs a graph in a process of its own; arguments as for `Graph.run`.

    Raises:
      TF1Error: The runtime refuses the graph or a name.
    """
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        job = {"path": str(path), "fetches": list(fetches), "feeds": {}}
        arrays = {}
        for i, (name, value) in enumerate(feeds.items()):
            if isinstance(value, np.ndarray):
                arrays[f"{i}"] = value
                job["feeds"][name] = 0
            else:
                for j, text in enumerate(value):
                    arrays[f"{i}/{j}"] = np.frombuffer(text, np.uint8)
                job["feeds"][name] = len(value)
        (work / "job.json").write_text(json.dumps(job))
        np.savez(work / "inputs.npz", **arrays)
        command = [sys.executable, __file__, wheel_dir, temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TF1Error(done.stderr.strip().splitlines()[-1])
        with np.load(work / "outputs.npz") as outputs:
            return {name: outputs[f"{i}"] for i, name in enumerate(fetches)}


def _run_job(wheel_dir: str, directory: str) -> None:
    work = pathlib.Path(directory)
    job = json.loads((work / "job.json").read_text())
    feeds = {}
    with np.load(work / "inputs.npz") as inputs:
        for i, (name, count) in enumerate(job["feeds"].items()):
            texts = [inputs[f"{i}/{j}"].tobytes() for j in range(count)]
            feeds[name] = texts or inputs[f"{i}"]
    try:
        outputs = Runtime(wheel_dir).load(job["path"]).run(feeds, job["fetches"])
    except TF1Error as error:
        sys.exit(" ".join(str(error).split()))
    arrays = {f"{i}": outputs[name] for i, name in enumerate(job["fetches"])}
    np.savez(work / "outputs.npz", **arrays)


def download(directory: str) -> None:
    """Downloads the wheel with pip and unpacks it, unless it is there already."""
    if (pathlib.Path(directory) / _LIBRARY).exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += ["--python-version", "37", "--platform", "manylinux2010_x86_64"]
        command += ["--dest", temporary, f"tensorflow=={VERSION}"]
        subprocess.run(command, check=True)
        (wheel,) = pathlib.Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)


def _for_any_python(library: pathlib.Path) -> pathlib.Path:
    """A copy of the library that any Python can load.

    It is next to the original, so that its relative search path stays valid.
    """
    copy = library.with_name(library.stem + "_any_python.so")
    if not copy.exists():
        content = library.read_bytes()
        if _GONE not in content:
            return library
        temporary = copy.with_suffix(f".tmp-{os.getpid()}")
        padded = _INSTEAD.ljust(len(_GONE), b"\0")
        temporary.write_bytes(content.replace(_GONE, padded))
        os.replace(temporary, copy)
    return copy


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _run_job(*sys.argv[1:])
    elif len(sys.argv) == 2:
        download(sys.argv[1])
        print(f"TensorFlow {Runtime(sys.argv[1]).version} in {sys.argv[1]}")
    else:
        sys.exit("usage: python -m tests.robustness.tf1_runtime DIR")
