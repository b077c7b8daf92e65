"""Evaluation: a model's metrics on a split, next to those of a constant prediction.

::

    result = evaluation.evaluate(evaluation.EvaluateConfig(run_dir="run"))
    print(result["accuracy"], result["intervals"]["accuracy"])
    print(evaluation.summary_text(result))

Every example counts once, whatever the batch size and the number of replicas.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, files, tf32
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.evaluating import config as evaluate_config
from afad_tfdata.evaluating import (
    data_set_of_run,
    evaluated_model,
    evaluation_pictures,
    evaluation_summary,
    fitted_on_validation,
    stored_predictions,
)
from afad_tfdata.freezing import corrected_source, model_source
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.metrics import age_decisions, bootstrap, prediction_metrics
from afad_tfdata.models import corrections_file, facts, input_range, output_checks
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.training import replica_predictor, run_dir
from afad_tfdata.training.distributed import strategies

METRICS_NAME = "metrics.json"
AGE_THRESHOLDS = (18, 21, 25)

EvaluateConfig = evaluate_config.EvaluateConfig
summary_text = evaluation_summary.summary_text

_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Runs a model over a split, and writes ``metrics.json`` and pictures.

    Args:
      config: Which model to evaluate, on what, and how.

    Returns:
      The content of ``metrics.json``, JSON values:

      - ``accuracy``, ``auc``, ``mae`` and ``bias`` in years, ``cs5`` and the other
        metrics of `prediction_metrics.evaluate`, as far as the model predicts them;
      - ``intervals``: the 95 % interval of each, ``[low, high]``; ``by_age``: the
        metrics by year;
      - ``constant``: what the training split's median age and majority class reach;
      - ``calibration``: what was measured on the validation split, if it was asked
        for, with ``log_loss`` and ``corrected_mae`` without and with it;
      - ``age_interval`` from `fitted_on_validation.coverage_of_interval`, and
        ``age_decisions`` from `age_decisions.measure`, if the model predicts ages;
      - ``worst`` from `stored_predictions.worst_records` and ``predictions`` from
        `stored_predictions.store`, unless bad records were skipped;
      - ``class_names`` in label order, ``model``, ``split`` and ``files``.

    Raises:
      UsageError: The model or the data set does not exist, or they do not fit.
      DataError: A record is damaged.
    """
    prepared = _prepare(config)
    path, records_dir = prepared.path, prepared.records_dir
    model, manifest, names = prepared.model, prepared.manifest, prepared.names
    columns_of, output_dir = prepared.columns_of, prepared.output_dir
    wanted = prepared.wanted
    lacking = [
        label
        for label in model.labels
        if any(split.num_without(label) for split in manifest.splits.values())
    ]
    if wanted.flags and lacking:
        flag = next(iter(wanted.flags))
        raise errors.UsageError(
            f"--{flag} needs the labels of every record, and {records_dir} has records"
            f" without {lacking[0]}: leave the flag out"
        )
    # Fitted first: a split that is too small is then an error before the longer work.
    entry = (
        fitted_on_validation.fit(
            fitted_on_validation.validation_columns(columns_of, manifest), wanted, names
        )
        if wanted.flags
        else None
    )
    before = columns = columns_of(config.split)
    if entry:
        columns = fitted_on_validation.with_fitted_corrections(before, entry)
    if "age" in columns:
        labels = _known_ages(columns)["label_age"]
        if doubt := output_checks.doubt_about_ages(columns["age"], labels):
            _log.warning("the ages that %s predicts: %s", path, doubt)
    result = _measure(columns, manifest, names, samples=config.bootstrap_samples)
    if entry:
        result["calibration"] = entry
        result.update(
            fitted_on_validation.effects_of_corrections(before, columns, entry)
        )
    interval = fitted_on_validation.interval_to_report(
        entry, model, config.flip_average
    )
    if interval:
        result["age_interval"] = fitted_on_validation.coverage_of_interval(
            _known_ages(columns), interval, names
        )
    if "age" in columns:
        result["age_decisions"] = age_decisions.measure(
            columns["age"],
            _known_ages(columns)["label_age"],
            thresholds=sorted(config.age_thresholds) or AGE_THRESHOLDS,
            groups=prediction_metrics.rows_by_group(columns, class_names=names),
            samples=config.bootstrap_samples,
        )
    result["class_names"] = list(names)
    result.update(model=path, records_dir=records_dir, split=config.split)
    files.make_dirs(output_dir)
    written = {METRICS_NAME: files.join(output_dir, METRICS_NAME)}
    _warn_of_other_split(written[METRICS_NAME], config.split)
    # If bad records were skipped, it is not known which records the rows belong to.
    if (
        len(columns[f"label_{model.labels[0]}"])
        == manifest.split(config.split).num_examples
    ):
        rows = stored_predictions.identity_of_rows(records_dir, config.split)
        result["predictions"] = stored_predictions.store(
            output_dir, columns, rows=rows, max_examples=config.input.max_examples
        )
        written[stored_predictions.FILE_NAME] = files.join(
            output_dir, stored_predictions.FILE_NAME
        )
        # Opened by the same config, which reads the local copies of remote records.
        index = index_loading.open_index(prepared.data, config.split)
        result["worst"] = stored_predictions.worst_records(
            columns, evaluation_pictures.worst_rows(columns), index
        )
    if config.pictures:
        written.update(
            evaluation_pictures.draw(
                columns, result, names, prepared.data, config.split, output_dir
            )
        )
    if entry:
        home = corrected_source.directory_of_corrections(model.path)
        written[corrections_file.FILE_NAME] = corrections_file.store_entry(
            home, model.path, entry
        )
    result["files"] = sorted(written.values())
    # Written last, so that a result exists only if its pictures do.
    files.write_json(written[METRICS_NAME], result)
    return result


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A model on its devices, and the data set that fits it.

    Attributes:
      path: The model.
      records_dir: The data set.
      output_dir: Where results go.
      wanted: What is measured on the validation split.
      manifest: Manifest of the data set.
      model: The model.
      names: Names of the gender labels 0 and 1 in the columns.
      data: How the data set is read.
      columns_of: Predictions and labels of every example of a split, by name.
    """

    path: str
    records_dir: str
    output_dir: str
    wanted: fitted_on_validation.WantedFits
    manifest: schema.Manifest
    model: evaluated_model.EvaluatedModel
    names: Sequence[str]
    data: input_config.InputConfig
    columns_of: Callable[[str], dict[str, np.ndarray]]


def predict(
    config: EvaluateConfig, splits: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], tuple[str, ...]]:
    """Predicts as `evaluate` does, for every record of some splits, without metrics.

    Args:
      config: As for `evaluate`; its split does not matter.
      splits: Names of splits that have examples.

    Returns:
      By split the columns ``age``, ``gender``, ``label_age`` and ``label_gender`` as
      far as the model has them, ``[n]`` in the order of the split; and the names of the
      gender labels 0 and 1 in them.

    Raises:
      UsageError: The model or the data set does not exist, or they do not fit.
      DataError: A record is damaged.
    """
    prepared = _prepare(config)
    return {s: prepared.columns_of(s) for s in splits}, tuple(prepared.names)


def _prepare(config: EvaluateConfig) -> _Prepared:
    """Loads the model to evaluate, and checks that it, the data set and flags fit.

    Raises:
      UsageError: They do not, or one of them does not exist.
    """
    path, records_dir, output_dir = places(config)
    if config.run_dir:
        named = bool(config.input.records_dir)
        data_set_of_run.check(config.run_dir, records_dir, named=named)
    wanted = fitted_on_validation.WantedFits(
        config.interval_coverage,
        config.gender_temperature,
        config.age_correction,
        config.flip_average,
    )
    manifest = joined_data_sets.load_manifest(records_dir, config.input.max_examples)
    strategy = strategies.create_strategy(config.devices)
    tf32.turn_off()
    model = evaluated_model.load(
        path,
        strategy,
        which=config.which,
        epoch=config.epoch,
        outputs=config.outputs,
        given_range=config.input_range,
        unsafe_load=config.unsafe_load,
        flip_average=config.flip_average,
    )
    known = model.facts
    normalization = input_range.normalization_of_range(
        known.input_range, known.mean or manifest.mean_rgb
    )
    if config.age_thresholds and "age" not in model.labels:
        raise errors.UsageError(
            f"--age_thresholds: {path} predicts no age; leave the flag out"
        )
    wanted.check(model.labels, config.split, path)
    wanted = fitted_on_validation.with_stored_interval(wanted, model, manifest)
    task = "_".join(model.labels)
    # The data set's spelling is used, because its counts have these names.
    names = manifest.class_names
    swapped = "gender" in schema.labels_of(task) and facts.is_swapped(
        facts.chosen_class_names(known.class_names, config.class_names, what=path),
        names,
        what=path,
        other=records_dir,
    )
    data = dataclasses.replace(
        config.input,
        records_dir=records_dir,
        task=task,
        global_batch_size=config.batch_size,
        image_size=model.image_size,
        # Models of other programs and of earlier versions do not say how they decode.
        decode=known.decode or "accurate",
    )
    if swapped:
        names = names[::-1]
        _log.info(
            "the labels of %s are swapped: the model's classes are %s",
            records_dir,
            ", ".join(names),
        )

    def columns_of(split: str) -> dict[str, np.ndarray]:
        """What is evaluated: predictions and labels of a split, by name."""
        found = _predict(strategy, model.network, normalization, data, split)
        output_checks.check_predictions({n: found[n] for n in model.labels}, what=path)
        if swapped:
            genders = found["label_gender"]
            found["label_gender"] = np.where(genders < 0, genders, 1 - genders)
        return found

    return _Prepared(
        path,
        records_dir,
        output_dir,
        wanted,
        manifest,
        model,
        names,
        data,
        columns_of,
    )


def _known_ages(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The evaluated columns with NaN, which does not count, for missing ages."""
    ages = np.asarray(columns["label_age"], np.float64)
    return {**columns, "label_age": np.where(ages < 0, np.nan, ages)}


