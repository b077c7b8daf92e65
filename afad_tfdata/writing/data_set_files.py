"""The files of a data set: the last part of writing, from the payloads on.

Shards and indexes are written first, because the means, the counts and the pictures
describe their content.  The caller writes the manifest that `finish` returns at last.
Without that file a directory is not a data set.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence

import numpy as np

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options
from afad_tfdata.storage import file_names, schema, sharding, tfds_metadata
from afad_tfdata.writing import (
    data_set_pictures,
    gender_codes,
    payloads,
    plan,
    rejections,
    shard_writer,
)
from afad_tfdata.writing.config import WriteConfig

LOG_NAME = "writer_log.json"
# The files that a data set has next to its shards and indexes.
COMPANIONS = (
    *(schema.MANIFEST_NAME, schema.MEAN_NAME, rejections.FILE_NAME, LOG_NAME),
    *(data_set_pictures.HISTOGRAM_NAME, data_set_pictures.SHEET_NAME),
    *tfds_metadata.NAMES,
)
_SHEET_FACES, _SHEET_COLUMNS = 40, 10


def finish(
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
    keep: Sequence[np.ndarray],
    *,
    num_found: int,
    num_rejected: int,
    num_skipped: int,
    work_dir: str,
    output_dir: str,
    num_threads: int,
) -> schema.Manifest:
    """Writes every file of a data set but its manifest and the writer's log.

    Args:
      work_plan: The plan.
      found: The payloads of all shards.
      keep: bool ``[n]`` for each shard: which of its records stay.
      num_found: Number of files in the source.
      num_rejected: Number of files that are not written, for whatever reason.
      num_skipped: Number of files that were never meant to be images.
      work_dir: Directory of the payloads.
      output_dir: The data set's directory.
      num_threads: Number of shards that are written at a time.

    Returns:
      The manifest, which the caller writes last.

    Raises:
      UsageError: No image of the training split can be used, or the disk is full.
      DataError: The numbers of files do not add up.
    """
    shards = shard_writer.write_all(
        work_plan,
        found,
        keep,
        work_dir=work_dir,
        output_dir=output_dir,
        num_threads=num_threads,
    )
    config = work_plan.config
    manifest = schema.Manifest(
        name=config.name,
        format=config.format,
        image_encoding=config.images.encoding,
        image_size=config.images.size,
        config=work_plan.to_json(),
        class_names=gender_codes.class_names(config.gender_codes),
        gender_codes=gender_codes.parse(config.gender_codes),
        resize={
            "method": "bilinear",
            "half_pixel_centers": True,
            # The input pipeline resizes original images, and it does not antialias.
            "antialias": config.images.encoding != "original",
        },
        pixel=config.pixel_layout,
        mean=_channel_means(work_plan, found, keep),
        found=num_found,
        written=sum(int(kept.sum()) for kept in keep),
        rejected=num_rejected,
        passed_over=num_skipped,
        splits=_write_indexes(output_dir, work_plan, shards),
    )
    _check_counts(manifest)
    _write_companions(output_dir, manifest)
    return manifest


def _check_counts(manifest: schema.Manifest) -> None:
    """Checks that each file of the source is counted: written, rejected or skipped."""
    if manifest.written + manifest.rejected + manifest.passed_over != manifest.found:
        raise errors.DataError(
            f"counts do not add up: {manifest.found} files were found,"
            f" {manifest.written} written, {manifest.rejected} rejected and"
            f" {manifest.passed_over} skipped; did the source change in the meantime?"
        )


def _channel_means(
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
    keep: Sequence[np.ndarray],
) -> dict[str, float]:
    """The data set's channel means, over `plan.Plan.mean_splits`, in [0, 255].

    They come from integer sums, and so do not depend on the order of the images.
    """
    total, count = [0, 0, 0], 0
    for task, payload, kept in zip(work_plan.tasks, found, keep, strict=True):
        if task.split in work_plan.mean_splits:
            sums = payload.sums[kept].sum(axis=0, dtype=np.uint64)
            total = [a + int(b) for a, b in zip(total, sums, strict=True)]
            count += int(kept.sum())
    if not count:
        raise errors.UsageError(
            "the training split is empty: none of its images can be used;"
            f" {rejections.FILE_NAME} says why"
        )
    pixels = count * work_plan.config.images.size**2
    return {name: value / pixels for name, value in zip("RGB", total, strict=True)}


def _write_indexes(
    directory: str, work_plan: plan.Plan, shards: Sequence[shard_writer.Written]
) -> dict[str, schema.Split]:
    """Writes the index of each split; returns the splits for the manifest."""
    class_names = gender_codes.class_names(work_plan.config.gender_codes)
    splits = {}
    for split in sharding.SPLITS:
        mine = [
            shard
            for task, shard in zip(work_plan.tasks, shards, strict=True)
            if task.split == split
        ]
        # A split without shards has an index without rows.
        index = np.concatenate(
            [np.zeros(0, schema.INDEX_DTYPE), *(shard.rows for shard in mine)]
        )
        content = io.BytesIO()
        np.save(content, index)
        name = file_names.index_name(work_plan.config.name, split)
        path = os.path.join(directory, name)
        files.write_atomic(path, content.getvalue())
        splits[split] = schema.Split(
            num_examples=len(index),
            shards=tuple(shard.shard for shard in mine),
            index=schema.Shard(
                name, len(index), os.path.getsize(path), files.sha256(path)
            ),
            counts=schema.counts_of(index, class_names),
        )
    return splits


def _write_companions(directory: str, manifest: schema.Manifest) -> None:
    """Writes the data set's files next to the shards, for people and other programs."""
    files.write_json(os.path.join(directory, schema.MEAN_NAME), manifest.mean)
    if manifest.format == "tfrecord":  # TensorFlow Datasets does not read HDF5.
        tfds_metadata.write(directory, manifest)
    data_set_pictures.draw_histogram(
        os.path.join(directory, data_set_pictures.HISTOGRAM_NAME), manifest
    )
    data_set_pictures.draw_sample(
        os.path.join(directory, data_set_pictures.SHEET_NAME),
        directory,
        manifest,
        next(name for name, split in manifest.splits.items() if split.num_examples),
        count=_SHEET_FACES,
        columns=_SHEET_COLUMNS,
    )


def companion_names(manifest: schema.Manifest) -> tuple[str, ...]:
    """Names of the companion files, which a data set has next to shards and indexes."""
    tfrecord = manifest.format == "tfrecord"
    return tuple(n for n in COMPANIONS if tfrecord or n not in tfds_metadata.NAMES)


def write_log(config: WriteConfig, num_images: int, seconds: float) -> None:
    """Writes the data set's log file: the writer's configuration, time and versions."""
    log = {
        "config": options.to_dict(config),
        "seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"afad_tfdata": __version__, "numpy": np.__version__},
    }
    files.write_json(os.path.join(config.output_dir, LOG_NAME), log)
