"""The formats that a frozen graph is written in: GraphDef, SavedModel, TFLite, ONNX.

`FORMATS` is the table of them; everything that differs by format is in it::

    frozen = export_formats.FrozenGraph(graph, "root_input", fetches, image_size=150)
    export_format = export_formats.FORMATS["tflite"]
    export_format.write(frozen, "face" + export_format.ending)
    feed, fetches = export_format.names(frozen.feed, frozen.fetches)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from afad_tfdata.common import errors, files, lazy_imports
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import (
    graphdef,
    preprocessing_graph,
    quantization,
    tf1_compatibility,
)
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import facts

# The operators of 2020: ONNX runtimes since 1.6 know them, and no network of this
# package needs a newer one.
_ONNX_OPSET = 13


@dataclasses.dataclass(frozen=True)
class FrozenGraph:
    """A frozen graph, and what a program must know to run it.

    Attributes:
      graph: The GraphDef, from `build_graph`.
      feed: Name of its input, float32 ``[n, size, size, 3]``.
      fetches: Names of its outputs by label.
      image_size: Side of its input in pixels.
      mean: Channel means R, G, B in [0, 255]; None if they are unknown.
      tf1_compatible: Whether graphs that are made from it must also load in 1.15.
      divisor: It is fed ``(x - mean) / divisor``, x in [0, 255].
      facts: What files without a NAME.json of their own say about the outputs.
      calibration: Images as the graph is fed them, for a file in int8.
      int8_inputs: Whether inputs and outputs of that file are int8, too.
    """

    graph: tf.compat.v1.GraphDef
    feed: str
    fetches: Mapping[str, str]
    image_size: int
    mean: Sequence[float] | None = None
    tf1_compatible: bool = True
    divisor: float = tensor_preprocessing.DIVISOR
    facts: facts.Facts = dataclasses.field(default_factory=lambda: facts.Facts())
    calibration: np.ndarray | None = None
    int8_inputs: bool = False


# The names of input and outputs (by label) in a file.
Names = tuple[str, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes:
      name: Its key in NAME.json and in `FORMATS`.
      ending: What follows NAME in the file's name.
      flag: The field of ``FreezeConfig`` that asks for it; empty if it is always
        written.
      write: Writes a file or directory, given the graph and the path.
      names: Names in the file, given those of the GraphDef.
      image_input: What it is fed; None for normalised images.
      quantization: ``float16`` or ``int8``, for a file that may differ from the model
        by `quantization.QuantizationLimits`; empty for one that must equal it.
    """

    name: str
    ending: str
    flag: str
    write: Callable[[FrozenGraph, str], None]
    names: Callable[[str, Mapping[str, str]], Names]
    image_input: preprocessing_graph.ImageInput | None = None
    quantization: str = ""


def _write_graph_def(frozen: FrozenGraph, path: str) -> None:
    """Writes the frozen graph in the format GraphDef."""
    files.write_atomic(path, graphdef.serialized(frozen.graph))


def _graph_def_names(feed: str, fetches: Mapping[str, str]) -> Names:
    """Feed and fetches of a frozen graph in the format GraphDef."""
    return feed, dict(fetches)


def _write_preprocessing(frozen: FrozenGraph, path: str, *, kind: str) -> None:
    """Writes the format that contains the preprocessing and the frozen graph."""
    if frozen.mean is None:
        raise errors.UsageError("a graph with preprocessing needs the channel means")
    graph = preprocessing_graph.build(
        frozen.graph,
        preprocessing_graph.INPUTS[kind],
        feed=frozen.feed,
        fetches=list(frozen.fetches.values()),
        size=frozen.image_size,
        mean=frozen.mean,
        divisor=frozen.divisor,
        decode=frozen.facts.decode,
    )
    if frozen.tf1_compatible:
        graph = tf1_compatibility.loadable(graph)
    files.write_atomic(path, graphdef.serialized(graph))


def _preprocessing_names(feed: str, fetches: Mapping[str, str], *, kind: str) -> Names:
    """Feed and fetches of the format that contains the preprocessing."""
    del feed  # Only the outputs have the same names as in the GraphDef.
    return preprocessing_graph.INPUTS[kind].feed, dict(fetches)


