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

from afad_tfdata.common import errors, files, resources
from afad_tfdata.images import face_detector
from afad_tfdata.storage import remote_data_set, schema
from afad_tfdata.writing import (
    dali_index,
    data_set_files,
    duplicate_images,
    overwritten_data_set,
    plan,
    plan_warnings,
    published_splits,
    rejections,
    selection,
    source,
    source_scan,
    split_assignment,
    task_runners,
    work_directory,
)
from afad_tfdata.writing.config import WriteConfig

__all__ = ["WriteConfig", "write_records"]

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
    config = config.with_absolute_paths()
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


def _write_local(
    config: WriteConfig, runner: task_runners.Runner
) -> schema.Manifest | None:
    """Does the steps of `write_records` on a local disk."""
    started = time.monotonic()
    # Nothing is on the disk yet: a kill loses only the scan.
    listing = source_scan.scan(config)
    work_plan, left_out = _make_plan(config, listing)
    plan_warnings.of_untrusted_photos(work_plan)
    plan_warnings.of_large_groups(work_plan)
    if config.split_file:
        plan_warnings.of_missing_ages(work_plan)
    if config.overwrite:
        # The old data set is removed only after the scan and the plan, so that wrong
        # flags do not destroy it.
        overwritten_data_set.remove(
            config.output_dir, work_plan, data_set_files.COMPANIONS
        )
    if manifest := _finished_manifest(config, work_plan):
        return manifest
    work_dir = os.path.join(config.output_dir, work_directory.WORK_NAME)
    # Only writers of different shard ranges may work at the same time.
    with work_directory.lock(work_dir, shared=bool(config.shard_range)) as lock_fd:
        # Checked again, because the writer that had the lock may have finished.
        if manifest := _finished_manifest(config, work_plan):
            return manifest
        # Saved before any payload, so that a run that continues knows which plan the
        # payloads belong to.
        if work_directory.keep_plan(work_plan, work_dir):
            # Only the first run warns: later runs of the same data set find the plan.
            plan_warnings.of_doubtful_ages(listing)
            plan_warnings.of_one_gender(work_plan)
        # A kill loses only the payloads that are being written at that moment.
        found = task_runners.run_tasks(
            runner,
            listing,
            work_plan,
            plan.tasks_of_range(work_plan, config.shard_range),
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
        keep, copies = duplicate_images.find(work_plan, found)
        unusable = rejections.unusable(work_plan, found)
        not_wanted = [*listing.left_out, *left_out]
        rejected = [*listing.rejected, *not_wanted, *unusable, *copies]
        # Written before the check, because the check's message refers to this file.
        rejections.write(config.output_dir, rejected)
        rejections.check(
            listing,
            work_plan,
            found,
            max_rejected=config.max_rejected,
            output_dir=config.output_dir,
            work_dir=work_dir,
        )
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
        seconds = time.monotonic() - started
        data_set_files.write_log(config, len(work_plan.rows), seconds)
        schema.write_manifest(config.output_dir, manifest)
        work_directory.remove_work(work_dir)
    if missing := rejections.summary(config.output_dir, manifest):
        _log.warning("%s", missing)
    return manifest


def _write_remote(config: WriteConfig) -> schema.Manifest | None:
    """Does `write_records` in a local directory, then uploads the finished data set."""
    if config.shard_range and not config.work_dir:
        raise errors.UsageError(
            "--shard_range with a remote --output_dir needs --work_dir, on a file"
            " system that all tasks share"
        )
    manifest = remote_data_set.stored_manifest(config.output_dir)
    if manifest is not None:
        work_plan, _ = _make_plan(config, source_scan.scan(config))
        work_directory.refuse_other_config(
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


def _make_plan(
    config: WriteConfig, listing: source.Listing
) -> tuple[plan.Plan, list[source.Rejection]]:
    """The step "plan" of `write_records`; also the images that flags leave out."""
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
        raise source_scan.nothing_found_error(config, listing, left_out)
    split_by = split_assignment.resolve_split_by(
        config.split_by, [item.group for item in items]
    )
    splits_config = dataclasses.replace(data_set.splits, split_by=split_by)
    data_set = dataclasses.replace(data_set, splits=splits_config)
    if data_set.hdf5:
        hdf5_config = data_set.hdf5.linked_to_label(items)
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


def _finished_manifest(
    config: WriteConfig, work_plan: plan.Plan
) -> schema.Manifest | None:
    """The manifest if an earlier `write_records` has finished; else None."""
    manifest = work_directory.finished_manifest(config.output_dir, work_plan)
    if manifest is not None:
        _log.info("%s is finished already", config.output_dir)
    return manifest
