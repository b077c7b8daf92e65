"""What stands beside a frozen graph: NAME.json, which says how to use it.

Programs in other languages read the names of feeds and fetches, the mean and the label
order from it; `predict` does, too.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import __version__
from afad_tfdata.common import errors, files
from afad_tfdata.freezing import model_source, preprocessing_graph, verification
from afad_tfdata.images import preprocess
from afad_tfdata.storage import schema

FORMAT = "afad_tfdata frozen graph"
FORMAT_VERSION = 1
THRESHOLD = 0.5
# Endings of names that are more than what follows the last dot.
_ENDINGS = ("_bytes.pb", "_pixels.pb", "_saved_model")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about a model beside its weights.

    Attributes:
      mean: By channel in [0, 255]; None where nobody knows it.
      class_names: Of gender labels 0 and 1.
      age_range: Smallest and largest age it was trained on; None where nobody knows.
      records_dir: The data set to take images from; empty for none.
      metrics: What ``evaluate`` found, if it was run on the run's model.
    """

    mean: tuple[float, float, float] | None
    class_names: tuple[str, ...]
    age_range: tuple[int, int] | None
    records_dir: str
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Written:
    """One form of a graph, written and verified.

    Attributes:
      kind: ``graph``, ``bytes``, ``pixels``, ``saved_model``, ``tflite`` or ``onnx``.
      temporary: Where it lies now.
      path: Where it will lie.
      report: What came out of it.
    """

    kind: str
    temporary: str
    path: str
    report: verification.Report


def facts_of(
    source: model_source.Source, records_dir: str = "", mean_json: str = ""
) -> Facts:
    """Collects the facts: from the flags, the model, its run, and the data set.

    Args:
      source: The model.
      records_dir: From the flag; the run's own data set is used if that is empty and
        it is still there.
      mean_json: A mean.json to believe.

    Raises:
      UsageError: A file that a flag names is not there or is something else.
    """
    run, info = source.run, source.info
    manifest = None
    if not records_dir:
        trained_on = run.get("train", {}).get("records_dir", "")
        if trained_on and files.exists(files.join(trained_on, schema.MANIFEST_NAME)):
            records_dir = trained_on
    if records_dir:
        manifest = schema.load_manifest(records_dir)
    beside = os.path.join(os.path.dirname(source.path), schema.MEAN_NAME)
    mean: Any = None
    if mean_json:
        mean = _read_mean(mean_json)
    elif info.get("mean"):
        mean = info["mean"]
    elif run.get("mean"):
        mean = [run["mean"][c] for c in "RGB"]
    elif manifest is not None:
        mean = manifest.mean_rgb
    elif source.path and os.path.exists(beside):
        mean = _read_mean(beside)
    ages: Any = run.get("age_range")
    if not ages and manifest is not None and manifest.splits["train"].num_examples:
        ages = schema.age_range(manifest)
    if not ages and info.get("max_age"):
        ages = info["min_age"], info["max_age"]
    names = run.get("class_names") or (manifest.class_names if manifest else None)
    return Facts(
        mean=tuple(float(v) for v in mean) if mean is not None else None,  # type: ignore[arg-type]
        class_names=tuple(names or schema.CLASS_NAMES),
        age_range=(int(ages[0]), int(ages[1])) if ages else None,
        records_dir=records_dir,
        metrics=_metrics(source),
    )


