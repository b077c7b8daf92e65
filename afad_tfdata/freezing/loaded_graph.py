"""Loaded graphs: one way to run a frozen graph, whatever file it was written to.

A GraphDef runs in a session, as TensorFlow 1 programs run it; SavedModel, TFLite and
ONNX files run in their own runtimes.  Keras is not imported::

    graph = loaded_graph.LoadedGraph(
        "face.pb", "root_input", {"age": "age_output/BiasAdd"})
    graph.run(images)["age"]
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files, lazy_imports, tf32
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import untrusted_graphs

# Runs one batch; returns arrays by label.
_Call = Callable[[Any], Mapping[str, Any]]
# Loads a file, given its path, the feed, the fetches by label, and the device.
_Loader = Callable[[str, str, dict[str, str], str], _Call]


class GraphInputError(Exception):
    """An input that the graph itself refuses, such as a file it cannot decode."""


class LoadedGraph:
    """A frozen graph, ready to run.

    Args:
      path: ``.pb``, ``.tflite``, ``.onnx``, or the directory of a SavedModel.
      feed: Name of the input.
      fetches: Names of the outputs by label.
      device: ``"auto"``, or ``"cpu"`` to use no GPU.

    Raises:
      UsageError: The file does not exist or is not a graph, it has no node of one of
        the names, or its runtime is not installed.
    """

    def __init__(
        self, path: str, feed: str, fetches: Mapping[str, str], *, device: str = "auto"
    ) -> None:
        if not files.exists(path):
            raise errors.UsageError(
                f"{path} does not exist: name a graph that afad-freeze wrote"
            )
        load: _Loader
        if os.path.isdir(path):
            load = _load_saved_model
        else:
            # A GraphDef may have any ending; programs that expect one name it freely.
            load = _LOADERS.get(os.path.splitext(path)[1], _load_graph_def)
        self._call = load(path, feed, dict(fetches), device)

    def run(self, value: np.ndarray | list[bytes]) -> dict[str, np.ndarray]:
        """Runs the loaded graph on a batch; returns its outputs by label.

        Args:
          value: An array, or a list of byte strings.

        Raises:
          GraphInputError: The graph refuses the input.
        """
        try:
            outputs = self._call(value)
        except tf.errors.InvalidArgumentError as error:
            raise GraphInputError(errors.one_line(error.message)) from error
        return {label: np.asarray(v) for label, v in outputs.items()}


def load_as_function(
    path: str, feed: str, fetches: Mapping[str, str]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Loads a GraphDef as a function that a ``tf.function`` can call on any device.

    Args:
      path: A ``.pb`` file.
      feed: Name of the input.
      fetches: Names of the outputs by label.

    Raises:
      UsageError: The file is not a graph, or has no node of one of the names.
    """
    graph_def = _load_checked_graph_def(path, [feed, *fetches.values()])
    imported = tf.compat.v1.wrap_function(
        lambda: tf.import_graph_def(graph_def, name=""), []
    )
    get = imported.graph.get_tensor_by_name
    return imported.prune(
        get(f"{feed}:0"), {label: get(f"{name}:0") for label, name in fetches.items()}
    )


def read_graph_def(path: str) -> tf.compat.v1.GraphDef:
    """Reads a GraphDef from a file.

    Raises:
      UsageError: The file cannot be read, or contains something else.
    """
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(files.read_bytes(path))
    except OSError as error:
        raise errors.UsageError(
            f"cannot read the graph {path}: {error.strerror}; name a .pb file"
        ) from error
    # protobuf's DecodeError: protobuf is a dependency of TensorFlow, not of this
    # package, so its own name for the error is not imported.
    except Exception as error:
        raise errors.UsageError(
            f"{path} is not a frozen graph ({errors.one_line(error)}): name a .pb file"
            " that afad-freeze wrote"
        ) from error
    # An empty file is a valid protocol buffer.
    if not graph.node:
        raise errors.UsageError(
            f"{path} contains no graph: name a .pb file that afad-freeze wrote"
        )
    return graph


def _load_checked_graph_def(path: str, wanted: list[str]) -> tf.compat.v1.GraphDef:
    """Loads a GraphDef that only computes, and has the wanted nodes."""
    graph_def = read_graph_def(path)
    # The graph is checked before TensorFlow sees it, because it may come from anybody.
    untrusted_graphs.refuse_effects(untrusted_graphs.all_nodes(graph_def), path)
    names = {node.name for node in graph_def.node}
    for name in wanted:
        if name not in names:
            raise errors.UsageError(
                f"{path} has no node {name!r}: the .json next to it may belong to"
                " another graph; copy both files again, or freeze the model again"
            )
    return graph_def


