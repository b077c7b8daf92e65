#!/usr/bin/env python3
"""Runs a frozen graph through TensorFlow's C library, by operation name.

A program in any language that can call C does the same.  This one imports ctypes and
numpy only, not TensorFlow's Python package.  The library is libtensorflow of any
version from 1.15 on, or the one in a TensorFlow 2 wheel
(tensorflow/libtensorflow_cc.so.2)::

    examples/tf_c_client.py --library=libtensorflow.so --graph=frozen/face.pb \
        --pixels=pixels.npy

``pixels.npy`` contains uint8 RGB ``[n, size, size, 3]``.  NAME.json next to the graph
says how they become the network's input.
"""

import argparse
import ctypes as c
import json
import pathlib

import numpy as np

TF_FLOAT = 1  # TF_DataType in tensorflow/c/tf_datatype.h


class Output(c.Structure):
    """TF_Output: an operation, and which of its outputs."""

    _fields_ = [("operation", c.c_void_p), ("index", c.c_int)]


class Graph:
    """A frozen graph in a session.

    Args:
      library: Path of the C library.
      path: Path of the graph.
    """

    def __init__(self, library: str, path: str) -> None:
        self.tf = tf = c.CDLL(library)
        # Without a type, ctypes takes a result for a 32-bit int and cuts pointers.
        for name in """TF_NewStatus TF_NewGraph TF_NewImportGraphDefOptions
            TF_NewBufferFromString TF_GraphOperationByName TF_NewSessionOptions
            TF_NewSession TF_AllocateTensor TF_TensorData""".split():
            getattr(tf, name).restype = c.c_void_p
        tf.TF_Message.restype = c.c_char_p
        tf.TF_Dim.restype = c.c_int64
        self.status = c.c_void_p(tf.TF_NewStatus())
        self.graph = c.c_void_p(tf.TF_NewGraph())
        content = pathlib.Path(path).read_bytes()
        buffer = c.c_void_p(
            tf.TF_NewBufferFromString(content, c.c_size_t(len(content)))
        )
        options = c.c_void_p(tf.TF_NewImportGraphDefOptions())
        tf.TF_GraphImportGraphDef(self.graph, buffer, options, self.status)
        self._check()
        tf.TF_DeleteBuffer(buffer)
        options = c.c_void_p(tf.TF_NewSessionOptions())
        self.session = c.c_void_p(tf.TF_NewSession(self.graph, options, self.status))
        self._check()

    def run(self, feed: str, value: np.ndarray, fetches: list[str]) -> list[np.ndarray]:
        """Feeds one float32 array, and fetches float32 arrays."""
        tf = self.tf
        value = np.ascontiguousarray(value, np.float32)
        shape = (c.c_int64 * value.ndim)(*value.shape)
        size = c.c_size_t(value.nbytes)
        # The tensor owns its memory: TensorFlow requires an alignment that numpy does
        # not promise.
        fed = c.c_void_p(tf.TF_AllocateTensor(TF_FLOAT, shape, value.ndim, size))
        c.memmove(tf.TF_TensorData(fed), value.ctypes.data, value.nbytes)
        inputs = (Output * 1)(self._output(feed))
        outputs = (Output * len(fetches))(*[self._output(name) for name in fetches])
        results = (c.c_void_p * len(fetches))()
        values = (c.c_void_p * 1)(fed.value)
        tf.TF_SessionRun(
            *(self.session, None, inputs, values, 1, outputs, results, len(fetches)),
            *(None, 0, None, self.status),
        )
        tf.TF_DeleteTensor(fed)
        self._check()
        return [self._array(c.c_void_p(tensor)) for tensor in results]

    def _array(self, tensor: c.c_void_p) -> np.ndarray:
        tf = self.tf
        shape = [tf.TF_Dim(tensor, i) for i in range(tf.TF_NumDims(tensor))]
        # A copy: the tensor's memory is freed below.
        data = c.string_at(tf.TF_TensorData(tensor), 4 * int(np.prod(shape)))
        tf.TF_DeleteTensor(tensor)
        return np.frombuffer(data, np.float32).reshape(shape)

    def _output(self, name: str) -> Output:
        operation = self.tf.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise SystemExit(f"the graph has no operation {name!r}")
        return Output(operation, 0)

    def _check(self) -> None:
        if self.tf.TF_GetCode(self.status):
            raise SystemExit(self.tf.TF_Message(self.status).decode())


def main() -> None:
    """Prints age and gender of every image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--graph", required=True)
    parser.add_argument("--pixels", required=True)
    flags = parser.parse_args()
    about = json.loads(pathlib.Path(flags.graph).with_suffix(".json").read_text())
    mean = [about["mean"][channel] for channel in "RGB"]
    images = (np.load(flags.pixels) - np.float32(mean)) / np.float32(about["divisor"])
    graph = Graph(flags.library, flags.graph)
    names = [fetch["name"] for fetch in about["fetches"]]
    for row in zip(*graph.run(about["feeds"][0]["name"], images, names), strict=True):
        parts = []
        for fetch, value in zip(about["fetches"], row, strict=True):
            parts.append(f"{fetch['label']} {value.item():.6f}")
        print(", ".join(parts))


if __name__ == "__main__":
    main()