def describe(
    source: model_source.Source,
    facts: Facts,
    *,
    feed: str,
    fetches: Mapping[str, str],
    written: Sequence[Written],
    tolerance: float,
    images: str,
    graph: Mapping[str, Any],
    latency: Mapping[str, Any],
    rounding: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of NAME.json.

    Args:
      source: The model.
      facts: Of `facts_of`.
      feed: Name of the input.
      fetches: Names of the outputs by label.
      written: The forms, NAME.pb first.
      tolerance: The flag.
      images: Where the images of the verification came from.
      graph: Further facts of the graph.
      latency: By batch.
      rounding: How far the model is from itself on random input, by label, where the
        verification had to allow for it.
    """
    plain = written[0]
    parity = plain.report
    others = {
        one.kind: {
            "file": os.path.basename(one.path),
            **_digest(one.temporary),
            **preprocessing_graph.description(one.kind),
            "max_difference": _plain(one.report.max_difference),
        }
        for one in written[1:]
    }
    size = source.image_size
    mean = facts.mean
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "graph": {
            "file": os.path.basename(plain.path),
            **_digest(plain.temporary),
            **graph,
        },
        "feeds": [
            {
                "name": feed,
                "dtype": "float32",
                "shape": [None, size, size, 3],
                "layout": "NHWC",
                "channel_order": "RGB",
                "value": "(x - mean) / divisor, x in [0, 255]",
                "value_range": None
                if mean is None
                else [
                    -max(mean) / preprocess.DIVISOR,
                    (255 - min(mean)) / preprocess.DIVISOR,
                ],
            }
        ],
        "fetches": [
            {
                "name": name,
                "label": label,
                "dtype": "float32",
                "shape": [None, *_tail(source, label)],
                "meaning": "age in years"
                if label == "age"
                else f"probability of {facts.class_names[1]}",
            }
            for label, name in fetches.items()
        ],
        "image_size": size,
        "mean": None if mean is None else dict(zip("RGB", mean, strict=True)),
        "divisor": preprocess.DIVISOR,
        "decode": {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": True},
        "resize": {
            "method": "bilinear",
            "antialias": False,
            "half_pixel_centers": True,
            "rounded": True,
        },
        "class_names": list(facts.class_names),
        "threshold": THRESHOLD,
        "age_range": list(facts.age_range) if facts.age_range else None,
        "model": source.info,
        "source": {
            "file": os.path.basename(source.path),
            **(
                {"sha256": files.sha256(source.path)}
                if os.path.isfile(source.path)
                else {}
            ),
        },
        "metrics": facts.metrics,
        "parity": {
            "max_difference": _plain(parity.max_difference),
            "allowed": _plain(parity.allowed(tolerance)),
            "tolerance": tolerance,
            "images": images,
            "cases": {name: _plain(v) for name, v in parity.cases.items()},
            **({"rounding": _plain(rounding)} if rounding else {}),
        },
        "latency_ms": latency,
        "others": others,
        "versions": {
            "afad_tfdata": __version__,
            **{
                name: importlib.metadata.version(name)
                for name in ("tensorflow", "keras", "numpy")
            },
        },
    }


def load_description(graph_path: str) -> dict[str, Any]:
    """Reads the NAME.json that belongs to a graph, and checks that they fit.

    Args:
      graph_path: NAME.pb or one of the other forms.

    Raises:
      UsageError: The graph or its description is not there.
      DataError: The graph is not the one that was verified.
    """
    if not files.exists(graph_path):
        raise errors.UsageError(
            f"--graph: {graph_path} is not there; name a graph that freeze wrote"
        )
    if os.path.isdir(graph_path) and not files.exists(
        os.path.join(graph_path, "saved_model.pb")
    ):
        raise errors.UsageError(
            f"--graph={graph_path} is a folder: name the NAME.pb in it, which freeze"
            " wrote"
        )
    if graph_path.endswith((".keras", ".h5")):
        raise errors.UsageError(
            f"--graph={graph_path} is a model: freeze it first, with afad-freeze"
            " --model"
        )
    directory, name = os.path.split(graph_path.rstrip("/"))
    endings = (*_ENDINGS, os.path.splitext(name)[1])
    stems = [name.removesuffix(e) for e in endings if e and name.endswith(e)]
    paths = [os.path.join(directory, stem + ".json") for stem in stems or [name]]
    path = next((p for p in paths if files.exists(p)), paths[-1])
    description = files.read_json(
        path,
        what="the graph's description",
        advice="freeze writes it beside the graph, and both must stay together",
    )
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise errors.DataError(f"{path} is no description of a frozen graph")
    description = files.unseal(description, path)
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
    if files.sha256(_content(graph_path)) != entry["sha256"]:
        raise errors.DataError(
            f"{graph_path} is not the graph that was verified: its SHA-256 differs from"
            f" that in {path}; freeze the model again"
        )
    return description


def _metrics(source: model_source.Source) -> dict[str, Any]:
    """What ``evaluate`` found of this very file; of another of the run, nothing."""
    path = os.path.join(source.run.get("directory", ""), "metrics.json")
    if not source.run or not os.path.exists(path):
        return {}
    found = files.read_json(path, what="the metrics", advice="remove it")
    measured = os.path.basename(found.get("model", ""))
    return found if measured == os.path.basename(source.path) else {}


def _read_mean(path: str) -> list[float]:
    value = files.read_json(
        path, what="the mean", advice="write_records writes one beside its records"
    )
    try:
        return [float(value[channel]) for channel in "RGB"]
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UsageError(
            f'{path} is no mean.json: {{"R": .., "G": .., "B": ..}} is wanted'
        ) from error


def _content(path: str) -> str:
    """The file with the weights: of a SavedModel, which has no variables, its graph."""
    return os.path.join(path, "saved_model.pb") if os.path.isdir(path) else path


def _digest(path: str) -> dict[str, Any]:
    path = _content(path)
    return {"bytes": os.path.getsize(path), "sha256": files.sha256(path)}


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items()}


def _tail(source: model_source.Source, label: str) -> list[int]:
    size = source.image_size
    value = source.call(np.zeros((1, size, size, 3), np.float32))[label]
    return [int(side) for side in value.shape[1:]]
