"""The description of a frozen graph: NAME.json, which says how to use it.

Programs in other languages read the names of feeds and fetches, the mean and the order
of the labels from it, and so does `prediction`::

    description = graph_description.describe(source, facts, frozen, written, ...)
    description = graph_description.load_description("out/face.pb")
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import __version__
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import (
    constant_folding,
    corrected_source,
    export_formats,
    frozen_model_facts,
    graph_files,
    loaded_graph,
    model_source,
    verification,
    verification_images,
)
from afad_tfdata.images import codec, tensor_preprocessing
from afad_tfdata.models import facts

FORMAT = "afad_tfdata frozen graph"
FORMAT_VERSION = 1
# From this probability of class 1 on, the gender label is 1.
GENDER_THRESHOLD = 0.5


def describe(
    source: model_source.Source,
    known: frozen_model_facts.ModelFacts,
    frozen: export_formats.FrozenGraph,
    written: Sequence[graph_files.WrittenFile],
    comparisons: Sequence[verification.Comparison],
    *,
    tolerance: float,
    images: str,
    latency_ms: Mapping[str, Mapping[str, float]],
    rounding: Mapping[str, float],
    corrections: corrected_source.Corrections | None = None,
) -> dict[str, Any]:
    """Describes a frozen graph: the content of NAME.json.

    Args:
      source: The model.
      known: What else is known about it.
      frozen: The graph.
      written: Its files under their temporary names, NAME.pb first.
      comparisons: The result of each file's verification.
      tolerance: The factor on what was allowed.
      images: Where the images of the verification came from.
      latency_ms: Median times by batch, then ``graph`` and ``model``.
      rounding: How far the model differs from itself on random input, by label; empty
        if the verification did not have to allow for it.
      corrections: What the graph does to the outputs of its model; None for nothing.
    """
    corrections = corrections or corrected_source.Corrections()
    graph_file = written[0]
    # Programs in other languages read these keys: none may be renamed or removed.
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "graph": {
            "file": os.path.basename(graph_file.path),
            # The file still has its temporary name, because the description must be
            # complete before any file is renamed.
            **_size_and_digest(graph_file.temporary),
            **_graph_facts(frozen),
        },
        "feeds": [_describe_feed(frozen)],
        "fetches": _describe_fetches(source, frozen, known.class_names),
        "image_size": frozen.image_size,
        "mean": None
        if frozen.mean is None
        else dict(zip("RGB", frozen.mean, strict=True)),
        "divisor": frozen.divisor,
        "input_range": frozen.facts.input_range or "normalized",
        **_describe_image_reading(frozen.facts.decode),
        # How faces are cut out of photos, if the training data says so.
        **(
            {"face_crop": dict(known.stored.face_crop)}
            if known.stored.face_crop
            else {}
        ),
        "class_names": list(known.class_names),
        "threshold": GENDER_THRESHOLD,
        "age_range": list(known.age_range) if known.age_range else None,
        "model": dict(source.facts.network),
        "source": _describe_source_file(source.path),
        "metrics": known.metrics,
        "corrections": corrections.in_graph,
        "age_interval": corrections.age_interval,
        "parity": _describe_parity(comparisons[0], tolerance, images, rounding),
        "latency_ms": latency_ms,
        "others": {
            file.export_format.name: _describe_other_file(file, comparison, frozen)
            for file, comparison in zip(written[1:], comparisons[1:], strict=True)
        },
        "versions": _package_versions(),
    }


def load_description(graph_path: str) -> dict[str, Any]:
    """Reads the NAME.json of a graph and checks that the two belong together.

    Args:
      graph_path: NAME.pb or one of the other formats.

    Raises:
      UsageError: The graph or its description does not exist, or the file is not a
        frozen graph.
      DataError: The graph is not the one that was verified, or a file is damaged.
    """
    _check_graph_path(graph_path)
    name = os.path.basename(graph_path.rstrip("/"))
    path = description_path(graph_path)
    description = files.read_json(
        path,
        what="the graph's description",
        advice="afad-freeze writes it next to the graph: keep both together",
    )
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise errors.DataError(
            f"{path} does not describe a frozen graph: freeze the model again"
        )
    # The checksum is compared first, because the other checks would blame the graph for
    # a changed description.
    description = files.unseal_json(description, path)
    # The checksum is optional: programs that edit the file may leave it out.
    try:
        entries = [description["graph"], *description["others"].values()]
        entry = next((e for e in entries if e["file"] == name), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.DataError(
            f"{path} is damaged ({errors.one_line(repr(error))}): freeze the model"
            " again"
        ) from error
    if entry is None:
        raise errors.UsageError(
            f"{path} describes {description['graph']['file']} and not {name}: freeze"
            " the model again, and keep both files together"
        )
    # This check comes last, because it reads the whole graph.
    if files.sha256(_file_for_digest(graph_path)) != entry["sha256"]:
        raise errors.DataError(
            f"{graph_path} is not the graph that was verified: its SHA-256 differs from"
            f" that in {path}; freeze the model again"
        )
    return description


def decode_of_training(description: Mapping[str, Any], *, where: str) -> str:
    """How JPEGs were decoded in training, by a graph's description.

    Args:
      description: From `load_description`.
      where: The graph, for the message.

    Raises:
      DataError: The description says something else.
    """
    # A description without an entry was written by hand or by another program.
    options = description.get("decode", tensor_preprocessing.jpeg_options("accurate"))
    for decode in codec.DECODES:
        if options == tensor_preprocessing.jpeg_options(decode):
            return decode
    known = " or ".join(
        json.dumps(tensor_preprocessing.jpeg_options(d)) for d in codec.DECODES
    )
    raise errors.DataError(
        f'the description of {where} says "decode": {json.dumps(options)}; expected'
        f" {known}: freeze the model again"
    )


def flops(graph: tf.compat.v1.GraphDef, feed: str, shape: Iterable[int]) -> int:
    """Floating-point operations of a frozen graph for one image, for its description.

    A multiplication and an addition count as two.

    Args:
      graph: The frozen graph.
      feed: Name of the placeholder.
      shape: Shape of one image, without the batch.
    """
    total = 0
    with tf.Graph().as_default() as imported:
        value = tf.compat.v1.placeholder(tf.float32, [1, *shape])
        tf.import_graph_def(graph, {feed: value}, name="")
        for operation in imported.get_operations():
            if operation.type in constant_folding.PRODUCT_OPS:
                result, weights = operation.outputs[0].shape, operation.inputs[1].shape
                if not (result.is_fully_defined() and weights.is_fully_defined()):
                    continue
                # Each weight is used once for each place of the result.
                places = result.num_elements() // result[-1]
                total += 2 * places * weights.num_elements()
    return total


def latency_ms(
    source: model_source.Source,
    cases: Sequence[verification.Case],
    comparison: verification.Comparison,
) -> dict[str, dict[str, float]]:
    """Milliseconds by batch of NAME.pb and its model's ``predict``, to be described."""
    result = {}
    # Only images are timed: random input in the same batch sizes would take as long.
    for case in cases[: len(verification_images.BATCH_SIZES)]:
        batch = np.asarray(case.inputs)
        times = {"graph": round(comparison.latency_ms[case.name], 3)}
        if source.predict is not None:
            call = functools.partial(source.predict, batch)
            times["model"] = round(verification.median_latency_ms(call), 3)
        result[f"batch of {len(batch)}"] = times
    return result