def _warn_of_other_split(path: str, split: str) -> None:
    """Logs a warning if an evaluation replaces the result of another split."""
    if not files.exists(path):
        return
    # A damaged file, or one without a JSON object, is replaced without a message.
    with contextlib.suppress(errors.AfadError, AttributeError):
        before = files.read_json(path, what="the metrics", advice="").get("split")
        if before != split:
            _log.warning(
                "the result of the %s split in %s is replaced by that of the %s split;"
                " --output_dir keeps both",
                *(before, os.path.dirname(path) or ".", split),
            )


def places(config: EvaluateConfig) -> tuple[str, str, str]:
    """The evaluated model's path, the data set and the directory of the results.

    Raises:
      UsageError: The run or its data set is not there.
    """
    if config.model:
        folder = config.model.rstrip("/")
        # The results of a run belong in its directory; those of a SavedModel, next to
        # it.
        if not os.path.exists(os.path.join(folder, run_dir.CONFIG_NAME)):
            folder = os.path.dirname(folder)
        output = config.output_dir or folder or "."
        return config.model, config.input.records_dir, output
    stored = run_dir.read_config(config.run_dir)
    path = model_source.model_of_run(config.run_dir, config.which, config.epoch)
    trained_on = stored["train"].get("records_dir", "")
    records = config.input.records_dir or run_dir.data_set_of_run(
        config.run_dir, stored
    )
    if not records:
        why = (
            f"{trained_on} does not exist"
            if trained_on
            else "it was trained on data of your own"
        )
        raise errors.UsageError(
            f"the data set that {config.run_dir} was trained on is not known here"
            f" ({why}): name one with --records_dir"
        )
    return path, records, config.output_dir or config.run_dir


