"""Evaluation: a model's metrics on a split, beside what a constant would reach.

::

    result = evaluation.evaluate(evaluation.EvaluateConfig(run_dir="run"))
    print(result["accuracy"], result["intervals"]["accuracy"])
    print(evaluation.report(result))

Every example counts once, whatever the batch size and the number of replicas.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, files, options
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import contact_sheet, preprocess
from afad_tfdata.models import networks, saved
from afad_tfdata.storage import schema, sharding
from afad_tfdata.training import metrics, plots, run_dir, step
from afad_tfdata.training.distributed import strategies

METRICS_NAME = "metrics.json"
CONFUSION_NAME = "confusion.png"
ERROR_NAME = "error_by_age.png"
WORST_NAME = "worst.png"

_WORST = 32
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, on what, and where the result goes.

    Attributes:
      model: ``.keras`` or ``.h5`` with outputs ``age_output`` and/or ``gender_output``.
      run_dir: A run instead; its best model.
      records_dir: Data set; empty for the run's.
      split: One of `sharding.SPLITS`.
      output_dir: Where ``metrics.json`` and the pictures go; empty for the run's
        directory, or the model's.
      batch_size: Images of a step over all devices.
      bootstrap_samples: Resampled data sets for the intervals; 0 for no intervals.
      pictures: Whether pictures are drawn.
      devices: As for training.
      engine: Of the input, as for training.
      cache_dir: Local directory for the shards of a remote data set.
      cache_dir_gib: Most that it may hold, GiB; 0 for what is free on its disk.
      unsafe_load: Whether a model may bring Python code.
    """

    model: str = options.option(
        "", "Model to evaluate: .keras or .h5 with an age_output or gender_output."
    )
    run_dir: str = options.option("", "Run whose best model is evaluated instead.")
    records_dir: str = options.option("", "Data set; default: the run's.")
    split: str = options.option("test", "Split.", choices=sharding.SPLITS)
    output_dir: str = options.option(
        "", "Where the results go; default: --run_dir, or the model's directory."
    )
    batch_size: int = options.option(128, "Images of a step over all devices.")
    bootstrap_samples: int = options.option(
        1000, "Resampled data sets for the 95 % intervals; 0: no intervals."
    )
    pictures: bool = options.option(True, "Draw confusion, error by age, worst faces.")
    devices: str = options.option("", "As for afad-train.")
    engine: str = options.option(
        "auto", "Of the input.", choices=("auto", "mapped", "graph")
    )
    cache_dir: str = options.option(
        "", "Local directory for the shards of a remote data set, as for afad-train."
    )
    cache_dir_gib: float = options.option(0.0, "Most it may hold, GiB; 0: its disk.")
    unsafe_load: bool = options.option(
        False, "Load a model that brings Python code (Lambda layers), and run it."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if bool(self.model) == bool(self.run_dir):
            raise errors.UsageError(
                "evaluation takes one of --model and --run_dir; got"
                f" {'both' if self.model else 'neither'}"
            )
        if self.model.endswith(".pb"):
            raise errors.UsageError(
                f"--model={self.model} is a frozen graph, which afad-predict runs; name"
                " the .keras or .h5 that it was made from"
            )
        if self.model and not self.records_dir:
            raise errors.UsageError(
                "--model needs --records_dir: the data set to evaluate it on"
            )
        if self.batch_size < 1 or self.bootstrap_samples < 0:
            raise errors.UsageError(
                "--batch_size is at least 1 and --bootstrap_samples at least 0; got"
                f" {self.batch_size} and {self.bootstrap_samples}"
            )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Runs a model over a split; writes ``metrics.json`` and pictures.

    Returns:
      JSON values: those of `metrics.evaluate`; ``intervals``; ``by_age`` by year;
      ``constant``, what the training split's median age and majority class reach; and
      ``model``, ``split``, ``files``.

    Raises:
      UsageError: A model or data set that is not there, or do not go together.
      DataError: A record is damaged.
    """
    path, records_dir, output_dir = _places(config)
    manifest = schema.load_manifest(records_dir)
    strategy = strategies.create_strategy(config.devices)
    with strategy.scope():
        model = saved.load(path, unsafe=config.unsafe_load)
        if _is_mixed(model):  # What a frozen graph of it computes.
            model = saved.rebuild_float32(model)
        network = networks.training_model(model)
    mean = tuple(saved.info(model).get("mean") or manifest.mean_rgb)
    data = input_fn.InputConfig(
        records_dir=records_dir,
        task=_task(network),
        global_batch_size=config.batch_size,
        image_size=_image_size(model, path),
        engine=config.engine,
        cache_dir=config.cache_dir,
        cache_dir_gib=config.cache_dir_gib,
    )
    predictor = step.Predictor(
        strategy, network, None, lambda images: preprocess.normalize(images, mean)
    )
    with input_fn.readable_errors():
        columns = predictor.run(
            strategy.distribute_datasets_from_function(
                lambda context: input_fn.eval_input_fn(data, config.split, context)
            )
        )
    index = schema.load_index(records_dir, manifest, config.split)
    # A label that the model does not predict still groups the others.
    for name in ("age", "gender"):
        columns.setdefault(f"label_{name}", np.asarray(index[name]))
    result = _measure(config, manifest, columns)
    result.update(model=path, records_dir=records_dir, split=config.split)
    files.make_dirs(output_dir)
    written = {METRICS_NAME: files.join(output_dir, METRICS_NAME)}
    _warn_of_another(written[METRICS_NAME], config.split)
    if config.pictures:
        written.update(_draw(config, data, manifest, columns, result, output_dir))
    result["files"] = sorted(written.values())
    files.write_json(written[METRICS_NAME], result)
    return result


def _warn_of_another(path: str, split: str) -> None:
    """Says so where the result of another split goes."""
    if not files.exists(path):
        return
    with contextlib.suppress(errors.AfadError, AttributeError):
        before = files.read_json(path, what="the metrics", advice="").get("split")
        if before != split:
            _log.warning(
                "the result of the %s split in %s is replaced by that of the %s split;"
                " --output_dir keeps both",
                *(before, os.path.dirname(path) or ".", split),
            )


def report(result: Mapping[str, Any]) -> str:
    """The result as a few lines, the constant predictor's beside each number."""
    constant, intervals = result["constant"], result.get("intervals", {})
    lines = [f"{result['split']}: {result['examples']:,} examples, {result['model']}"]
    for name, title in _TITLES.items():
        if result.get(name) is None:
            continue
        line = f"{title:<18}{result[name]:8.4f}"
        if name in intervals:
            low, high = intervals[name]
            line += f"  [{low:.4f}, {high:.4f}]"
        if constant.get(name) is not None:
            line += f"  constant {constant[name]:.4f}"
        lines.append(line)
    for name, row in result.get("by_gender", {}).items():
        values = ", ".join(
            f"{_TITLES[key].lower()} {row[key]:.4f}"
            for key in ("accuracy", "mae")
            if row.get(key) is not None
        )
        lines.append(f"  {name}: {row['examples']:,} examples, {values}")
    lines.append(f"written: {' '.join(result['files'])}")
    return "\n".join(lines)


_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC",
    "mae": "MAE, years",
    "rmse": "RMSE, years",
    "cs5": "CS@5",
    "bias": "Bias, years",
}