def _check_graph_path(path: str) -> None:
    """Refuses a graph's path that cannot have a NAME.json next to it, and says why."""
    if not files.exists(path):
        raise errors.UsageError(
            f"--graph: {path} does not exist; name a graph that afad-freeze wrote"
        )
    if os.path.isdir(path) and not files.exists(os.path.join(path, "saved_model.pb")):
        raise errors.UsageError(
            f"--graph={path} is a folder: name the NAME.pb in it that afad-freeze wrote"
        )
    if path.endswith((".keras", ".h5")):
        raise errors.UsageError(
            f"--graph={path} is a model: freeze it first, with afad-freeze --model"
        )


def description_path(graph_path: str) -> str:
    """The path of a graph's description, NAME.json, one for all its formats."""
    directory, name = os.path.split(graph_path.rstrip("/"))
    endings = {f.ending for f in export_formats.FORMATS.values()}
    # The longest ending is tried first: face_bytes.pb is a format of the graph face,
    # and not a graph called face_bytes.
    ordered = sorted(endings | {os.path.splitext(name)[1]}, key=len, reverse=True)
    stems = [name.removesuffix(e) for e in ordered if e and name.endswith(e)]
    paths = [os.path.join(directory, stem + ".json") for stem in stems or [name]]
    return next((p for p in paths if files.exists(p)), paths[-1])


def _graph_facts(frozen: export_formats.FrozenGraph) -> dict[str, Any]:
    """Size and operations of the graph, for its description."""
    size = frozen.image_size
    return {
        "nodes": len(frozen.graph.node),
        "flops_per_image": flops(frozen.graph, frozen.feed, (size, size, 3)),
        "tf1_compatible": frozen.tf1_compatible,
    }


