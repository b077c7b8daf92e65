"""Writes a data set: from a folder of faces to verified shards under one manifest.

    config = records.WriteConfig(data_dir="AFAD-Full", output_dir="records")
    manifest = records.write_records(config)

The stages, each of which can be killed and started again::

    scan      list the source, look at no image
    plan      a key's hash decides split, shard and place       .work/plan.*
    payload   read, check and decode every image, in parallel   .work/*.payload
    decide    byte-identical copies, over the whole data set
    finish    shards, indexes, means, pictures
    manifest  last, by rename: without it there is no data set

The bytes of shards, indexes and manifest depend on the images and on the configuration
only, not on the number of workers, on interruptions or on the order of a directory.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options
from afad_tfdata.storage import remote, schema, sharding, tfds_metadata
from afad_tfdata.writing import (
    archive,
    dataset_pictures,
    duplicate_images,
    payloads,
    plan,
    selection,
    shard_writer,
    source,
    work_folder,
    writer_pool,
)
from afad_tfdata.writing.config import WriteConfig

__all__ = ["WriteConfig", "table", "write_records"]

REJECTED_NAME = "rejected.jsonl"
LOG_NAME = "writer_log.json"
_SHEET_FACES, _SHEET_COLUMNS = 40, 10
_log = logging.getLogger(__name__)


# The fields that decide bytes whatever the format is.
_DECIDING = (
    *("format", "image_size", "test_fraction", "validation_fraction", "split_by"),
    *("seed", "min_age", "max_age", "max_faces_per_photo", "gender_codes"),
    *("duplicates", "conflicts", "max_pixels", "max_file_bytes"),
)
_DECIDING_HDF5 = ("hdf5_labels", "hdf5_dtype", "hdf5_channels", "hdf5_compression")


def write_records(config: WriteConfig) -> schema.Manifest | None:
    """Writes a data set, or goes on where an earlier run stopped.

    Args:
      config: What to write.

    Returns:
      The manifest; None where `WriteConfig.shard_range` left shards for others.

    Raises:
      UsageError: Wrong flags, no images, a directory with another data set in it, a
        second writer, a full disk.
      DataError: More unusable files than `WriteConfig.max_rejected`.
    """
    if not config.output_dir:
        raise errors.UsageError(
            "--output_dir is missing: name the data set's directory"
        )
    if files.is_remote(config.output_dir):
        return _write_remote(config, _plan(config)[0])
    processes = config.num_workers or writer_pool.default_workers()
    with writer_pool.Workers(0 if config.runner == "beam" else processes) as workers:
        return _write(config, workers)


def _plan(
    config: WriteConfig,
) -> tuple[plan.Plan, source.Listing, list[source.Rejection]]:
    """The plan, what it was made from, and what the flags left out."""
    listing = _scan(config)
    splits = selection.load_split_file(config.split_file) if config.split_file else None
    items, left_out = selection.select(
        listing,
        min_age=config.min_age,
        max_age=config.max_age,
        max_faces_per_photo=config.max_faces_per_photo,
        splits=splits,
    )
    if not items:
        raise _nothing_found(config, listing, left_out)
    work_plan = plan.make(items, _deciding(config), num_shards=config.num_shards)
    return work_plan, listing, left_out


def _write(config: WriteConfig, workers: writer_pool.Workers) -> schema.Manifest | None:
    """`write_records` on a local disk."""
    started = time.time()
    work_plan, listing, left_out = _plan(config)
    if config.split_file:
        selection.warn_of_missing_ages(work_plan)
    finished = work_folder.finished(config.output_dir, work_plan)
    if finished is not None:
        _log.info("%s is finished already", config.output_dir)
        return finished
    work_dir = os.path.join(config.output_dir, work_folder.WORK_NAME)
    with work_folder.lock(work_dir, shared=bool(config.shard_range)) as lock_fd:
        # Another writer may have ended while this one waited.
        finished = work_folder.finished(config.output_dir, work_plan)
        if finished is not None:
            return finished
        work_folder.keep_plan(work_plan, work_dir)
        found = payloads.write(config, listing, work_plan, work_dir, lock_fd, workers)
        if found is None:
            return None
        rejected = [*listing.rejected, *left_out]
        manifest = _finish(config, listing, rejected, work_plan, work_dir, found)
        log = {
            "config": options.to_dict(config),
            "seconds": round(time.time() - started, 3),
            "images_per_second": round(
                len(work_plan.rows) / (time.time() - started), 1
            ),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {"afad_tfdata": __version__, "numpy": np.__version__},
        }
        files.write_json(os.path.join(config.output_dir, LOG_NAME), log)
        files.write_atomic(
            os.path.join(config.output_dir, schema.MANIFEST_NAME),
            schema.manifest_bytes(manifest),
        )
        work_folder.remove_work(work_dir)
    return manifest


def _write_remote(config: WriteConfig, work_plan: plan.Plan) -> schema.Manifest | None:
    """Writes beside and uploads."""
    if config.shard_range and not config.work_dir:
        raise errors.UsageError(
            "--shard_range with a remote --output_dir needs --work_dir, on a file"
            " system that all tasks share"
        )
    manifest = remote.stored(config.output_dir)
    if manifest is not None:
        work_folder.refuse_other(
            config.output_dir, manifest.config, work_plan.config, "a finished data set"
        )
        _log.info("%s is finished already", config.output_dir)
        return manifest
    directory = remote.staging_dir(config.output_dir, config.work_dir)
    local = dataclasses.replace(config, output_dir=directory, work_dir="")
    manifest = write_records(local)
    if manifest is not None:
        remote.upload(directory, config.output_dir)
    return manifest


def table(manifest: schema.Manifest) -> str:
    """Counts by split and class, as lines of text."""
    head = ("split", "shards", "examples", *manifest.class_names, "ages", "MB")
    rows = [head]
    for name, split in manifest.splits.items():
        ages = {int(age) for by_age in split.counts.values() for age in by_age}
        counts = [
            f"{sum(split.counts.get(label, {}).values()):,}"
            for label in manifest.class_names
        ]
        size = sum(shard.num_bytes for shard in split.shards) / 1e6
        rows.append(
            (
                name,
                str(len(split.shards)),
                f"{split.num_examples:,}",
                *counts,
                f"{min(ages)}-{max(ages)}" if ages else "-",
                f"{size:,.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.append(
        f"found {manifest.found:,} = written {manifest.written:,} + rejected"
        f" {manifest.rejected:,} + passed over {manifest.passed_over:,}"
    )
    return "\n".join(lines)


def beside(manifest: schema.Manifest) -> tuple[str, ...]:
    """Names of the files that lie beside shards and indexes."""
    return (
        *(schema.MANIFEST_NAME, schema.MEAN_NAME, REJECTED_NAME, LOG_NAME),
        *(dataset_pictures.HISTOGRAM_NAME, dataset_pictures.SHEET_NAME),
        *(tfds_metadata.NAMES if manifest.format == "tfrecord" else ()),
    )


def _scan(config: WriteConfig) -> source.Listing:
    codes = source.parse_gender_codes(config.gender_codes)
    if config.labels_csv:
        root = config.data_dir or os.path.dirname(config.labels_csv) or "."
        return source.scan_csv(config.labels_csv, root, codes)
    if not config.data_dir:
        raise errors.UsageError(
            "--data_dir is missing: name the folder that holds AGE/GENDER/IMAGE, or"
            " give --labels_csv"
        )
    if parts := archive.find_parts(config.data_dir):
        return archive.scan(parts, codes)
    inside = os.path.realpath(config.output_dir) + os.sep
    if inside.startswith(os.path.realpath(config.data_dir) + os.sep):
        raise errors.UsageError(
            f"--output_dir={config.output_dir} lies in --data_dir, where a second run"
            " would take it for a part of the source: name a place outside"
        )
    return source.scan_tree(config.data_dir, codes)


def _nothing_found(
    config: WriteConfig,
    listing: source.Listing,
    left_out: Sequence[source.Rejection],
) -> errors.UsageError:
    where = (
        f"--labels_csv={config.labels_csv}"
        if config.labels_csv
        else (f"--data_dir={config.data_dir}")
    )
    first = next(iter([*listing.rejected, *left_out]), None)
    seen = f"{listing.found} files" if listing.found else "no file at all"
    because = f", the first refused being {first.path}: {first.reason}" if first else ""
    wanted = "AGE/GENDER/IMAGE.jpg"
    if config.labels_csv:
        wanted = f"paths of images below {listing.root} (--data_dir names another)"
    return errors.UsageError(
        f"{where} has no image to write, wanted {wanted}; found {seen}{because}"
    )


def _deciding(config: WriteConfig) -> dict[str, Any]:
    names = [*_DECIDING]
    if config.format == "hdf5":
        names += _DECIDING_HDF5
    if config.encoding == "jpeg":
        names.append("jpeg_quality")
    values = {name: getattr(config, name) for name in names}
    values["image_encoding"] = config.encoding
    values["split_file"] = bool(config.split_file)
    return values


def _finish(
    config: WriteConfig,
    listing: source.Listing,
    rejected: list[source.Rejection],
    work_plan: plan.Plan,
    work_dir: str,
    found: list[shard_writer.Payload],
) -> schema.Manifest:
    """Everything from the payloads to the manifest, which it returns."""
    unusable = [
        source.Rejection(os.fsdecode(work_plan.key(row)), reason)
        for payload in found
        for row, reason in payload.rejected
    ]
    keep, copies = _decide(work_plan, found)
    everything = sorted([*rejected, *unusable, *copies])
    _write_rejected(config.output_dir, everything)
    try:
        _check_rejected(config, listing, len(listing.rejected) + len(unusable))
    except errors.DataError:
        for task, payload in zip(work_plan.tasks, found, strict=True):
            if payload.rejected:  # They may be mended: look at them again next time.
                shard_writer.forget_payload(work_dir, task)
        raise
    workers = config.num_workers or writer_pool.default_workers()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        parts = list(
            pool.map(
                lambda task, payload, kept: shard_writer.finish(
                    work_dir, config.output_dir, work_plan, task, payload, kept
                ),
                work_plan.tasks,
                found,
                keep,
            )
        )
    written = sum(int(kept.sum()) for kept in keep)
    manifest = schema.Manifest(
        name="afad",
        format=config.format,
        image_encoding=config.encoding,
        image_size=config.image_size,
        config=work_plan.config,
        class_names=source.class_names(config.gender_codes),
        gender_codes=source.parse_gender_codes(config.gender_codes),
        resize={
            "method": "bilinear",
            "half_pixel_centers": True,
            "antialias": config.encoding != "original",
        },
        pixel=_pixel(config),
        mean=_mean(work_plan, found, keep, config.image_size),
        found=listing.found,
        written=written,
        rejected=len(everything),
        passed_over=listing.passed_over,
        splits=_splits(config.output_dir, work_plan, parts, config),
    )
    if manifest.written + manifest.rejected + manifest.passed_over != manifest.found:
        raise errors.DataError(
            f"counts do not add up: {manifest.found} files were found,"
            f" {manifest.written} written, {manifest.rejected} rejected and"
            f" {manifest.passed_over} passed over; did the source change meanwhile?"
        )
    _write_beside(config.output_dir, manifest)
    return manifest


def _decide(
    work_plan: plan.Plan, payloads: Sequence[shard_writer.Payload]
) -> tuple[list[np.ndarray], list[source.Rejection]]:
    """Which records stay, by shard, and the others with their reason."""
    rows = np.concatenate([payload.rows for payload in payloads])
    labels = np.stack([work_plan.rows["age"][rows], work_plan.rows["gender"][rows]], 1)
    keep, first, in_conflict = duplicate_images.decide(
        np.concatenate([payload.sha256 for payload in payloads]),
        labels,
        work_plan.rows["key_offset"][rows],
        duplicates=work_plan.config["duplicates"],
        conflicts=work_plan.config["conflicts"],
    )
    if in_conflict.any():
        _log.warning(
            "%d images have the same bytes as others under different labels; see %s",
            in_conflict.sum(),
            REJECTED_NAME,
        )
    copies = []
    for position in np.flatnonzero(~keep):
        other = position
        if first[position] != position:
            other = first[position]
        elif in_conflict[position]:
            # The first of its group names the next copy, not itself.
            other = np.flatnonzero(
                (first == position) & (np.arange(len(rows)) != position)
            )[0]
        name = os.fsdecode(work_plan.key(int(rows[other])))
        reason = f"same bytes as {name}"
        if in_conflict[position]:
            reason += ", under different labels"
        key = os.fsdecode(work_plan.key(int(rows[position])))
        copies.append(source.Rejection(key, reason))
    edges = np.cumsum([len(payload.rows) for payload in payloads])[:-1]
    return np.split(keep, edges), copies


def _write_rejected(directory: str, rejected: Sequence[source.Rejection]) -> None:
    # Names that are no valid UTF-8 are escaped by JSON itself.
    lines = [json.dumps(rejection._asdict()) + "\n" for rejection in rejected]
    files.write_atomic(os.path.join(directory, REJECTED_NAME), "".join(lines))


def _check_rejected(config: WriteConfig, listing: source.Listing, bad: int) -> None:
    limit = config.max_rejected
    if limit is None:
        limit = max(100, listing.found // 100)
    if bad > limit:
        raise errors.DataError(
            f"{bad} of {listing.found} files cannot be used, which is more than"
            f" --max_rejected={limit}; {os.path.join(config.output_dir, REJECTED_NAME)}"
            " names each: mend them or raise the limit, and run again (if files come or"
            " go, remove the output directory first)"
        )
    if bad:
        _log.info("%d files cannot be used; %s names each", bad, REJECTED_NAME)


def _mean(
    work_plan: plan.Plan,
    payloads: Sequence[shard_writer.Payload],
    keep: Sequence[np.ndarray],
    image_size: int,
) -> dict[str, float]:
    """Channel means of the training split, from integer sums."""
    total, count = [0, 0, 0], 0
    for task, payload, kept in zip(work_plan.tasks, payloads, keep, strict=True):
        if task.split == "train":
            sums = payload.sums[kept].sum(axis=0, dtype=np.uint64)
            total = [a + int(b) for a, b in zip(total, sums, strict=True)]
            count += int(kept.sum())
    if not count:
        raise errors.UsageError(
            "the training split is empty: there are too few images for these fractions;"
            " lower --test_fraction and --validation_fraction"
        )
    pixels = count * image_size * image_size
    return {name: value / pixels for name, value in zip("RGB", total, strict=True)}


def _pixel(config: WriteConfig) -> dict[str, Any]:
    if config.encoding != "raw":
        return {}
    if config.format == "tfrecord":
        return {"dtype": "uint8", "channels": "last", "compression": "none"}
    return {
        "dtype": config.hdf5_dtype,
        "channels": config.hdf5_channels,
        "compression": config.hdf5_compression,
    }


def _splits(
    directory: str,
    work_plan: plan.Plan,
    parts: Sequence[tuple[np.ndarray, schema.Shard]],
    config: WriteConfig,
) -> dict[str, schema.Split]:
    """Writes the indexes; the splits as the manifest has them."""
    names = source.class_names(config.gender_codes)
    splits = {}
    for split in sharding.SPLITS:
        mine = [
            part
            for task, part in zip(work_plan.tasks, parts, strict=True)
            if task.split == split
        ]
        index = np.concatenate(
            [np.zeros(0, schema.INDEX_DTYPE), *(rows for rows, _ in mine)]
        )
        buffer = io.BytesIO()
        np.save(buffer, index)
        name = sharding.index_name("afad", split)
        path = os.path.join(directory, name)
        files.write_atomic(path, buffer.getvalue())
        counts: dict[str, dict[str, int]] = {}
        for label, class_name in enumerate(names):
            ages = Counter(index["age"][index["gender"] == label].tolist())
            counts[class_name] = {str(age): ages[age] for age in sorted(ages)}
        splits[split] = schema.Split(
            num_examples=len(index),
            shards=tuple(shard for _, shard in mine),
            index=schema.Shard(
                name, len(index), os.path.getsize(path), files.sha256(path)
            ),
            counts=counts,
        )
    return splits


def _write_beside(directory: str, manifest: schema.Manifest) -> None:
    """What lies beside the shards for people and for other programs."""
    files.write_json(os.path.join(directory, schema.MEAN_NAME), manifest.mean)
    if manifest.format == "tfrecord":
        tfds_metadata.write(directory, manifest)
    dataset_pictures.draw_histogram(
        os.path.join(directory, dataset_pictures.HISTOGRAM_NAME), manifest
    )
    dataset_pictures.draw_sample(
        os.path.join(directory, dataset_pictures.SHEET_NAME),
        directory,
        manifest,
        "train",
        count=_SHEET_FACES,
        columns=_SHEET_COLUMNS,
    )