def _places(config: EvaluateConfig) -> tuple[str, str, str]:
    """The model's path, the records and the directory of the results."""
    if config.model:
        output = config.output_dir or os.path.dirname(config.model) or "."
        return config.model, config.records_dir, output
    stored = run_dir.read_config(config.run_dir)
    path = os.path.join(config.run_dir, run_dir.BEST_NAME)
    if not os.path.exists(path):
        raise errors.UsageError(
            f"{config.run_dir} has no {run_dir.BEST_NAME} yet: no epoch of it is done;"
            " continue it with afad-train"
        )
    records = config.records_dir or stored["train"].get("records_dir", "")
    if not records:
        raise errors.UsageError(
            f"{config.run_dir} was trained on data of the caller's own: name a data set"
            " with --records_dir"
        )
    return path, records, config.output_dir or config.run_dir


def _is_mixed(model: Any) -> bool:
    return any(
        layer.compute_dtype in ("float16", "bfloat16")
        for layer in model._flatten_layers()
    )


def _task(network: Any) -> str:
    found = [n for n in ("age", "gender") if f"{n}_output" in network.output]
    return "_".join(found)


def _image_size(model: Any, path: str) -> int:
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[1] != shape[2] or not shape[1] or shape[3] != 3:
        raise errors.UsageError(
            f"{path} takes {shape}, wanted square RGB images [n, size, size, 3]"
        )
    return int(shape[1])


