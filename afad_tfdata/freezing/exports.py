"""The frozen graph in other forms: SavedModel, TFLite, ONNX."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import preprocessing_graph

_ONNX_OPSET = 13


def names(
    kind: str, feed: str, fetches: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Names of input and outputs (by label) in a form of the graph.

    Args:
      kind: ``graph``, ``bytes``, ``pixels``, ``saved_model``, ``tflite`` or ``onnx``.
      feed: Name of the input in the plain graph.
      fetches: Names of the outputs in it by label.
    """
    if kind == "onnx":
        return f"{feed}:0", {label: f"{name}:0" for label, name in fetches.items()}
    if kind in ("saved_model", "tflite"):
        return _argument(feed), dict(fetches)
    return preprocessing_graph.FEEDS.get(kind, feed), dict(fetches)


def saved_model(
    graph: Any, path: str, *, feed: str, fetches: Mapping[str, str]
) -> None:
    """Writes a SavedModel whose signature ``serving_default`` has the labels as keys.

    Args:
      graph: The frozen GraphDef.
      path: Directory to write; what stands there is replaced.
      feed: Name of its input.
      fetches: Names of its outputs by label.
    """
    imported = tf.compat.v1.wrap_function(
        lambda: tf.import_graph_def(graph, name=""), []
    )
    function = imported.prune(
        imported.graph.get_tensor_by_name(f"{feed}:0"),
        {
            label: imported.graph.get_tensor_by_name(f"{name}:0")
            for label, name in fetches.items()
        },
    )
    spec = tf.TensorSpec(
        imported.graph.get_tensor_by_name(f"{feed}:0").shape,
        tf.float32,
        name=_argument(feed),
    )
    module = tf.Module()
    module.serve = tf.function(lambda images: function(images), input_signature=[spec])
    shutil.rmtree(path, ignore_errors=True)
    signature = module.serve.get_concrete_function()
    with _quiet():
        tf.saved_model.save(module, path, signatures=signature)


def tflite(graph: Any, path: str, *, feed: str, fetches: Mapping[str, str]) -> None:
    """Writes a TFLite file with that signature; arguments as for `saved_model`."""
    with tempfile.TemporaryDirectory(prefix="afad-tflite-") as directory:
        inner = os.path.join(directory, "model")
        saved_model(graph, inner, feed=feed, fetches=fetches)
        with _quiet():
            content = tf.lite.TFLiteConverter.from_saved_model(inner).convert()
    with open(path, "wb") as f:
        f.write(content)


def onnx(graph: Any, path: str, *, feed: str, fetches: Mapping[str, str]) -> None:
    """Writes an ONNX file; arguments as for `saved_model`.

    Raises:
      UsageError: The ``export`` extra is missing.
    """
    convert = errors.require("tf2onnx.convert", extra="export", purpose="writing ONNX")
    with _quiet():
        convert.from_graph_def(
            graph,
            input_names=[f"{feed}:0"],
            output_names=[f"{name}:0" for name in fetches.values()],
            opset=_ONNX_OPSET,
            output_path=path,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converters say of their own steps; errors are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _argument(feed: str) -> str:
    """The input's name in a signature, which must be one of Python's."""
    return re.sub(r"\W", "_", feed)
