"""The k-fold protocol of papers on AFAD: every photo is tested once.

All faces of the data set, from all splits, are divided into k parts, by photo or as
``--split_by`` says.  Run j tests on part j, validates on part j + 1 and trains on the
others.  The result is the mean over the runs, and their spread::

    run_dir/records/fold-0.tfrecord ...     the parts: the records' bytes, put together
    run_dir/records/run-0/manifest.json     a data set over them, for each run
    run_dir/run-0/  ...                     the runs, as `trainer` leaves them
    run_dir/folds.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from afad_tfdata import evaluation, trainer
from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.storage import (
    file_names,
    image_keys,
    joined_data_sets,
    schema,
    sharding,
    tfrecord,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.distributed import cluster

RESULT_NAME = "folds.json"
_METRICS = ("accuracy", "balanced_accuracy", "auc", "mae", "rmse", "cs5")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FoldsResult:
    """The metrics of all folds of a cross-validation.

    Attributes:
      run_dir: The directory with the records and the runs.
      folds: Metrics on the tested part, run by run.
      mean: Of each metric over the runs.
      spread: Standard deviation of each metric over the runs (n - 1).
    """

    run_dir: str
    folds: tuple[dict[str, Any], ...]
    mean: dict[str, float]
    spread: dict[str, float]

    def text(self) -> str:
        """The metrics of the folds, their mean and spread, a line for each metric."""
        lines = [f"{len(self.folds)} folds in {self.run_dir}"]
        for name, mean in self.mean.items():
            each = ", ".join(f"{fold[name]:.4f}" for fold in self.folds)
            lines.append(f"{name:<18}{mean:8.4f} +- {self.spread[name]:.4f}  ({each})")
        written = files.join(self.run_dir, RESULT_NAME)
        lines.append(f"written: {written}, with the records and runs next to it")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The metrics of the folds as JSON values."""
        return dataclasses.asdict(self)


def train(config: train_config.TrainConfig) -> FoldsResult:
    """Trains and tests each fold of a cross-validation that is not finished yet.

    Args:
      config: As for `trainer.train`, with ``folds`` of 3 or more.

    Raises:
      UsageError: The records are not TFRecord, or there are fewer photos than folds.
      PreemptedError: As for `trainer.train`.
    """
    cluster.refuse_several_workers("--folds")
    views = write_views(
        config.input.records_dir, os.path.join(config.run_dir, "records"), config
    )
    results = []
    for number, view in enumerate(views):
        run = os.path.join(config.run_dir, f"run-{number}")
        _log.info("fold %d of %d: %s", number + 1, len(views), run)
        trainer.train(
            dataclasses.replace(
                config,
                input=dataclasses.replace(config.input, records_dir=view),
                run_dir=run,
                folds=0,
            )
        )
        done = os.path.join(run, evaluation.METRICS_NAME)
        if os.path.exists(done):
            result = files.read_json(
                done, what="the metrics", advice="remove it to evaluate again"
            )
        else:
            result = evaluation.evaluate(
                evaluation.EvaluateConfig(
                    run_dir=run,
                    devices=config.devices,
                    # A damaged record must not stop what the training skipped.
                    max_bad_records=config.input.max_bad_records,
                    verify=config.input.verify,
                )
            )
        results.append({n: result[n] for n in ("examples", *_METRICS) if n in result})
        keras.backend.clear_session()
    values = {
        name: np.array([result[name] for result in results], np.float64)
        for name in _METRICS
        if results[0].get(name) is not None
    }
    result = FoldsResult(
        run_dir=config.run_dir,
        folds=tuple(results),
        mean={name: float(v.mean()) for name, v in values.items()},
        spread={name: float(v.std(ddof=1)) for name, v in values.items()},
    )
    files.write_json(os.path.join(config.run_dir, RESULT_NAME), result.to_dict())
    return result


def write_views(
    records_dir: str, output_dir: str, config: train_config.TrainConfig
) -> list[str]:
    """Writes the folds' parts and, for each run, a data set over them.

    The channel means stay those of the data set's own training split.

    Args:
      records_dir: A TFRecord data set.
      output_dir: Where to; it takes as much space as the data set.
      config: Its ``folds`` and ``seed`` decide the parts.
    """
    if len(joined_data_sets.directories(records_dir)) > 1:
        raise errors.UsageError(
            "--folds takes one data set, and --records_dir names several"
            f" ({records_dir}): write them as one, with afad-write-records --labels_csv"
        )
    manifest = schema.load_manifest(records_dir)
    if manifest.format != "tfrecord" or files.is_remote(records_dir):
        raise errors.UsageError(
            f"--folds takes a TFRecord data set on a local disk; {records_dir} is"
            f" {manifest.format}: write one with afad-write-records --format=tfrecord"
        )
    views = [os.path.join(output_dir, f"run-{j}") for j in range(config.folds)]
    if all(files.exists(os.path.join(v, schema.MANIFEST_NAME)) for v in views):
        return views
    files.make_dirs(output_dir)
    parts = _write_fold_parts(records_dir, output_dir, manifest, config)
    for j, view in enumerate(views):
        roles = {"test": [j], "validation": [(j + 1) % config.folds]}
        taken = {fold for folds in roles.values() for fold in folds}
        roles["train"] = [f for f in range(config.folds) if f not in taken]
        files.make_dirs(view)
        splits = {
            name: _write_split_of_view(
                view, name, [parts[f] for f in roles[name]], manifest
            )
            for name in sharding.SPLITS
        }
        whole = dataclasses.replace(
            manifest,
            splits=splits,
            config={**manifest.config, "folds": config.folds, "fold": j},
        )
        # The manifest comes last: a directory without one is written again.
        path = os.path.join(view, schema.MANIFEST_NAME)
        files.write_atomic(path, schema.manifest_bytes(whole))
        files.write_json(os.path.join(view, schema.MEAN_NAME), manifest.mean)
    return views