def _load_graph_def(
    path: str, feed: str, fetches: dict[str, str], device: str
) -> _Call:
    """Loads a GraphDef; returns a function that runs it."""
    graph_def = _load_checked_graph_def(path, [feed, *fetches.values()])
    tf32.turn_off()
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0} if device == "cpu" else {}
    )
    # Otherwise TensorFlow would take the whole memory of the GPU, and leave none to
    # other processes.
    config.gpu_options.allow_growth = True
    with tf.Graph().as_default() as graph:
        try:
            tf.import_graph_def(graph_def, name="")
        except ValueError as error:
            raise errors.UsageError(
                f"{path} cannot be imported: {errors.one_line(error)}"
            ) from error
        session = tf.compat.v1.Session(graph=graph, config=config)
        # A callable is faster: `session.run` looks the names up in every call.
        return session.make_callable(
            {label: f"{name}:0" for label, name in fetches.items()}, [f"{feed}:0"]
        )


def _load_saved_model(
    path: str, feed: str, fetches: dict[str, str], device: str
) -> _Call:
    """Loads a SavedModel; returns a function that runs it."""
    tf32.turn_off()
    with tf.device("CPU:0" if device == "cpu" else None):
        module = untrusted_graphs.load_saved_model(path)
    function = module.signatures["serving_default"]

    def call(value: Any) -> dict[str, Any]:
        """Runs the loaded SavedModel on a batch."""
        with tf.device("CPU:0" if device == "cpu" else None):
            results = function(**{feed: tf.convert_to_tensor(value)})
        return {label: results[label].numpy() for label in fetches}

    # The module owns the function's constants and must live as long.
    call.module = module  # type: ignore[attr-defined]
    return call


def _load_tflite(path: str, feed: str, fetches: dict[str, str], device: str) -> _Call:
    """Loads a TFLite file; returns a function that runs it."""
    del feed, device  # The converter renames the input; TFLite runs on the CPU only.
    interpreter = tflite_interpreter()(path)
    function = interpreter.get_signature_runner("serving_default")
    ((name, input_details),) = function.get_input_details().items()
    output_details = function.get_output_details()

    def call(value: Any) -> dict[str, Any]:
        """Runs the loaded TFLite file on a batch."""
        results = function(**{name: _quantized_input(value, input_details)})
        return {
            label: _dequantized_output(results[label], output_details[label])
            for label in fetches
        }

    # The interpreter owns the memory that the signature's runner works in.
    call.interpreter = interpreter  # type: ignore[attr-defined]
    return call


def tflite_scales(path: str) -> dict[str, dict[str, Any]]:
    """How a loaded TFLite file scales the values of int8 inputs and outputs.

    Args:
      path: The file.

    Returns:
      ``dtype``, ``scale`` and ``zero_point`` by the name of the input and the labels of
      the outputs: a value is ``(stored - zero_point) * scale``.
    """
    function = tflite_interpreter()(path).get_signature_runner("serving_default")
    details = {**function.get_input_details(), **function.get_output_details()}
    result = {}
    for name, value in details.items():
        scale, zero_point = value["quantization"]
        result[name] = {
            "dtype": np.dtype(value["dtype"]).name,
            "scale": float(scale),
            "zero_point": int(zero_point),
        }
    return result


def _quantized_input(value: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """A batch as the loaded TFLite file takes it: as it is, unless that is int8."""
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f":
        return value
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    rounded = np.rint(value / scale) + zero_point
    return np.clip(rounded, limits.min, limits.max).astype(dtype)


def _dequantized_output(value: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """An output of a loaded TFLite file as float32."""
    if value.dtype.kind == "f":
        return value
    scale, zero_point = details["quantization"]
    return ((value.astype(np.float32) - zero_point) * scale).astype(np.float32)


def tflite_interpreter() -> Any:
    """The class that loads TFLite files: LiteRT's, or TensorFlow's own without it.

    LiteRT is TFLite under its new name, and what devices run; TensorFlow has announced
    that it will remove its own copy.

    Raises:
      UsageError: Neither is usable here.
    """
    # If LiteRT is installed but does not load, TensorFlow's interpreter is used.
    with contextlib.suppress(Exception):
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    try:
        return tf.lite.Interpreter
    except AttributeError:
        # The error names LiteRT, and why it does not load.
        return lazy_imports.import_optional(
            "ai_edge_litert.interpreter", extra="export", purpose="running TFLite"
        ).Interpreter


def _load_onnx(path: str, feed: str, fetches: dict[str, str], device: str) -> _Call:
    """Loads an ONNX file; returns a function that runs it."""
    del device  # The package for GPUs has another name; the extra installs this one.
    runtime = lazy_imports.import_optional(
        "onnxruntime", extra="export", purpose="running ONNX"
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(value: Any) -> dict[str, Any]:
        """Runs the loaded ONNX file on a batch."""
        outputs = session.run(list(fetches.values()), {feed: value})
        return dict(zip(fetches, outputs, strict=True))

    return call


# The loaders by the file's ending; a SavedModel is recognised as a directory.
_LOADERS: dict[str, _Loader] = {
    ".pb": _load_graph_def,
    ".tflite": _load_tflite,
    ".onnx": _load_onnx,
}
