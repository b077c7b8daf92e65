"""What is known about a model to be frozen, from every place that may say it.

The places are the model file or checkpoint (`models.facts`), the ``config.json`` of its
run, flags, and for the channel means also a data set::

    facts = frozen_model_facts.collect(source, records_dir="records")
    facts.mean, facts.class_names
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import files
from afad_tfdata.freezing import model_source
from afad_tfdata.models import facts, input_range
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.training import run_dir

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What is known about a model in addition to its weights.

    Attributes:
      mean: Channel means R, G, B in [0, 255]; None if they are unknown.
      class_names: Names of the gender labels 0 and 1; empty only for a model without
        a gender output.
      age_range: Youngest and oldest age in the training data; None if unknown.
      records_dir: The data set to take images from; empty for none.
      metrics: The results of ``evaluate`` for this model file; empty without any.
      divisor: Images are fed as ``(x - mean) / divisor``, x in [0, 255].
      stored: The same facts, as the files of the graph contain them.
    """

    mean: tuple[float, ...] | None
    class_names: tuple[str, ...]
    age_range: tuple[int, int] | None
    records_dir: str
    metrics: dict[str, Any]
    divisor: float
    stored: facts.Facts


def collect(
    source: model_source.Source,
    records_dir: str = "",
    mean_json: str = "",
    class_names: Sequence[str] = (),
    given_range: str = "auto",
) -> ModelFacts:
    """Collects the facts of a model to be frozen: from it, its run, flags, a data set.

    Args:
      source: The model.
      records_dir: The flag; if it is empty, the data set of the run is used where it
        still exists.
      mean_json: The flag; it takes precedence over all other sources.
      class_names: The flag, for a model whose file and run do not contain them.
      given_range: The flag ``--input_range``.

    Raises:
      UsageError: A file that a flag names does not exist or is something else, or the
        class names or the input's range are not known.
    """
    stored = run_dir.known_facts(
        source.facts, source.run, path=source.path, model=source.owner
    )
    # The user must say this.  A data set cannot: its images do not show which class the
    # model was trained to call 1.
    names = tuple(class_names) or stored.class_names
    if "gender" in source.labels:
        names = facts.chosen_class_names(
            stored.class_names, class_names, what=source.path or "the model"
        )
    records_dir = records_dir or _data_set_of_run(source)
    manifest = joined_data_sets.load_manifest(records_dir) if records_dir else None
    chosen_range = input_range.choose(
        stored.input_range or source.input_range,
        given_range,
        normalized=bool(mean_json),
        what=source.path or "the model",
    )
    # Only normalised input has a mean.
    wanted = chosen_range == "normalized"
    mean, divisor = input_range.normalization_of_range(
        chosen_range,
        _mean_of_model(source, stored, manifest, mean_json) if wanted else None,
    )
    ages = _age_range_of_model(stored, manifest)
    return ModelFacts(
        mean=mean,
        class_names=names,
        age_range=ages,
        records_dir=records_dir,
        metrics=_metrics_of_model(source),
        divisor=divisor,
        stored=dataclasses.replace(
            stored,
            mean=mean,
            class_names=names,
            age_range=ages,
            input_range=chosen_range,
        ),
    )


def _data_set_of_run(source: model_source.Source) -> str:
    """The data set that a model to be frozen was trained on, if it is still there."""
    trained_on = source.run.get("train", {}).get("records_dir", "")
    found = run_dir.data_set_of_run(source.run.get("directory", "."), source.run)
    if trained_on and not found:
        _log.warning(
            "the data set %s of the run does not exist: the graph is verified on drawn"
            " faces (--records_dir names a data set)",
            trained_on,
        )
    return found


def _mean_of_model(
    source: model_source.Source,
    stored: facts.Facts,
    manifest: schema.Manifest | None,
    mean_json: str,
) -> tuple[float, ...] | None:
    """The mean that the model to be frozen was trained with.

    The value that the user gives comes first.  After it, sources that surely belong to
    this model (the model file, its run) come before files that may belong to it: a data
    set that the graph is verified on, or a ``mean.json`` in the model's folder.
    """
    origin = source.path or "the model"
    next_to_model = os.path.join(os.path.dirname(source.path), schema.MEAN_NAME)
    if mean_json:
        return schema.read_mean(mean_json)
    if stored.mean:
        red, green, blue = stored.mean
    elif manifest is not None:
        red, green, blue = manifest.mean_rgb
        _log.warning(
            "%s does not contain its mean: taking that of the data set", origin
        )
    elif source.path and os.path.exists(next_to_model):
        _log.warning("%s does not contain its mean: taking %s", origin, next_to_model)
        return schema.read_mean(next_to_model)
    else:
        return None
    return red, green, blue


def _age_range_of_model(
    stored: facts.Facts, manifest: schema.Manifest | None
) -> tuple[int, int] | None:
    """The ages that the model to be frozen was trained on, else those of its head."""
    if stored.age_range:
        return stored.age_range
    # A data set may have no training images, because all may be for testing.
    train = manifest.splits.get("train") if manifest is not None else None
    if manifest is not None and train and train.ages:
        return schema.age_range(manifest)
    task = stored.network.get("task", schema.TASKS[-1])
    if stored.network.get("max_age") and "age" in schema.labels_of(task):
        return int(stored.network["min_age"]), int(stored.network["max_age"])
    return None


def _metrics_of_model(source: model_source.Source) -> dict[str, Any]:
    """The results of ``evaluate`` for the model to be frozen, not for another one."""
    path = os.path.join(source.run.get("directory", ""), "metrics.json")
    if not source.run or not os.path.exists(path):
        return {}
    found = files.read_json(path, what="the metrics", advice="remove it")
    measured = os.path.basename(found.get("model", ""))
    if measured != os.path.basename(source.path):
        return {}
    # A graph is passed on to others, so that it must not name faces of the data set.
    return {n: v for n, v in found.items() if n not in ("worst", "predictions")}
