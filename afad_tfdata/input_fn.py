"""Batches of faces as ``tf.data``, for training and for evaluation.

::

    config = input_fn.InputConfig(records_dir="records", global_batch_size=128)
    train = input_fn.train_input_fn(config)                # infinite, shuffled
    test = input_fn.eval_input_fn(config, split="test")    # finite, ordered, padded
    strategy.distribute_datasets_from_function(
        lambda context: input_fn.train_input_fn(config, context))
    resumed = input_fn.train_input_fn(config, start_step=1234)

Elements are ``({"image": uint8 [B, S, S, 3]}, {"age": float32 [B], "gender": int32
[B]})`` with static shapes; evaluation adds ``features["mask"]``, bool ``[B]``, False on
padding.  B is the batch of one replica: with an input context each global batch is cut
into contiguous slices, one for each replica in order.

The module `reading.engine_choice` chooses the engine that reads the records, and
`reading.order` says which record is at which position.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors, tensorflow_messages
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import (
    batch_elements,
    data_service,
    engine_choice,
    engine_graph,
    engine_mapped,
    function_tracing,
    index_loading,
    order,
    read_ahead,
    record_dataset,
    record_index,
    replica_batches,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import joined_data_sets, sharding

InputConfig = input_config.InputConfig
# These two are for programs that do not use TensorFlow, and do not import it.
open_records = record_dataset.RecordDataset
Batches = record_dataset.Batches

# After this many passes over the data, the orders of a tf.data service repeat.
_SERVED_ORDERS = 16
# While TensorFlow builds the pipeline of an evaluation, at most this many of its
# batches are read ahead.
_READ_AHEAD = 8

_log = logging.getLogger(__name__)


@function_tracing.eagerly
@read_ahead.lock_is_handed_over()
def train_input_fn(
    config: InputConfig,
    input_context: tf.distribute.InputContext | None = None,
    *,
    start_step: int = 0,
) -> tf.data.Dataset:
    """The endless stream of shuffled training batches.

    Args:
      config: What to read.
      input_context: How many pipelines there are, and which of them this is; None for
        one pipeline and one replica.
      start_step: How many global steps to skip; their records are not read.

    Returns:
      An infinite data set; see the module's text for its elements.

    Raises:
      UsageError: The configuration does not fit the data set or the replicas.
      DataError: The data set is damaged.
    """
    if not isinstance(start_step, (int, np.integer)) or start_step < 0:
        raise errors.UsageError(
            f"start_step must be a whole number, 0 or more; got {start_step!r}"
        )
    index = index_loading.open_index(config, sharding.TRAIN)
    slices = replica_batches.ReplicaBatches.of_training(
        config.global_batch_size, input_context, num_examples=len(index)
    )
    element = batch_elements.element_function(config, index)
    if config.data_service:
        return _batches_of_data_service(config, index, slices, element)
    shuffle = order.of_training(index, config.seed, config.balance)
    engine = engine_choice.create(config, index, shuffled=True)

    if isinstance(engine, engine_graph.GraphStreamEngine):
        # A data set that does not fit in memory is shuffled in a window.  It is decoded
        # after that, so that the window holds small encoded images.
        dataset = engine.stream.shuffled(shuffle, slices, start_step)
    else:
        announce = None
        if isinstance(engine, engine_mapped.MappedEngine):
            announce = functools.partial(engine.read_ahead, train=True)
        dataset = order.stream_batches(shuffle, slices, start_step, announce)
    # One map over whole batches turns records into finished batches.  A map costs the
    # same for a batch as for an image.  Therefore one map reads, decodes, resizes and
    # names, instead of one map for each.
    batch = batch_elements.ReadBatch(_graph_of(engine), element, train=True)
    dataset = _map_batches(dataset, batch, engine)
    # Prefetching comes last, so that it stores finished batches for the device.
    return _prefetch_batches(dataset, config.prefetch)


@function_tracing.eagerly
@read_ahead.lock_is_handed_over()
def eval_input_fn(
    config: InputConfig,
    split: str = sharding.TEST,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Every example of a split once, in the data set's order.

    The last batches are padded, so that all pipelines and replicas get the same number
    of batches of the same size; ``features["mask"]`` is False on padding.

    With `InputConfig.as_supervised`, which Keras takes, the last batch is shorter
    instead, and bad records are left out: Keras would include padding in its metrics
    and its predictions.  If an input context has several replicas, the batches are
    padded even then, and ``sample_weight`` is 0 on padding.

    Args:
      config: What to read; `InputConfig.balance` and `InputConfig.seed` have no effect.
      split: ``train``, ``validation`` or ``test``.
      input_context: As for `train_input_fn`.

    Returns:
      A finite data set; see the module's text for its elements.

    Raises:
      UsageError: The configuration does not fit the data set or the replicas.
      DataError: The data set is damaged.
    """
    index = index_loading.open_index(config, split)
    slices = replica_batches.ReplicaBatches.of_pipeline(
        config.global_batch_size, input_context, pad=True
    )
    num_steps = -(-len(index) // slices.global_batch_size)
    element = batch_elements.element_function(
        config, index, pads=slices.num_replicas > 1
    )
    engine = engine_choice.create(config, index, shuffled=False)

    batch = batch_elements.ReadBatch(_graph_of(engine), element, train=False)
    function: Callable[..., Any] = batch
    if isinstance(engine, engine_graph.GraphStreamEngine):
        # Batches are padded before they are cut into slices, so that the last replicas
        # get the padding.
        dataset = engine.stream.in_order(slices, num_steps)
    else:
        # This data set contains the numbers of this pipeline's batches.  The map below
        # turns them into record numbers, and pads at the end of the data set.
        num_batches = num_steps * slices.num_local_replicas
        dataset = tf.data.Dataset.range(num_batches)
        function = batch_elements.ReadPositions(batch, slices, len(index))
        if isinstance(engine, engine_mapped.MappedEngine):
            first = slices.numpy_positions(np.arange(min(num_batches, _READ_AHEAD)))
            first = np.where(first < len(index), first, -1)
            engine.read_ahead(first, train=False)
    # One map over whole batches, as in training.  Each batch carries its mask, so that
    # each example counts once, for any batch size and any number of replicas.
    dataset = _map_batches(dataset, function, engine)
    if config.as_supervised and config.max_bad_records:
        # Keras computes NaN from an empty batch, of which all records were bad.
        dataset = dataset.filter(
            function_tracing.without_autograph(lambda image, *_: tf.shape(image)[0] > 0)
        )
    return _prefetch_batches(dataset, config.prefetch)


def num_examples(config: InputConfig, split: str) -> int:
    """The number of examples in a split; 0 if it does not exist.

    Only the manifest of `InputConfig.records_dir` is read; `InputConfig.files` are read
    from beginning to end.

    Args:
      config: What to read.
      split: ``train``, ``validation`` or ``test``.

    Raises:
      UsageError: There is no such data set.
      DataError: The manifest or one of the files is damaged.
    """
    config.check_source()
    if config.files:
        return len(index_loading.open_index(config, split))
    manifest = joined_data_sets.load_manifest(config.records_dir, config.max_examples)
    found = manifest.splits.get(split)
    return found.num_examples if found else 0


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns an error that TensorFlow raises in a pipeline into one of this package.

    A context manager around the loop that takes the batches::

        with input_fn.readable_errors():
            for features, labels in dataset:
                ...

    Raises:
      DataError: A record or shard is damaged; the text is one line.
      UsageError: The pipeline cannot do what the user asked for; the text is one line.
      OSError: TensorFlow cannot open or read a file; the error names it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        own = tensorflow_messages.own_error(error)
        if own:
            raise own from error
        message = str(error.message)
        damaged = isinstance(error, tf.errors.DataLossError)
        if not damaged and (failed := tensorflow_messages.file_error(message)):
            raise failed from error
        # TensorFlow's decoders raise the same class for damaged images as for many
        # other errors; only the text and the name of the operation tell them apart.
        text = tensorflow_messages.without_stack(message)
        if damaged or re.search(r"decode_?(jpeg|png|image)|JPEG|PNG", text, re.I):
            what = errors.one_line(tensorflow_messages.reason(message))
            raise errors.DataError(
                f"a record is damaged: {what}; afad-inspect-records --verify names it"
            ) from error
        raise


def _batches_of_data_service(
    config: InputConfig,
    index: record_index.RecordIndex,
    slices: replica_batches.ReplicaBatches,
    element: Callable[..., Any],
) -> tf.data.Dataset:
    """Returns what `train_input_fn` returns if a ``tf.data`` service reads records."""
    _log.warning(
        "input: batches come from %s, in an order that depends on its machines: a"
        " stopped training continues with a new pass over the examples, and repeats"
        " nothing exactly",
        config.data_service,
    )
    engine = engine_choice.create_served(config, index)
    epochs = []
    for i in range(_SERVED_ORDERS):
        # A data server starts each pass from the beginning: with the same seed, every
        # pass would repeat the first.
        seed = (config.seed + i) % (1 << 31)
        dataset = engine.stream.one_epoch(slices.per_replica_batch_size, seed)
        # This map runs on the data servers, because they are there to decode.
        batch = batch_elements.ReadBatch(engine, element, train=True)
        dataset = _map_batches(dataset, batch, engine)
        epochs.append(dataset)
    dataset = data_service.read_by_servers(epochs, config.data_service)
    # The last batch of a data server's part is smaller.  Here all batches are cut to
    # the same size, across the ends of parts and epochs, so that no example is dropped.
    dataset = dataset.rebatch(slices.per_replica_batch_size, drop_remainder=True)
    return _prefetch_batches(dataset, config.prefetch)


def _graph_of(engine: Any) -> Any:
    """Returns what reads an engine's batches: its graph, or the engine itself."""
    return engine.graph if isinstance(engine, engine_mapped.MappedEngine) else engine


def _map_batches(
    dataset: tf.data.Dataset, function: Callable[..., Any], engine: Any
) -> tf.data.Dataset:
    """Maps the batches of an input pipeline in order, in a fixed number of threads.

    TensorFlow's tuner would take seconds to find a number of threads, and would change
    it during a measurement.  Waiting for the next batch in order costs little, because
    all batches take the same time.
    """
    if not isinstance(engine, engine_mapped.MappedEngine):
        return dataset.map(
            function_tracing.without_autograph(function),
            num_parallel_calls=engine.num_threads,
            deterministic=True,
        )
    return function_tracing.map_by_shared_graph(
        dataset, function, engine.arguments, engine.num_threads, keeps=engine
    )


def _prefetch_batches(dataset: tf.data.Dataset, num_batches: int) -> tf.data.Dataset:
    """Ends an input pipeline: prefetches its batches, without tuning by TensorFlow."""
    if num_batches:
        dataset = dataset.prefetch(num_batches)
    options = tf.data.Options()
    options.deterministic = True
    # All numbers of threads and elements are fixed, so there is nothing to tune.
    # There is nothing to optimise in the graph either, and the attempt would cost a
    # tenth of a second at the start.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