def _describe_feed(frozen: export_formats.FrozenGraph) -> dict[str, Any]:
    """Describes the node of a frozen graph that is fed."""
    mean = frozen.mean
    return {
        "name": frozen.feed,
        "dtype": "float32",
        "shape": [None, frozen.image_size, frozen.image_size, 3],
        "layout": "NHWC",
        "channel_order": "RGB",
        "value": "(x - mean) / divisor, x in [0, 255]",
        "value_range": None
        if mean is None
        else [
            -max(mean) / frozen.divisor,
            (255 - min(mean)) / frozen.divisor,
        ],
    }


def _describe_fetches(
    source: model_source.Source,
    frozen: export_formats.FrozenGraph,
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Describes the nodes of a frozen graph that are fetched."""
    size = frozen.image_size
    # Some models return [n] and others [n, 1].  A batch of one image shows which.
    outputs = source.call(tf.zeros([1, size, size, 3]))
    return [
        {
            "name": name,
            "label": label,
            "dtype": "float32",
            "shape": [None, *(int(side) for side in outputs[label].shape[1:])],
            "meaning": facts.meaning_of_output(label, class_names),
        }
        for label, name in frozen.fetches.items()
    ]


def _describe_image_reading(decode: str) -> dict[str, Any]:
    """Describes how images were decoded and resized in training, to repeat it."""
    return {
        "decode": tensor_preprocessing.jpeg_options(decode),
        "resize": {
            "method": "bilinear",
            "antialias": False,
            "half_pixel_centers": True,
            "rounded": True,
        },
    }


def _describe_source_file(path: str) -> dict[str, Any]:
    """The model's file and digest, for the description of the graph."""
    digest = {"sha256": files.sha256(path)} if os.path.isfile(path) else {}
    return {"file": os.path.basename(path), **digest}


def _describe_parity(
    comparison: verification.Comparison,
    tolerance: float,
    images: str,
    rounding: Mapping[str, float],
) -> dict[str, Any]:
    """What the verification found, for the description of the graph."""
    return {
        "max_difference": _plain_floats(comparison.max_difference),
        "allowed": _plain_floats(comparison.allowed(tolerance)),
        "tolerance": tolerance,
        "images": images,
        "cases": {name: _plain_floats(v) for name, v in comparison.cases.items()},
        **({"rounding": _plain_floats(rounding)} if rounding else {}),
    }


def _describe_other_file(
    file: graph_files.WrittenFile,
    comparison: verification.Comparison,
    frozen: export_formats.FrozenGraph,
) -> dict[str, Any]:
    """Another format of the graph, for the description."""
    image_input = file.export_format.image_input
    feeds = (
        {"feeds": [{"name": image_input.feed, **image_input.description}]}
        if image_input
        else {}
    )
    return {
        "file": os.path.basename(file.path),
        **_size_and_digest(file.temporary),
        **feeds,
        "max_difference": _plain_floats(comparison.max_difference),
        **(
            _describe_loss(file, comparison, frozen)
            if file.export_format.quantization
            else {}
        ),
    }


def _describe_loss(
    file: graph_files.WrittenFile,
    comparison: verification.Comparison,
    frozen: export_formats.FrozenGraph,
) -> dict[str, Any]:
    """What a file with fewer bits loses, and how it was made."""
    value: dict[str, Any] = {
        "quantization": file.export_format.quantization,
        "mean_difference": _plain_floats(comparison.mean_difference),
        "equal_genders": comparison.equal_genders,
        "verification_images": comparison.num_images,
        "latency_ms": {
            name: round(ms, 3)
            for name, ms in comparison.latency_ms.items()
            if math.isfinite(ms)
        },
    }
    if file.export_format.quantization != "int8":
        return value
    value["calibration_images"] = (
        0 if frozen.calibration is None else len(frozen.calibration)
    )
    if frozen.int8_inputs:
        value["scales"] = loaded_graph.tflite_scales(file.temporary)
    return value


def _package_versions() -> dict[str, str]:
    """Versions of the packages that made the graph, for its description."""
    packages = ("tensorflow", "keras", "numpy")
    return {
        "afad_tfdata": __version__,
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _file_for_digest(path: str) -> str:
    """The file whose digest is described: of our SavedModels, that with the graph."""
    return os.path.join(path, "saved_model.pb") if os.path.isdir(path) else path


def _size_and_digest(path: str) -> dict[str, Any]:
    """Size and SHA-256 of a written file, for the description of the graph."""
    path = _file_for_digest(path)
    return {"bytes": os.path.getsize(path), "sha256": files.sha256(path)}


def _plain_floats(values: Mapping[str, float]) -> dict[str, float]:
    """Values for a description as Python's floats, as JSON does not know numpy's."""
    return {k: float(v) for k, v in values.items()}
