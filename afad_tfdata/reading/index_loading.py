"""Loads the record index of a split: this package's records or another program's."""

from __future__ import annotations

import logging
import os

from afad_tfdata.common import errors, files, remote_files
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import foreign_files, record_index, shard_cache
from afad_tfdata.storage import joined_data_sets, schema

_log = logging.getLogger(__name__)


def open_index(
    config: input_config.InputConfig, split: str
) -> record_index.RecordIndex:
    """Loads the record index that an input config names; it has the task's labels.

    Args:
      config: Where the records are, and the task.
      split: One of `sharding.SPLITS`.

    Raises:
      UsageError: The split is empty, or a label of the task is missing.
      DataError: The data set is damaged.
    """
    index = _load_named(config, split)
    missing = [n for n in schema.labels_of(config.task) if n not in index.labels]
    if missing:
        raise errors.UsageError(
            f"--task={config.task} needs the label {missing[0]!r}, which"
            f" {config.files or config.records_dir} does not have; it has"
            f" {', '.join(index.labels) or 'none'}: choose a --task of these labels"
        )
    for label in schema.labels_of(config.task):
        plain = config.as_supervised or config.balance == label
        if plain and (index.entries[label] == schema.MISSING).any():
            flag = "as_supervised" if config.as_supervised else "--balance"
            raise errors.UsageError(
                f"{flag} needs the label {label!r} of every record, and"
                f" {config.files or config.records_dir} has records without it:"
                " afad-write-records without --missing_labels=keep leaves them out; or"
                f" leave {flag} out"
            )
    return index


def labels_in_index(config: input_config.InputConfig, split: str) -> tuple[str, ...]:
    """Returns the labels in the record index that an input config names."""
    return _load_named(config, split).labels


def _load_named(
    config: input_config.InputConfig, split: str
) -> record_index.RecordIndex:
    """Loads the record index that an input config names, ours or another program's."""
    config.check_source()
    if config.files:
        index = foreign_files.index_files(
            config.files,
            split,
            features=config.features,
            mean_file=config.mean_file,
            task=config.task,
            max_bad_records=config.max_bad_records,
        )
        return record_index.first_records(index, config.max_examples or len(index))
    if config.data_service and not config.cache_dir:
        for place in joined_data_sets.directories(config.records_dir):
            _check_service_reads(place)
    return load_split(
        config.records_dir,
        split,
        config.cache_dir,
        config.cache_dir_gib,
        config.max_examples,
    )


def _check_service_reads(records_dir: str) -> None:
    """Refuses records of which ``tf.data`` servers could not load the shards."""
    if not files.is_remote(records_dir):
        return
    try:
        remote_files.gfile(records_dir)
    except errors.UsageError as error:
        raise errors.UsageError(
            f"--data_service: TensorFlow's data servers read the shards themselves, and"
            f" {error}; or name a --cache_dir that all machines share"
        ) from error


def load_split(
    records_dir: str,
    split: str,
    cache_dir: str = "",
    cache_dir_gib: float = 0.0,
    max_examples: int = 0,
) -> record_index.RecordIndex:
    """Loads the record index of a split of one data set, or of several as if one.

    Args:
      records_dir: Data sets that ``write_records`` wrote, separated by commas.
      split: One of `sharding.SPLITS`.
      cache_dir: Local directory for copies of remote shards.  If empty, TensorFlow
        reads the remote shards; if it cannot, they are copied to the user's cache.
      cache_dir_gib: As for `shard_cache.fetch_shards`.
      max_examples: At most how many records are used, the first ones of each data set
        in proportion to their numbers; 0 for all.

    Raises:
      UsageError: There is no such data set, the split is empty, or the data sets do not
        fit together.
      DataError: The manifest, the index or a shard is missing, damaged or changed.
    """
    places = joined_data_sets.directories(records_dir)
    if len(places) == 1:
        whole = _load_data_set(records_dir, split, cache_dir, cache_dir_gib)
        return record_index.first_records(whole, max_examples or len(whole))
    # This also checks that the data sets fit together.
    manifest = joined_data_sets.load_manifest(records_dir)
    manifest.split(split)  # Raises an error if no data set has examples in it.
    parts = [
        _load_data_set(place, split, cache_dir, cache_dir_gib)
        for place in places
        if _has_split(place, split)
    ]
    lengths = joined_data_sets.shares_of([len(part) for part in parts], max_examples)
    parts = [
        record_index.first_records(p, n)
        for p, n in zip(parts, lengths, strict=True)
        if n
    ]
    return record_index.join_indexes(parts, manifest.mean_rgb)