def _write_saved_model(frozen: FrozenGraph, path: str) -> None:
    """Writes the format SavedModel: ``serving_default`` returns a dict by label."""
    imported = tf.compat.v1.wrap_function(
        lambda: tf.import_graph_def(frozen.graph, name=""), []
    )
    feed = imported.graph.get_tensor_by_name(f"{frozen.feed}:0")
    function = imported.prune(
        feed,
        {
            label: imported.graph.get_tensor_by_name(f"{name}:0")
            for label, name in frozen.fetches.items()
        },
    )
    spec = tf.TensorSpec(feed.shape, tf.float32, name=_signature_argument(frozen.feed))
    module = tf.Module()
    module.serve = tf.function(lambda images: function(images), input_signature=[spec])
    # TensorFlow would leave files of an earlier SavedModel in the directory.
    shutil.rmtree(path, ignore_errors=True)
    signature = module.serve.get_concrete_function()
    with _quiet_converters():
        tf.saved_model.save(module, path, signatures=signature)
    facts.write_saved_model(path, frozen.facts)


def _write_tflite(frozen: FrozenGraph, path: str, *, kind: str = "") -> None:
    """Writes the format TFLite, with the same signature as the SavedModel.

    Raises:
      UsageError: The graph cannot be written in int8.
    """
    # The graph is converted from a SavedModel, whose signature names the outputs by
    # label.
    with tempfile.TemporaryDirectory(prefix="afad-tflite-") as directory:
        inner = os.path.join(directory, "model")
        _write_saved_model(frozen, inner)
        with _quiet_converters():
            if kind:
                content = quantization.convert_to_tflite(
                    inner,
                    frozen.calibration if kind == "int8" else None,
                    int8_inputs=frozen.int8_inputs,
                )
            else:
                content = tf.lite.TFLiteConverter.from_saved_model(inner).convert()
    with open(path, "wb") as f:
        f.write(content)


def _signature_names(feed: str, fetches: Mapping[str, str]) -> Names:
    """Argument and results of the signature in a SavedModel or TFLite file."""
    return _signature_argument(feed), dict(fetches)


def _write_onnx(frozen: FrozenGraph, path: str) -> None:
    """Writes the format ONNX; raises `UsageError` without the ``export`` extra."""
    convert = lazy_imports.import_optional(
        "tf2onnx.convert", extra="export", purpose="writing ONNX"
    )
    feed, fetches = _onnx_names(frozen.feed, frozen.fetches)
    with _quiet_converters():
        convert.from_graph_def(
            frozen.graph,
            input_names=[feed],
            output_names=list(fetches.values()),
            opset=_ONNX_OPSET,
            output_path=path,
        )


def _onnx_names(feed: str, fetches: Mapping[str, str]) -> Names:
    """Feed and fetches in the ONNX format, which names tensors: output 0 of nodes."""
    return f"{feed}:0", {label: f"{name}:0" for label, name in fetches.items()}


@contextlib.contextmanager
def _quiet_converters() -> Iterator[None]:
    """Silences the log of converters to other formats; their errors are raised."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _signature_argument(feed: str) -> str:
    """The input's name in a format with a signature, which must be one of Python."""
    return re.sub(r"\W", "_", feed)


def _preprocessing_format(kind: str) -> ExportFormat:
    """The format of the graph with one kind of preprocessing."""
    return ExportFormat(
        name=kind,
        ending=f"_{kind}.pb",
        flag="with_preprocessing",
        write=functools.partial(_write_preprocessing, kind=kind),
        names=functools.partial(_preprocessing_names, kind=kind),
        image_input=preprocessing_graph.INPUTS[kind],
    )


def _quantized_format(kind: str) -> ExportFormat:
    """The format of a quantized TFLite file."""
    return ExportFormat(
        name=f"tflite_{kind}",
        ending=f"_{kind}.tflite",
        flag=f"tflite_{kind}",
        write=functools.partial(_write_tflite, kind=kind),
        names=_signature_names,
        quantization=kind,
    )


# The formats in the order in which they are written and listed; NAME.pb is first.
FORMATS = {
    export_format.name: export_format
    for export_format in (
        ExportFormat("graph", ".pb", "", _write_graph_def, _graph_def_names),
        _preprocessing_format("bytes"),
        _preprocessing_format("pixels"),
        ExportFormat(
            *("saved_model", "_saved_model", "saved_model"),
            *(_write_saved_model, _signature_names),
        ),
        ExportFormat("tflite", ".tflite", "tflite", _write_tflite, _signature_names),
        _quantized_format("float16"),
        _quantized_format("int8"),
        ExportFormat("onnx", ".onnx", "onnx", _write_onnx, _onnx_names),
    )
}
