"""Runners: one way to run a frozen graph, whatever file it was written to.

A GraphDef runs in a session, as TensorFlow 1 programs run it; SavedModel, TFLite and
ONNX files in their own runtimes.  No Keras is imported::

    graph = runner.Runner("face.pb", "root_input", {"age": "age_output/BiasAdd"})
    graph.run(images)["age"]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import graphdef


class InputError(Exception):
    """An input that the graph itself refuses, such as a file it cannot decode."""


class Runner:
    """A frozen graph, loaded.

    Args:
      path: ``.pb``, ``.tflite``, ``.onnx``, or the directory of a SavedModel.
      feed: Name of the input.
      fetches: Names of the outputs by label.
      device: ``"auto"``, or ``"cpu"`` to leave accelerators alone.

    Raises:
      UsageError: There is no such file, it is no graph, a name is not in it, or its
        runtime is not installed.
    """

    def __init__(
        self, path: str, feed: str, fetches: Mapping[str, str], *, device: str = "auto"
    ) -> None:
        if not files.exists(path):
            raise errors.UsageError(
                f"{path} is not there: name a graph that freeze wrote"
            )
        kind = os.path.splitext(path)[1]
        open_file: Callable[..., Callable[[Any], Mapping[str, Any]]]
        if os.path.isdir(path):
            open_file = _open_saved_model
        elif kind == ".tflite":
            open_file = _open_tflite
        elif kind == ".onnx":
            open_file = _open_onnx
        else:
            open_file = _open_graph_def
        self._call = open_file(path, feed, dict(fetches), device)

    def run(self, value: Any) -> dict[str, np.ndarray]:
        """Outputs by label for a batch.

        Args:
          value: An array, or a list of byte strings.

        Raises:
          InputError: The graph refuses it.
        """
        try:
            outputs = self._call(value)
        except tf.errors.InvalidArgumentError as error:
            raise InputError(errors.one_line(error.message)) from error
        return {label: np.asarray(v) for label, v in outputs.items()}


def read_graph_def(path: str) -> Any:
    """A GraphDef from a file.

    Raises:
      UsageError: It cannot be read, or holds something else.
    """
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(files.read_bytes(path))
    except OSError as error:
        raise errors.UsageError(
            f"cannot read the graph {path}: {error.strerror}; name a .pb file"
        ) from error
    except Exception as error:  # protobuf's DecodeError has no public import of ours.
        raise errors.UsageError(
            f"{path} is no frozen graph ({errors.one_line(error)}): freeze writes one"
        ) from error
    if not graph.node:
        raise errors.UsageError(f"{path} holds no graph: freeze writes one")
    return graph


def _open_graph_def(path: str, feed: str, fetches: dict[str, str], device: str) -> Any:
    graph_def = read_graph_def(path)
    graphdef.refuse_effects(graph_def, path)
    names = {node.name for node in graph_def.node}
    for name in (feed, *fetches.values()):
        if name not in names:
            raise errors.UsageError(
                f"{path} has no node {name!r}: is the .json beside it that of another"
                " graph?"
            )
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0} if device == "cpu" else {}
    )
    config.gpu_options.allow_growth = True
    with tf.Graph().as_default() as graph:
        try:
            tf.import_graph_def(graph_def, name="")
        except ValueError as error:
            raise errors.UsageError(
                f"{path} cannot be imported: {errors.one_line(error)}"
            ) from error
        session = tf.compat.v1.Session(graph=graph, config=config)
        function = session.make_callable(
            {label: f"{name}:0" for label, name in fetches.items()}, [f"{feed}:0"]
        )
    return function


def _open_saved_model(
    path: str, feed: str, fetches: dict[str, str], device: str
) -> Any:
    with tf.device("CPU:0" if device == "cpu" else None):
        module = tf.saved_model.load(path)
    function = module.signatures["serving_default"]

    def call(value: Any) -> dict[str, Any]:
        with tf.device("CPU:0" if device == "cpu" else None):
            results = function(**{feed: tf.convert_to_tensor(value)})
        return {label: results[label].numpy() for label in fetches}

    # The module owns the function's constants.
    call.module = module  # type: ignore[attr-defined]
    return call


def _open_tflite(path: str, feed: str, fetches: dict[str, str], device: str) -> Any:
    del feed, device
    interpreter = tf.lite.Interpreter(path)
    function = interpreter.get_signature_runner("serving_default")
    (name,) = function.get_input_details()

    def call(value: Any) -> dict[str, Any]:
        results = function(**{name: value})
        return {label: results[label] for label in fetches}

    call.interpreter = interpreter  # type: ignore[attr-defined]
    return call


def _open_onnx(path: str, feed: str, fetches: dict[str, str], device: str) -> Any:
    del device
    runtime = errors.require("onnxruntime", extra="export", purpose="running ONNX")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(value: Any) -> dict[str, Any]:
        outputs = session.run(list(fetches.values()), {feed: value})
        return dict(zip(fetches, outputs, strict=True))

    return call
