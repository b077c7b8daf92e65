"""What records and a caller's model say about a training: means, ages, classes."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import facts
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config
from afad_tfdata.training import run_dir
from afad_tfdata.training.caller import objects
from afad_tfdata.training.distributed import strategies

_log = logging.getLogger(__name__)
# Used without records, when nothing is known about the images and ages.
_MIDDLE_GRAY, _AFAD_AGES = 127.5, (15, 72)
# Facts of a machine or an installation on which the rounding of a training depends, and
# what a message puts before their values.
_ROUNDING = {
    "devices": "",
    "precision": "",
    "engine": "the input engine ",
    "augmentation": "the augmentation by ",
    "processor": "",
    "onednn": "TF_ENABLE_ONEDNN_OPTS=",
    "tensorflow": "TensorFlow ",
    "keras": "Keras ",
}


def _age_range_of_records(manifest: schema.Manifest, task: str) -> tuple[int, int]:
    """The ages that a training learns from records: those of the training split."""
    learns_age = "age" in schema.labels_of(task)
    if not learns_age and not _records_have_ages(manifest):
        return _AFAD_AGES  # No age is learnt here, and the records have none.
    low, high = schema.age_range(manifest)
    if low < high:
        return low, high
    if learns_age:
        raise errors.UsageError(
            f"--task={task} needs faces of several ages; in the train split all are"
            f" {low}: train with --task=gender, or name another --records_dir"
        )
    return low, low + 1  # No age is learnt here; an empty range would be refused.


def _records_have_ages(manifest: schema.Manifest) -> bool:
    """Whether a training image has an age; a data set may have genders only."""
    return bool(manifest.split("train").ages)


def facts_after(
    config: train_config.TrainConfig,
    own: objects.CallerObjects,
    known: facts.Facts,
    manifest: schema.Manifest | None,
    mean: tuple[float, ...],
) -> facts.Facts:
    """Facts of the model after this training: what its input and outputs mean.

    Args:
      config: The options.
      own: The caller's objects.
      known: Facts of the model as it was built or passed.
      manifest: Of the records, or None.
      mean: What is subtracted from the images.

    Raises:
      UsageError: The caller's model has other classes, or the same in another order.
    """
    result = dataclasses.replace(known, mean=mean, input_range="normalized")
    if manifest is None:  # It is not known what the labels of the caller's data mean.
        return result
    # An earlier training of the model may have seen other crops; the last one counts.
    result = dataclasses.replace(result, face_crop=manifest.face_crop)
    decode = config.input.decode
    if manifest.pixel and decode != "accurate":
        _log.warning(
            "--decode=%s has no effect: the data set stores pixels, which were decoded"
            " accurately when they were written",
            decode,
        )
        decode = "accurate"
    result = dataclasses.replace(result, decode=decode)
    names = manifest.class_names
    learns_gender = "gender" in schema.labels_of(config.input.task)
    if own.model is not None and known.class_names and learns_gender:
        what = "the model that was passed to train"
        where = config.input.records_dir
        if facts.is_swapped(known.class_names, names, what=what, other=where):
            raise errors.UsageError(
                f"{what} has the classes {', '.join(known.class_names)}, and"
                f" {where} has {', '.join(names)}, the other way round: write the data"
                " set in the model's order (afad-write-records --gender_codes)"
            )
    ages = None
    if _records_have_ages(manifest):
        ages = _age_range_of_records(manifest, config.input.task)
    return dataclasses.replace(result, class_names=names, age_range=ages)


def channel_means(
    manifest: schema.Manifest | None, known: facts.Facts
) -> tuple[float, ...]:
    """Channel means of a training: of the caller's model if it has any, or records."""
    # Layers of one of our models convert its input by the mean that it was built with.
    if known.mean:
        return known.mean
    return manifest.mean_rgb if manifest is not None else (_MIDDLE_GRAY,) * 3


def known_ages(
    manifest: schema.Manifest | None, known: Mapping[str, Any], task: str
) -> tuple[int, int]:
    """Range of the ages that a training knows: of the caller's model, or of records."""
    if known:
        return known["min_age"], known["max_age"]
    return _age_range_of_records(manifest, task) if manifest is not None else _AFAD_AGES


def record_facts(
    manifest: schema.Manifest | None, known: facts.Facts, ages: tuple[int, int]
) -> dict[str, Any]:
    """Facts of a training for ``config.json``: about the records and the labels."""
    known_ages = manifest is None or _records_have_ages(manifest)
    return {
        "mean": dict(zip("RGB", known.mean or (), strict=True)),
        "class_names": list(known.class_names),
        "age_range": list(ages) if known_ages else None,
        "decode": known.decode,
        "records_digest": run_dir.records_digest(manifest),
        **({"face_crop": dict(known.face_crop)} if known.face_crop else {}),
    }


def machine_facts(
    strategy: tf.distribute.Strategy, global_batch_size: int, precision: str
) -> dict[str, Any]:
    """Facts of a training for ``config.json``: devices, processor and versions."""
    replicas = strategy.num_replicas_in_sync
    return {
        "devices": strategies.describe_strategy(strategy),
        "replicas": replicas,
        "per_replica_batch_size": global_batch_size // replicas,
        "precision": precision,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "processor": _processor(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def _processor() -> str:
    """The kind of processor, with the instruction sets that a training depends on.

    TensorFlow chooses its kernels by these instruction sets.
    """
    try:
        with open("/proc/cpuinfo") as f:
            flags = next((line for line in f if line.startswith("flags")), "")
    except OSError:  # Not Linux.
        flags = ""
    sets = {s for s in flags.split() if s == "fma" or s.startswith(("avx", "amx"))}
    return " ".join([platform.machine(), *sorted(sets)])


def rounding_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What rounds numbers in another way than in the part of a run so far.

    Args:
      before: Content of ``config.json``; an older version did not write all facts.
      now: Facts of the training that continues.

    Returns:
      Texts such as ``4 threads instead of 2``, for a message.
    """
    found = []
    counts = [facts.get("threads", {}) for facts in (now, before)]
    # TensorFlow means a thread for each core by 0 threads.
    threads = [count.get("intra_op") or count.get("cores") for count in counts]
    if all(threads) and threads[0] != threads[1]:
        found.append(f"{threads[0]} threads instead of {threads[1]}")
    for name, words in _ROUNDING.items():
        if name in before and before[name] != now[name]:
            found.append(f"{words}{now[name]} instead of {before[name]}")
    return found
