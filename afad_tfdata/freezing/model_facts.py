"""Model facts: what is known about a model in addition to its weights.

They come from flags, from the model file, from the ``config.json`` of its run, and from
the data set that it was trained on::

    facts = model_facts.collect(source, records_dir="records")
    facts.mean, facts.class_names
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.freezing import model_source
from afad_tfdata.storage import schema


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What is known about a model in addition to its weights.

    Attributes:
      mean: Channel means R, G, B in [0, 255]; None where they are unknown.
      class_names: Names of the gender labels 0 and 1.
      age_range: Youngest and oldest age in the training data; None where unknown.
      records_dir: The data set to take images from; empty for none.
      metrics: The results of ``evaluate`` for this model file; empty if it was not run.
    """

    mean: tuple[float, float, float] | None
    class_names: tuple[str, ...]
    age_range: tuple[int, int] | None
    records_dir: str
    metrics: dict[str, Any]


def collect(
    source: model_source.Source, records_dir: str = "", mean_json: str = ""
) -> ModelFacts:
    """Collects the facts from flags, the model, its run, and the data set.

    Args:
      source: The model.
      records_dir: The flag; if it is empty, the data set of the run is used where it
        still exists.
      mean_json: The flag; this file is believed before all other sources.

    Raises:
      UsageError: A file that a flag names does not exist or is something else.
    """
    records_dir = records_dir or _data_set_of_run(source)
    manifest = schema.load_manifest(records_dir) if records_dir else None
    names = source.run.get("class_names") or (manifest.class_names if manifest else ())
    return ModelFacts(
        mean=_mean(source, manifest, mean_json),
        class_names=tuple(names or schema.CLASS_NAMES),
        age_range=_age_range(source, manifest),
        records_dir=records_dir,
        metrics=_metrics(source),
    )


def _data_set_of_run(source: model_source.Source) -> str:
    """The data set that the run was trained on, where it still exists; else empty."""
    trained_on = source.run.get("train", {}).get("records_dir", "")
    if trained_on and files.exists(files.join(trained_on, schema.MANIFEST_NAME)):
        return trained_on
    return ""


def _mean(
    source: model_source.Source, manifest: schema.Manifest | None, mean_json: str
) -> tuple[float, float, float] | None:
    """The mean that the model was trained with.

    What the user says comes first.  After it, sources that surely belong to this model
    (the model file, its run) come before files that only may belong to it: a data set
    named to verify on, a ``mean.json`` in the model's folder.
    """
    next_to_model = os.path.join(os.path.dirname(source.path), schema.MEAN_NAME)
    if mean_json:
        return schema.read_mean(mean_json)
    if source.info.get("mean"):
        red, green, blue = source.info["mean"]
    elif source.run.get("mean"):
        red, green, blue = (source.run["mean"][channel] for channel in "RGB")
    elif manifest is not None:
        red, green, blue = manifest.mean_rgb
    elif source.path and os.path.exists(next_to_model):
        return schema.read_mean(next_to_model)
    else:
        return None
    return float(red), float(green), float(blue)


def _age_range(
    source: model_source.Source, manifest: schema.Manifest | None
) -> tuple[int, int] | None:
    """The ages of the training data, else those that the age head knows."""
    ages: Any = source.run.get("age_range")
    # A data set need not have training images: all may be for testing.
    train = manifest.splits.get("train") if manifest is not None else None
    if not ages and manifest is not None and train and train.num_examples:
        ages = schema.age_range(manifest)
    if not ages and source.info.get("max_age"):
        ages = source.info["min_age"], source.info["max_age"]
    return (int(ages[0]), int(ages[1])) if ages else None


def _metrics(source: model_source.Source) -> dict[str, Any]:
    """The results of ``evaluate`` for this very file; those of another do not count."""
    path = os.path.join(source.run.get("directory", ""), "metrics.json")
    if not source.run or not os.path.exists(path):
        return {}
    found = files.read_json(path, what="the metrics", advice="remove it")
    measured = os.path.basename(found.get("model", ""))
    return found if measured == os.path.basename(source.path) else {}