def _measure(
    config: EvaluateConfig, manifest: schema.Manifest, columns: dict[str, np.ndarray]
) -> dict[str, Any]:
    names = manifest.class_names
    result = metrics.evaluate(columns, class_names=names)
    if config.bootstrap_samples:
        result["intervals"] = metrics.intervals(
            columns, samples=config.bootstrap_samples
        )
    result["by_age"] = {}
    ages = np.round(columns["label_age"]).astype(int)
    for age in np.unique(ages):
        rows = {name: values[ages == age] for name, values in columns.items()}
        by_age = metrics.evaluate(rows, class_names=names)
        result["by_age"][str(age)] = {
            name: by_age[name]
            for name in ("examples", "accuracy", "mae", "bias")
            if name in by_age
        }
    labels = {
        f"label_{n}": columns[f"label_{n}"] for n in ("age", "gender") if n in columns
    }
    counts = manifest.split("train").counts
    result["constant"] = metrics.constant(counts, labels, class_names=names)
    return result


def _draw(
    config: EvaluateConfig,
    data: input_fn.InputConfig,
    manifest: schema.Manifest,
    columns: dict[str, np.ndarray],
    result: dict[str, Any],
    output_dir: str,
) -> dict[str, str]:
    """Draws the pictures that the outputs allow; their paths by name."""
    paths = {
        name: files.join(output_dir, name)
        for name in (CONFUSION_NAME, ERROR_NAME, WORST_NAME)
    }
    if "gender" in columns:
        plots.draw_confusion(
            paths[CONFUSION_NAME], result["confusion"], manifest.class_names
        )
    else:
        del paths[CONFUSION_NAME]
    if "age" in columns:
        plots.draw_error_by_age(paths[ERROR_NAME], result["by_age"])
    else:
        del paths[ERROR_NAME]
    worst = _worst(columns)
    faces = _images(data, config.split, {row for row, _ in worst})
    contact_sheet.draw(
        paths[WORST_NAME],
        [faces[row] for row, _ in worst],
        [_caption(columns, row, name, manifest) for row, name in worst],
        columns=8,
    )
    return paths


def _worst(columns: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """Rows with the largest errors and the label that is wrong, the largest first."""
    errors_by_name = {
        name: np.abs(columns[name] - columns[f"label_{name}"])
        for name in ("age", "gender")
        if name in columns
    }
    each = _WORST // len(errors_by_name)
    return [
        (int(row), name)
        for name, error in errors_by_name.items()
        for row in np.argsort(-error, kind="stable")[:each]
    ]


def _images(
    data: input_fn.InputConfig, split: str, rows: set[int]
) -> dict[int, np.ndarray]:
    """The images of some rows, from a second pass over the split."""
    found: dict[int, np.ndarray] = {}
    start = 0
    for features, _ in input_fn.eval_input_fn(data, split):
        size = int(features["image"].shape[0])
        here = sorted(row for row in rows if start <= row < start + size)
        if here:
            chosen = tf.gather(features["image"], [row - start for row in here])
            found.update(zip(here, chosen.numpy(), strict=True))
        start += size
        if len(found) == len(rows):
            break
    return found


def _caption(
    columns: dict[str, np.ndarray], row: int, name: str, manifest: schema.Manifest
) -> str:
    label, value = columns[f"label_{name}"][row], columns[name][row]
    if name == "age":
        return f"{label:.0f}, said {value:.1f}"
    said = manifest.class_names[int(value >= 0.5)]
    return f"{manifest.class_names[int(label)]}, {said} {max(value, 1 - value):.2f}"