def _predict(
    strategy: tf.distribute.Strategy,
    network: Callable[..., Mapping[str, tf.Tensor]],
    normalization: tuple[Sequence[float] | None, float],
    data: input_config.InputConfig,
    split: str,
) -> dict[str, np.ndarray]:
    """The evaluated model's predictions and the labels of every example, by name."""
    mean, divisor = normalization
    predictor = replica_predictor.Predictor(
        strategy,
        network,
        None,
        lambda images: tensor_preprocessing.normalize(
            images, mean or (0, 0, 0), divisor
        ),
    )
    with input_fn.readable_errors():
        return predictor.run(
            strategy.distribute_datasets_from_function(
                lambda context: input_fn.eval_input_fn(data, split, context)
            )
        )


def _measure(
    columns: dict[str, np.ndarray],
    manifest: schema.Manifest,
    names: Sequence[str],
    *,
    samples: int,
) -> dict[str, Any]:
    """The metrics of an evaluation: of all examples, each age, a constant predictor.

    Args:
      columns: Predictions and labels.
      manifest: Manifest of the data set.
      names: Names of the gender labels 0 and 1 in the columns.
      samples: Number of resampled data sets.
    """
    result = prediction_metrics.evaluate(columns, class_names=names)
    if samples:
        result["intervals"] = bootstrap.intervals(columns, samples=samples)
    result["by_age"] = {}
    # A data set of genders has no ages.
    ages = np.round(columns.get("label_age", np.full(1, -1.0))).astype(int)
    for age in np.unique(ages[ages >= 0]):
        rows = {name: values[ages == age] for name, values in columns.items()}
        by_age = prediction_metrics.evaluate(rows, class_names=names)
        result["by_age"][str(age)] = {
            name: by_age[name]
            for name in ("examples", "accuracy", "mae", "bias")
            if name in by_age
        }
    labels = {
        f"label_{n}": columns[f"label_{n}"] for n in ("age", "gender") if n in columns
    }
    train = manifest.splits.get("train")
    # A data set that is only a test set does not say which constant is the best one.
    result["constant"] = {"predicts": {}}
    if train is not None and train.num_examples:
        result["constant"] = prediction_metrics.of_constant_predictor(
            train.counts, labels, class_names=names
        )
    return result