def _has_split(records_dir: str, split: str) -> bool:
    """Whether a data set has records of this split, whose index can be loaded."""
    found = schema.load_manifest(records_dir).splits.get(split)
    return found is not None and found.num_examples > 0


def _load_data_set(
    records_dir: str, split: str, cache_dir: str, cache_dir_gib: float
) -> record_index.RecordIndex:
    """Loads the record index of a split of one data set.

    Raises:
      UsageError: There is no such data set, or the split is empty.
      DataError: The manifest, the index or a shard is missing, damaged or changed.
    """
    if not files.is_remote(records_dir):
        # Absolute, so that the files are found after a change of the directory.
        records_dir = os.path.abspath(records_dir)
    manifest = schema.load_manifest(records_dir)
    found = manifest.split(split)
    entries = schema.load_index(records_dir, manifest, split)
    if files.is_remote(records_dir) and not cache_dir:
        cache_dir = _needed_shard_cache(records_dir)
    if files.is_remote(records_dir) and cache_dir:
        paths = shard_cache.fetch_shards(
            records_dir, found.shards, cache_dir, cache_dir_gib
        )
    else:
        paths = tuple(files.join(records_dir, shard.name) for shard in found.shards)
    for path, shard in zip(paths, found.shards, strict=True):
        _check_shard_size(path, shard.num_bytes)
    return record_index.RecordIndex(
        paths=paths,
        entries=entries,
        format=manifest.format,
        stored_size=0 if manifest.image_encoding == "original" else manifest.image_size,
        image_size=manifest.image_size,
        pixel=manifest.pixel,
        dataset="data",
        labels=manifest.labels,
        mean_rgb=manifest.mean_rgb,
        split=split,
        features={
            "image": schema.IMAGE_ENCODED,
            "age": schema.LABEL_AGE,
            "gender": schema.LABEL_GENDER,
        },
        identity=found.index.sha256,
    )


def _needed_shard_cache(records_dir: str) -> str:
    """Returns the user's cache if TensorFlow cannot load remote shards, else ''."""
    try:
        # This call also records that S3 is used: see `remote_files.aborts_at_exit`.
        remote_files.gfile(records_dir)
    except errors.UsageError:
        directory = files.join(files.user_cache(), "shards")
        _log.info(
            "input: TensorFlow cannot open %s itself: the shards are copied to %s"
            " (--cache_dir names another directory)",
            records_dir,
            directory,
        )
        return directory
    return ""


def _check_shard_size(path: str, expected: int) -> None:
    """Refuses to load a shard of another size, such as one that was cut short.

    Raises:
      DataError: The shard cannot be read, or has another size.
    """
    if files.is_remote(path):
        # A check would cost a request for each shard.  The graph engine counts the
        # records instead.
        return
    try:
        size = os.path.getsize(path)
    except FileNotFoundError as error:
        raise errors.DataError(
            f"cannot read the shard {path}: {error.strerror}; restore it, or write the"
            " records again"
        ) from error
    except OSError as error:
        raise files.read_error(path, error) from error
    if size != expected:
        raise errors.DataError(
            f"{path} has {size} bytes, the manifest says {expected}: restore it, or"
            " write the records again"
        )