@dataclasses.dataclass(frozen=True)
class _FoldPart:
    """One of the k parts that the folds are made of: a file and its index."""

    shard: schema.Shard
    index: np.ndarray


def _write_fold_parts(
    records_dir: str,
    output_dir: str,
    manifest: schema.Manifest,
    config: train_config.TrainConfig,
) -> list[_FoldPart]:
    """Copies each record into the part of its photo, for the folds."""
    count = config.folds
    names = [f"fold-{fold}.tfrecord" for fold in range(count)]
    paths = [os.path.join(output_dir, name) for name in names]
    rows: list[list[np.ndarray]] = [[] for _ in range(count)]
    lengths, digests = [0] * count, [hashlib.sha256() for _ in range(count)]
    split_by = manifest.config.get("split_by", "photo")
    # Only data sets with numbers in file names that are not photo ids have this list.
    untrusted = manifest.config.get("untrusted_photos", ())
    written = [open(f"{path}.tmp", "wb") for path in paths]
    try:
        for split, index, shard_path in _shards_with_rows(records_dir, manifest):
            with open(shard_path, "rb") as shard:
                for row in index:
                    shard.seek(int(row["record_offset"]))
                    framed = shard.read(int(row["record_length"]))
                    fold = _fold_of_record(
                        framed, split_by, untrusted, config, where=split
                    )
                    moved = row.copy()
                    moved["record_offset"] = lengths[fold]
                    inside = int(row["image_offset"]) - int(row["record_offset"])
                    moved["image_offset"] = lengths[fold] + inside
                    moved["shard"] = 0
                    rows[fold].append(moved)
                    written[fold].write(framed)
                    digests[fold].update(framed)
                    lengths[fold] += len(framed)
    finally:
        for file in written:
            file.close()
    for fold, path in enumerate(paths):
        if not rows[fold]:
            raise errors.UsageError(
                f"--folds={count} leaves fold {fold} without a photo: take fewer folds"
            )
        os.replace(f"{path}.tmp", path)
    return [
        _FoldPart(
            schema.Shard(
                name=os.path.join("..", names[fold]),
                num_examples=len(rows[fold]),
                num_bytes=lengths[fold],
                sha256=digests[fold].hexdigest(),
            ),
            np.array(rows[fold], schema.INDEX_DTYPE),
        )
        for fold in range(count)
    ]


def _shards_with_rows(records_dir: str, manifest: schema.Manifest):
    """Every shard that is divided into folds: its split, its rows, its path."""
    for name, split in manifest.splits.items():
        if not split.num_examples:
            continue
        index = schema.load_index(records_dir, manifest, name)
        for number, shard in enumerate(split.shards):
            rows = index[index["shard"] == number]
            yield name, rows, files.join(records_dir, shard.name)


def _fold_of_record(
    framed: bytes,
    split_by: str,
    untrusted: Collection[str],
    config: train_config.TrainConfig,
    *,
    where: str,
) -> int:
    """The fold of a record, from its key."""
    try:
        example = tfrecord.parse_example(tfrecord.check_record(framed))
        key = os.fsdecode(bytes(example[schema.IMAGE_FILENAME]))
        named = os.fsdecode(bytes(example.get(schema.IMAGE_GROUP, b"")))
    except (tfrecord.RecordError, KeyError) as error:
        raise errors.DataError(
            f"a record of split {where} is damaged ({error}): afad-inspect-records"
            " --verify names it"
        ) from error
    group = image_keys.group_key(key, split_by, untrusted, named)
    seed, count = config.input.seed, config.folds
    return int(sharding.folds_of([group], seed=seed, num_folds=count)[0])


def _write_split_of_view(
    view: str, name: str, parts: list[_FoldPart], manifest: schema.Manifest
) -> schema.Split:
    """Writes the index of one split of a fold's data set."""
    indexes = []
    for number, part in enumerate(parts):
        index = part.index.copy()
        index["shard"] = number
        indexes.append(index)
    index = np.concatenate(indexes)
    file_name = file_names.index_name(manifest.name, name)
    path = os.path.join(view, file_name)
    with open(path, "wb") as f:
        np.save(f, index, allow_pickle=False)
    return schema.Split(
        num_examples=len(index),
        shards=tuple(part.shard for part in parts),
        index=schema.Shard(
            name=file_name,
            num_examples=len(index),
            num_bytes=os.path.getsize(path),
            sha256=files.sha256(path),
        ),
        counts=schema.counts_of(index, manifest.class_names),
    )
