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
    lazy_imports,
    resources,
    tensorflow_io_extra,
)
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import (
    bad_records,
    engine_graph,
    engine_mapped,
    engine_pixel_rows,
    mapped_reader,
    memory_store,
    record_index,
    record_stream,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import hdf5, joined_data_sets

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


def choose(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    cores: int = 0,
) -> EngineChoice:
    """Chooses the engine that reads some records, and says why.

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
            lazy_imports.import_optional(module, extra="fast", purpose="it")
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
    | engine_pixel_rows.PixelRowEngine
    | engine_graph.GraphMemoryEngine
    | engine_graph.GraphStreamEngine
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
    _check_memory_for_cache(config, index, size)
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
    rows = _create_pixel_row_engine(config, index, bad, threads)
    if rows:
        return rows
    if _chooses_memory_engine(config, index, shuffled=shuffled):
        store = memory_store.load_store(
            index,
            bad,
            decoded_size=size if config.cache == "decoded" else 0,
            verify=config.verify,
            # TensorFlow's decoder ends the pipeline at an image that it cannot decode.
            # Such images must be found in advance to be skipped.
            try_decoding=config.max_bad_records > 0 and not index.pixel,
            decode=config.decode,
        )
        return engine_graph.GraphMemoryEngine(
            index, store, size, threads, config.decode
        )
    if shuffled and config.balance != "none":
        raise errors.UsageError(
            "--balance draws records one by one, which needs them in memory or in a"
            f" memory map: raise --memory_budget_mib ({_needed_memory(index)})"
        )
    return _create_stream_engine(config, index)


def _create_pixel_row_engine(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    bad: bad_records.BadRecords,
    threads: int,
) -> engine_pixel_rows.PixelRowEngine | None:
    """Creates the engine for rows in mapped files; None if it cannot be used."""
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
    return engine_pixel_rows.PixelRowEngine(index, reader, rows, bad, size, threads)


def create_served(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> engine_graph.GraphStreamEngine:
    """Creates the engine for a ``tf.data`` service, whose machines share no memory.

    Args:
      config: What was asked for.
      index: The records.
    """
    _logged_choice(config, index)
    return _create_stream_engine(config, index)


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


def _create_stream_engine(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> engine_graph.GraphStreamEngine:
    """Creates the graph engine for records that are read in sequence."""
    threads = config.num_parallel_calls or resources.cores()
    stream = record_stream.RecordStream(index, threads, config.shuffle_window)
    size = image_size(config, index)
    return engine_graph.GraphStreamEngine(index, stream, size, threads, config.decode)


def image_size(
    config: input_config.InputConfig, index: record_index.RecordIndex
) -> int:
    """Returns the side, in pixels, of the images that the chosen engine returns.

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


def _check_memory_for_cache(
    config: input_config.InputConfig, index: record_index.RecordIndex, size: int
) -> None:
    """Logs how much memory the engine's cache takes; refuses it if that is not free."""
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


def _chooses_memory_engine(
    config: input_config.InputConfig,
    index: record_index.RecordIndex,
    *,
    shuffled: bool,
) -> bool:
    """Chooses whether the graph engine keeps a split's images in memory.

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
            f" {_needed_memory(index)}, of {resources.mib(budget)} allowed: raise"
            f" --memory_budget_mib, or use --engine=mapped on local files{install}"
        )
    if shuffled:
        _log.warning(
            "input: %s, of %s allowed: shards and a window of %d records are shuffled"
            " instead of all records",
            _needed_memory(index),
            resources.mib(budget),
            config.shuffle_window,
        )
    return False


def _needed_memory(index: record_index.RecordIndex) -> str:
    """Says how much memory the images of a split take, for logs of the choice."""
    return f"the {index.split} split takes {resources.mib(index.image_bytes)}"
