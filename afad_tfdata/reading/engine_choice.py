"""Chooses the engine that reads a split, and gives it records, size and memory."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from typing import NamedTuple

from afad_tfdata.common import (
    errors,
    files,
    remote_files,
    resources,
    tensorflow_io_extra,
)
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import (
    bad_records,
    engine_graph,
    engine_mapped,
    engine_pixel_rows,
    foreign_files,
    mapped_reader,
    memory_store,
    record_index,
    sequential_records,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import hdf5, joined_data_sets, schema

AUTO, MAPPED, GRAPH = input_config.ENGINES

# The rate at which the graph engine reads encoded images with one core, divided by that
# of the mapped engine.  It was measured on 2 cores (TensorFlow's decoder, simplejpeg).
_GRAPH_SHARE = 0.62

_log = logging.getLogger(__name__)
# Whether the choice has been logged; per thread, since data sets are built in threads.
_read_again = contextvars.ContextVar("_read_again", default=False)


class EngineChoice(NamedTuple):
    """The engine that a configuration gets.

    Attributes:
      engine: `MAPPED` or `GRAPH`.
      reason: Why, in a few words.
    """

    engine: str
    reason: str


def open_index(
    config: input_config.InputConfig, split: str
) -> record_index.RecordIndex:
    """Returns the records of a split, after checking that they have the task's labels.

    Args:
      config: Where the records are, and the task.
      split: One of `sharding.SPLITS`.

    Raises:
      UsageError: The split is empty, or a label of the task is missing.
      DataError: The data set is damaged.
    """
    index = _load_index(config, split)
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


def open_labels(config: input_config.InputConfig, split: str) -> tuple[str, ...]:
    """Returns the labels that a split has, for any task."""
    return _load_index(config, split).labels


def _load_index(
    config: input_config.InputConfig, split: str
) -> record_index.RecordIndex:
    """Loads the index of records, ours or another program's."""
    config.check_source()
    if config.files:
        index = foreign_files.load(
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
    return record_index.load(
        config.records_dir,
        split,
        config.cache_dir,
        config.cache_dir_gib,
        config.max_examples,
    )


def _check_service_reads(records_dir: str) -> None:
    """Refuses records that TensorFlow could read only from a copy on this machine."""
    if not files.is_remote(records_dir):
        return
    try:
        remote_files.gfile(records_dir)
    except errors.UsageError as error:
        raise errors.UsageError(
            f"--data_service: TensorFlow's data servers read the shards themselves, and"
            f" {error}; or name a --cache_dir that all machines share"
        ) from error


def choose(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    cores: int = 0,
) -> EngineChoice:
    """Chooses the engine.

    Args:
      config: The configuration of the input.
      index: The records.
      cores: How many cores to assume; 0 for the cores that the process can use.

    Raises:
      UsageError: The engine that `InputConfig.engine` names cannot read these records.
    """
    cores = cores or resources.cores()
    if config.data_service:
        return EngineChoice(GRAPH, "its operations run on any machine")
    if config.engine == GRAPH:
        return EngineChoice(GRAPH, "asked for")
    if config.engine == MAPPED:
        if not index.local:
            raise errors.UsageError(
                "--engine=mapped needs local files, and the shards are on a remote"
                " file system: name a --cache_dir for them, or use --engine=graph"
            )
        return EngineChoice(MAPPED, "asked for")
    if not index.local:
        return EngineChoice(GRAPH, "the shards are on a remote file system")
    encoded = not index.pixel
    resizes = image_size(config, index) != index.stored_size
    missing = _missing_library(encoded=encoded) if encoded or resizes else ""
    if missing:
        return EngineChoice(
            GRAPH, f"{missing} is missing: pip install 'afad-tfdata[fast]'"
        )
    # To shuffle the images, the graph engine keeps them in memory.  They may take half
    # of it: the training needs the rest.
    faster = encoded and cores * _GRAPH_SHARE > engine_mapped.MAX_THREADS
    if faster and index.image_bytes < resources.available_bytes() // 2:
        return EngineChoice(
            GRAPH,
            f"{cores} cores: one process of the mapped engine stops scaling near"
            f" {engine_mapped.MAX_THREADS} threads",
        )
    what = "decoded by simplejpeg" if encoded else "rows copied"
    threads = min(cores, engine_mapped.MAX_THREADS)
    return EngineChoice(MAPPED, f"local shards, {what}, {threads} threads")


def _missing_library(*, encoded: bool) -> str:
    """Returns which library the mapped engine lacks; empty if it has what it needs."""
    libraries = {"cv2": "OpenCV"}
    if encoded:
        libraries["simplejpeg"] = "simplejpeg"
    for module, name in libraries.items():
        try:
            errors.require(module, extra="fast", purpose="it")
        except errors.UsageError:
            return name
    return ""


def create(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    shuffled: bool,
) -> (
    engine_mapped.MappedEngine
    | engine_pixel_rows.RowEngine
    | engine_graph.MemoryEngine
    | engine_graph.StreamEngine
):
    """Creates the engine that a configuration gets, and logs which it is and why.

    Args:
      config: What was asked for.
      index: The records.
      shuffled: Whether they are read in an order that is not that of the index.

    Raises:
      UsageError: The records cannot be read as the configuration asks.
      DataError: The records are damaged.
    """
    engine = _logged_choice(config, index)
    size = image_size(config, index)
    _check_cache(config, index, size)
    bad = bad_records.BadRecords(index, config.max_bad_records)
    if engine == MAPPED:
        reader = mapped_reader.MappedReader(
            *(index, size, bad),
            cache=config.cache,
            verify=config.verify,
            decode=config.decode,
        )
        threads = min(resources.cores(), engine_mapped.MAX_THREADS)
        return engine_mapped.MappedEngine(
            reader, size, config.num_parallel_calls or threads
        )
    threads = config.num_parallel_calls or resources.cores()
    rows = _row_engine(config, index, bad, threads)
    if rows:
        return rows
    if _keeps_in_memory(config, index, shuffled=shuffled):
        store = memory_store.load(
            index,
            bad,
            decoded_size=size if config.cache == "decoded" else 0,
            verify=config.verify,
            # TensorFlow's decoder ends the pipeline at an image that it cannot decode.
            # Such images must be found in advance to be skipped.
            try_decoding=config.max_bad_records > 0 and not index.pixel,
            decode=config.decode,
        )
        return engine_graph.MemoryEngine(index, store, size, threads, config.decode)
    if shuffled and config.balance != "none":
        raise errors.UsageError(
            "--balance draws records one by one, which needs them in memory or in a"
            f" memory map: raise --memory_budget_mib ({_needed(index)})"
        )
    return _stream_engine(config, index)


def _row_engine(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    bad: bad_records.BadRecords,
    threads: int,
) -> engine_pixel_rows.RowEngine | None:
    """Returns the graph engine for rows in mapped files; None if it cannot be used."""
    if not (index.local and index.pixel and index.contiguous):
        return None
    # A cache is asked for explicitly.  A graph in the style of TensorFlow 1 cannot take
    # memory as a tensor.
    if config.cache != "none" or not (
        tf.compat.v1.executing_eagerly_outside_functions()
    ):
        return None
    reader = mapped_reader.MappedReader(
        index, index.stored_size, bad, verify=config.verify
    )
    rows = reader.mapped_rows
    if rows is None:
        return None
    size = image_size(config, index)
    return engine_pixel_rows.RowEngine(index, reader, rows, bad, size, threads)


def create_served(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> engine_graph.StreamEngine:
    """Creates the engine for a ``tf.data`` service, whose machines share no memory.

    Args:
      config: What was asked for.
      index: The records.
    """
    _logged_choice(config, index)
    return _stream_engine(config, index)


def _logged_choice(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> str:
    """Chooses the engine, and logs which and why."""
    engine, reason = choose(config, index)
    again = _read_again.get()
    level = logging.DEBUG if again else logging.INFO
    _log.log(level, "input: %s engine for %s (%s)", engine, index.split, reason)
    places = joined_data_sets.directories(config.records_dir)
    if config.cache_dir and not any(map(files.is_remote, places)):
        _log.log(
            logging.DEBUG if again else logging.WARNING,
            "input: --cache_dir is not used for %s: it is for a remote --records_dir",
            index.split,
        )
    return engine


@contextlib.contextmanager
def reading_again() -> Iterator[None]:
    """Logs the choice of engines only at level DEBUG: it has been logged already."""
    token = _read_again.set(True)
    try:
        yield
    finally:
        _read_again.reset(token)


def _stream_engine(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> engine_graph.StreamEngine:
    """The graph engine for records that are read in sequence."""
    threads = config.num_parallel_calls or resources.cores()
    stream = sequential_records.RecordStream(index, threads, config.shuffle_window)
    size = image_size(config, index)
    return engine_graph.StreamEngine(index, stream, size, threads, config.decode)


def image_size(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> int:
    """Returns the side, in pixels, of the images that a pipeline returns.

    Raises:
      UsageError: Neither the configuration nor the data set gives a size.
    """
    size = config.image_size or index.image_size
    if not size:
        raise errors.UsageError(
            "the images differ in size: set --image_size to the side, in pixels, to"
            " which all of them are resized"
        )
    return size


def _check_cache(
    config: input_config.InputConfig, index: record_index.RecordIndex, size: int
) -> None:
    """Logs how much memory a cache will take; refuses it if that is not free."""
    if config.cache == "none":
        return
    needed = index.image_bytes
    if config.cache == "decoded":
        needed = len(index) * size * size * 3
    free = resources.available_bytes()
    _log.info(
        "input: --cache=%s takes %s of memory for the %s split; %s are free",
        config.cache,
        resources.mib(needed),
        index.split,
        resources.mib(free),
    )
    if needed > free:
        raise errors.UsageError(
            f"--cache={config.cache} takes {resources.mib(needed)} for the"
            f" {index.split} split, and {resources.mib(free)} are free: use a smaller"
            " --image_size, --cache=encoded or --cache=none"
        )


def _keeps_in_memory(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    shuffled: bool,
) -> bool:
    """Returns whether the graph engine keeps a split's images in memory.

    Raises:
      UsageError: The engine must keep the images, and they do not fit.
    """
    # Only tensorflow-io streams compressed HDF5.
    no_stream = "" if index.contiguous else tensorflow_io_extra.why_no_hdf5()
    if not index.contiguous and index.pixel["dtype"] not in hdf5.DTYPES:
        no_stream = f"tensorflow-io does not read {index.pixel['dtype']}"
    # A stream cannot tell which record is bad, and therefore cannot skip it.
    asked_for = config.cache != "none" or config.max_bad_records > 0
    required = asked_for or no_stream != ""
    if not shuffled and (required or not index.pixel):
        # Without a shuffle, a stream gives encoded images faster than they are decoded.
        return required
    budget = config.memory_budget_mib << 20 or resources.available_bytes() // 2
    if index.image_bytes <= budget:
        return True
    if required:
        reason = install = ""
        if not asked_for:
            reason = f" ({no_stream})"
            install = (
                f"; to stream compressed HDF5, {tensorflow_io_extra.install_command()}"
            )
        raise errors.UsageError(
            f"the graph engine must keep the stored images in memory here{reason}, and"
            f" {_needed(index)}, of {resources.mib(budget)} allowed: raise"
            f" --memory_budget_mib, or use --engine=mapped on local files{install}"
        )
    if shuffled:
        _log.warning(
            "input: %s, of %s allowed: shards and a window of %d records are shuffled"
            " instead of all records",
            _needed(index),
            resources.mib(budget),
            config.shuffle_window,
        )
    return False


def _needed(index: record_index.RecordIndex) -> str:
    """How much memory the split takes, as text."""
    return f"the {index.split} split takes {resources.mib(index.image_bytes)}"
