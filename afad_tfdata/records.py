"""Writes a folder of faces as a data set: verified shards and one manifest.

::

    config = records.WriteConfig(data_dir="AFAD-Full", output_dir="records")
    manifest = records.write_records(config)

These are the steps.  The writer can be killed after each of them and started again::

    scan        list the source without opening an image
    plan        the hash of a key decides split, shard and place    .work/plan.*
    payloads    read, check and store every image, in parallel      .work/*.payload
    duplicates  find byte-identical images over the whole data set
    finish      shards, indexes, means, pictures
    manifest    last, by rename: without it there is no data set

The bytes of shards, indexes and manifest depend only on the images and on the
configuration, and not on the number of writer processes, on interruptions or on the
order of a directory.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Sequence

import numpy as np

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options, resources
from afad_tfdata.images import face_detector
from afad_tfdata.storage import hdf5, remote_data_set, schema, tfds_metadata
from afad_tfdata.writing import (
    archive,
    dali_index,
    data_set_files,
    data_set_pictures,
    overwritten_data_set,
    payloads,
    plan,
    published_splits,
    rejections,
    selection,
    source,
    split_assignment,
    task_runners,
    work_directory,
)
from afad_tfdata.writing.config import WriteConfig
from afad_tfdata.writing.importers import importer_choice
from afad_tfdata.writing.labels import cell_values, label_scan

__all__ = ["WriteConfig", "companion_names", "write_records"]

LOG_NAME = "writer_log.json"
# The files that a data set has next to its shards and indexes.
_COMPANIONS = (
    *(schema.MANIFEST_NAME, schema.MEAN_NAME, rejections.FILE_NAME, LOG_NAME),
    *(data_set_pictures.HISTOGRAM_NAME, data_set_pictures.SHEET_NAME),
    *tfds_metadata.NAMES,
)
_log = logging.getLogger(__name__)


def write_records(config: WriteConfig) -> schema.Manifest | None:
    """Writes a data set, or continues where an earlier run stopped.

    Args:
      config: What to write.

    Returns:
      The manifest; None if `WriteConfig.shard_range` left shards to other runs.

    Raises:
      UsageError: Wrong flags, no images, another data set in the directory, a second
        writer, or a full disk.
      DataError: More unusable files than `WriteConfig.max_rejected`.
    """
    if not config.output_dir:
        raise errors.UsageError(
            "--output_dir is missing: name the data set's directory"
        )
    config = _from_here(config)
    if config.find_faces:
        # A missing detector must be an error before the work begins.
        face_detector.check_detector_installed(config.face_detector)
    if files.is_remote(config.output_dir):
        return _write_remote(config)
    # The processes start before the scan, so that they import their libraries while
    # this process lists files.
    with task_runners.start(
        config.runner,
        num_processes=config.num_workers or resources.cores(),
        beam_options=config.beam_options,
    ) as runner:
        manifest = _write_local(config, runner)
    if manifest is not None and config.dali_index:
        # Written after the manifest, so that a finished data set can get these files,
        # too.
        dali_index.write(config.output_dir, manifest)
    return manifest


def companion_names(manifest: schema.Manifest) -> tuple[str, ...]:
    """Names of the files that a data set has next to its shards and indexes."""
    tfrecord = manifest.format == "tfrecord"
    return tuple(n for n in _COMPANIONS if tfrecord or n not in tfds_metadata.NAMES)


def _from_here(config: WriteConfig) -> WriteConfig:
    """The config with absolute paths, because a program may change its directory."""
    names = ("data_dir", "labels_csv", "output_dir", "work_dir", "split_file")
    paths = {name: getattr(config, name) for name in names}
    local = {n: p for n, p in paths.items() if p and not files.is_remote(p)}
    if "," in local.get("split_file", ""):  # Several files.
        del local["split_file"]
    return dataclasses.replace(
        config, **{name: os.path.abspath(path) for name, path in local.items()}
    )


def _write_local(
    config: WriteConfig, runner: task_runners.Runner
) -> schema.Manifest | None:
    """`write_records` on a local disk."""
    started = time.time()
    # Nothing is on the disk yet, so that a kill loses only the scan.
    listing = _scan(config)
    work_plan, left_out = _plan(config, listing)
    selection.warn_of_untrusted_photos(work_plan)
    selection.warn_of_large_groups(work_plan)
    selection.warn_of_doubtful_ages(work_plan)
    selection.warn_of_one_gender(work_plan)
    if config.split_file:
        selection.warn_of_missing_ages(work_plan)
    if config.overwrite:
        # The old data set is removed only after the scan and the plan, so that wrong
        # flags do not destroy it.
        overwritten_data_set.remove(config.output_dir, work_plan, _COMPANIONS)
    if manifest := _finished(config, work_plan):
        return manifest
    work_dir = os.path.join(config.output_dir, work_directory.WORK_NAME)
    # Only writers of different shard ranges may work at the same time.
    with work_directory.lock(work_dir, shared=bool(config.shard_range)) as lock_fd:
        # Checked again, because the writer that had the lock may have finished.
        if manifest := _finished(config, work_plan):
            return manifest
        # Saved before any payload, so that a run that continues knows which plan the
        # payloads belong to.
        work_directory.keep_plan(work_plan, work_dir)
        # A kill loses only the payloads that are being written at that moment.
        found = task_runners.write_payloads(
            runner,
            listing,
            work_plan,
            task_runners.tasks_of_range(work_plan, config.shard_range),
            work_dir,
            lock_fd=lock_fd,
        )
        if config.shard_range:
            _log.info(
                "shards %s of %d are written; when all are, run the same command"
                " without --shard_range",
                config.shard_range,
                len(work_plan.tasks),
            )
            return None  # The last run has all payloads and finishes the data set.
        # This needs all payloads, because copies of an image may be in any shard.
        keep, copies = rejections.duplicates(work_plan, found)
        unusable = rejections.unusable(work_plan, found)
        not_wanted = [*listing.left_out, *left_out]
        rejected = [*listing.rejected, *not_wanted, *unusable, *copies]
        # Written before the check, because the check's message refers to this file.
        rejections.write(config.output_dir, rejected)
        _check_rejected(config, listing, work_plan, found)
        # From here on a kill loses little, because the payloads stay until the end.
        manifest = data_set_files.finish(
            work_plan,
            found,
            keep,
            num_found=listing.found,
            num_rejected=len(rejected),
            num_skipped=listing.skipped,
            work_dir=work_dir,
            output_dir=config.output_dir,
            num_threads=config.num_workers or resources.cores(),
        )
        _write_log(config, len(work_plan.rows), time.time() - started)
        _write_manifest(config.output_dir, manifest)
        work_directory.remove_work(work_dir)
    if missing := not_written(config.output_dir, manifest):
        _log.warning("%s", missing)
    return manifest


def not_written(output_dir: str, manifest: schema.Manifest) -> str:
    """Says in one line why files were not written; empty if a tenth or less was not.

    Args:
      output_dir: The data set's directory.
      manifest: Its manifest.
    """
    return rejections.summary(
        output_dir, manifest.found, manifest.passed_over, manifest.written
    )


def _write_remote(config: WriteConfig) -> schema.Manifest | None:
    """Writes in a local directory, then uploads the finished data set."""
    if config.shard_range and not config.work_dir:
        raise errors.UsageError(
            "--shard_range with a remote --output_dir needs --work_dir, on a file"
            " system that all tasks share"
        )
    manifest = remote_data_set.stored(config.output_dir)
    if manifest is not None:
        work_plan, _ = _plan(config, _scan(config))
        work_directory.refuse_other(
            config.output_dir, manifest.config, work_plan, "a finished data set"
        )
        _log.info("%s is finished already", config.output_dir)
        if config.dali_index:
            _log.warning(
                "--dali_index: nothing is added to a finished remote data set; run the"
                " same command with a local copy as --output_dir"
            )
        return manifest
    directory = remote_data_set.staging_dir(config.output_dir, config.work_dir)
    local = dataclasses.replace(config, output_dir=directory, work_dir="")
    manifest = write_records(local)
    if manifest is not None:
        remote_data_set.upload(directory, config.output_dir)
    return manifest


def _scan(config: WriteConfig) -> source.Listing:
    """Lists the source that the flags name: a label file, an archive or a tree."""
    codes = source.parse_gender_codes(config.data_set.gender_codes)
    if config.labels_csv:
        return label_scan.scan(
            config.labels_csv,
            config.data_dir,
            cell_values.Genders(config.gender_codes),
            age_ranges=config.age_ranges,
            find_faces=config.find_faces,
            missing_labels=config.missing_labels,
        )
    if not config.data_dir:
        raise errors.UsageError(
            "--data_dir is missing: name the folder that contains AGE/GENDER/IMAGE, or"
            " give --labels_csv"
        )
    is_tree = config.source in ("", "afad")
    if is_tree and (parts := archive.find_parts(config.data_dir)):
        return archive.scan(parts, codes)
    if config.source:
        importer_choice.check(config.source, config.data_dir)
    # Links are resolved, because they can hide that one is inside the other.
    output_dir = os.path.realpath(config.output_dir) + os.sep
    if output_dir.startswith(os.path.realpath(config.data_dir) + os.sep):
        raise errors.UsageError(
            f"--output_dir={config.output_dir} is inside --data_dir, where a second"
            " run would list it as a part of the source: name a directory outside"
        )
    if not is_tree:
        return label_scan.scan_source(
            config.source,
            config.data_dir,
            cell_values.Genders(config.data_set.gender_codes),
            age_ranges=config.age_ranges,
            missing_labels=config.missing_labels,
            follow_links=config.follow_links,
        )
    return source.scan_tree(config.data_dir, codes, follow_links=config.follow_links)


def _plan(
    config: WriteConfig, listing: source.Listing
) -> tuple[plan.Plan, list[source.Rejection]]:
    """The plan, and the images that flags left out of it."""
    has_boxes = any(item.box is not None for item in listing.items)
    data_set = config.data_set_of(has_boxes=has_boxes)
    splits = None
    if config.split_file:
        splits = published_splits.match(
            published_splits.load(config.split_file, fold=config.split_fold),
            [item.key for item in listing.items],
        )
    items, left_out = selection.select(
        listing, data_set.selection, splits=splits, seed=config.seed
    )
    if not items:
        raise _nothing_found(config, listing, left_out)
    split_by = split_assignment.resolve(config.split_by, [item.group for item in items])
    splits_config = dataclasses.replace(data_set.splits, split_by=split_by)
    data_set = dataclasses.replace(data_set, splits=splits_config)
    if data_set.hdf5:
        labels = _link(data_set.hdf5.labels, items)
        hdf5_config = dataclasses.replace(data_set.hdf5, labels=labels)
        data_set = dataclasses.replace(data_set, hdf5=hdf5_config)
    work_plan = plan.make(items, data_set, num_shards=config.num_shards)
    only_tested = 1 in (config.test_fraction, config.validation_fraction)
    given = all(item.split is not None for item in items)
    if len(work_plan.mean_splits) > 1 and not (only_tested or given):
        raise errors.UsageError(
            "the training split is empty: there are too few images for these fractions;"
            " lower --test_fraction and --validation_fraction (--test_fraction=1 writes"
            " a data set that is only a test set)"
            + (f"; also, {listing.first_fault}" if listing.first_fault else "")
        )
    return work_plan, left_out


def _link(labels: str, items: Sequence[source.Item]) -> str:
    """The label that the link ``labels`` leads to: another one if no image has it."""
    there = [
        label
        for label in hdf5.LABELS
        if any(getattr(item, label) != schema.MISSING for item in items)
    ]
    return labels if labels in there else there[0]


def _nothing_found(
    config: WriteConfig,
    listing: source.Listing,
    left_out: Sequence[source.Rejection],
) -> errors.UsageError:
    """The error for a source without an image to write."""
    where = f"--data_dir={config.data_dir}"
    expected = "AGE/GENDER/IMAGE.jpg"
    if config.labels_csv:
        where = f"--labels_csv={config.labels_csv}"
        expected = f"paths of images below {listing.root} (--data_dir names another)"
    first = next(iter([*listing.rejected, *left_out]), None)
    found = f"{listing.found} files" if listing.found else "no file at all"
    because = (
        f"; the first one refused is {first.path}: {first.reason}" if first else ""
    )
    if listing.first_fault:
        because = f"; the first fault: {listing.first_fault}"
    elif not (config.labels_csv or config.source):
        likely = importer_choice.looks_like(config.data_dir)
        if likely not in (None, "afad"):
            because += f"; the folder looks like --source={likely}"
    return errors.UsageError(
        f"{where} has no image to write: expected {expected}, found {found}{because}"
    )


def _finished(config: WriteConfig, work_plan: plan.Plan) -> schema.Manifest | None:
    """The manifest, and a line in the log, if the data set is finished; else None."""
    manifest = work_directory.finished(config.output_dir, work_plan)
    if manifest is not None:
        _log.info("%s is finished already", config.output_dir)
    return manifest


def _check_rejected(
    config: WriteConfig,
    listing: source.Listing,
    work_plan: plan.Plan,
    found: Sequence[payloads.Payload],
) -> None:
    """Refuses too many unusable files, and lets the next run look at them again."""
    try:
        rejections.check(
            listing,
            work_plan,
            found,
            max_rejected=config.max_rejected,
            output_dir=config.output_dir,
        )
    except errors.DataError:
        # The plan does not show whether a file was repaired, because the file may keep
        # its name and size.
        work_dir = os.path.join(config.output_dir, work_directory.WORK_NAME)
        for task, payload in zip(work_plan.tasks, found, strict=True):
            if payload.rejected:
                payloads.forget(work_dir, task)
        raise


def _write_log(config: WriteConfig, num_images: int, seconds: float) -> None:
    """Logs configuration, time and versions in a file that may differ between runs."""
    log = {
        "config": options.to_dict(config),
        "seconds": round(seconds, 3),
        "images_per_second": round(num_images / seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"afad_tfdata": __version__, "numpy": np.__version__},
    }
    files.write_json(os.path.join(config.output_dir, LOG_NAME), log)


def _write_manifest(directory: str, manifest: schema.Manifest) -> None:
    """Writes the manifest, by which readers recognise a directory as a data set."""
    path = os.path.join(directory, schema.MANIFEST_NAME)
    files.write_atomic(path, schema.manifest_bytes(manifest))
