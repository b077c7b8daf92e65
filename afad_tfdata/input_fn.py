"""Batches of faces as ``tf.data``: for training, for evaluation, for prediction.

::

    config = input_fn.InputConfig(records_dir="records", global_batch_size=128)
    train = input_fn.train_input_fn(config)                # infinite, shuffled
    test = input_fn.eval_input_fn(config, split="test")    # finite, ordered, padded
    strategy.distribute_datasets_from_function(
        lambda context: input_fn.train_input_fn(config, context))
    resumed = input_fn.train_input_fn(config, start_step=1234)

Elements are ``({"image": uint8 [B, S, S, 3]}, {"age": float32 [B], "gender": int32
[B]})`` with static shapes; evaluation adds ``features["mask"]``, bool ``[B]``, False on
padding.  B is the batch of one replica: with an input context the global batch is cut
into contiguous slices, one for each replica in order.

`order` says which record stands where; `engine_mapped` and `engine_graph` read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, resources
from afad_tfdata.common.lazy import tf
from afad_tfdata.images import codec, preprocess
from afad_tfdata.reading import (
    batch_slices,
    data_service,
    engine_graph,
    engine_mapped,
    foreign_files,
    order,
    record_index,
    shutdown_guard,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import schema

InputConfig = input_config.InputConfig

# What a core does for the graph engine, of what it does for the mapped one.
_GRAPH_SHARE = 0.62

# Passes in orders of their own that a tf.data service makes before they come again.
_SERVED_ORDERS = 16

_log = logging.getLogger(__name__)


def train_input_fn(
    config: InputConfig, input_context: Any = None, *, start_step: int = 0
) -> Any:
    """The endless stream of shuffled training batches.

    Args:
      config: What to read.
      input_context: ``tf.distribute.InputContext`` of this pipeline; None for one
        pipeline and one replica.
      start_step: Global steps that are passed over without reading them.

    Returns:
      An infinite ``tf.data.Dataset``; see the module's text for its elements.

    Raises:
      UsageError: The configuration does not go with the data set or the replicas.
      DataError: The data set is damaged.
    """
    if start_step < 0:
        raise errors.UsageError(f"start_step must be 0 or more; got {start_step}")
    source = open_examples(config, "train")
    cut = batch_slices.Slices.of(config.global_batch_size, input_context, pad=False)
    if cut.num_replicas > len(source):
        raise errors.UsageError(
            f"the train split has {len(source)} examples for {cut.num_replicas}"
            " replicas or input pipelines: use fewer"
        )
    finish = _finisher(config, source)
    if config.data_service:
        return _ahead(config, _served(config, source, cut, finish))
    stream = order_of(config, source)
    dataset = _engine(config, source).train(stream, cut, start_step, finish)
    return _ahead(config, dataset)


def eval_input_fn(
    config: InputConfig, split: str = "test", input_context: Any = None
) -> Any:
    """Every example of a split once, in the data set's order.

    The last batches are padded, so that all pipelines and replicas get the same number
    of batches of the same size; ``features["mask"]`` is False on padding.

    Args:
      config: What to read; `InputConfig.balance` and `InputConfig.seed` do not count.
      split: One of `sharding.SPLITS`.
      input_context: As for `train_input_fn`.

    Returns:
      A finite ``tf.data.Dataset``; see the module's text for its elements.

    Raises:
      UsageError: The configuration does not go with the data set or the replicas.
      DataError: The data set is damaged.
    """
    source = open_examples(config, split)
    cut = batch_slices.Slices.of(config.global_batch_size, input_context, pad=True)
    steps = -(-len(source) // cut.global_batch)
    finish = _finisher(config, source)
    dataset = _engine(config, source).evaluate(steps, cut, finish)
    return _ahead(config, dataset)


def predict_input_fn(
    paths: Sequence[str], *, image_size: int, batch_size: int = 64
) -> Any:
    """Image files, decoded and brought to size as the data set's are.

    Args:
      paths: JPEG or PNG files.
      image_size: Side of the result, pixels.
      batch_size: Files at a time; the last batch is padded.

    Returns:
      A finite ``tf.data.Dataset`` of ``{"image": uint8 [B, S, S, 3], "mask": bool [B],
      "path": string [B]}`` in the order of `paths`.

    Raises:
      UsageError: There are no paths, or a size is not positive.
    """
    if not paths or image_size < 1 or batch_size < 1:
        raise errors.UsageError(
            "wanted one path or more and positive sizes; got"
            f" {len(paths)} paths, image_size {image_size}, batch_size {batch_size}"
        )
    names = [os.fspath(path) for path in paths]

    def read(first: np.int64) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        mask = np.zeros(batch_size, bool)
        for i, name in enumerate(names[first : first + batch_size]):
            _read_image(name, out[i])
            mask[i] = True
        return out, mask

    padded = tf.constant([*names, *[""] * (-len(names) % batch_size)])

    def element(first: Any) -> dict[str, Any]:
        image, mask = tf.numpy_function(
            shutdown_guard.guard(read), [first], (tf.uint8, tf.bool)
        )
        return {
            "image": tf.ensure_shape(image, [batch_size, image_size, image_size, 3]),
            "mask": tf.ensure_shape(mask, [batch_size]),
            "path": tf.ensure_shape(padded[first : first + batch_size], [batch_size]),
        }

    firsts = tf.data.Dataset.range(0, len(names), batch_size)
    return firsts.map(as_is(element), num_parallel_calls=resources.cores()).prefetch(2)


def as_is(function: Callable) -> Callable:
    """The function without AutoGraph, which takes longer than a first batch."""
    return tf.autograph.experimental.do_not_convert(function)


def num_examples(config: InputConfig, split: str) -> int:
    """Examples in a split; 0 where it is not there.  Reads the manifest only."""
    config.check_source()
    if config.files:
        return len(open_examples(config, split))
    manifest = schema.load_manifest(config.records_dir)
    found = manifest.splits.get(split)
    return found.num_examples if found else 0


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what a pipeline raises into the `DataError` that it began as.

    TensorFlow wraps an exception of a Python function into one of its own, with a
    traceback as its text.

    Raises:
      DataError: A damaged record or shard, in one line.
    """
    try:
        yield
    except tf.errors.OpError as error:
        text = str(error.message)
        own = re.search(r"\b(?:Data|Usage)Error: ([^\n]+)", text)
        if own:
            raise errors.DataError(own.group(1).strip()) from error
        damaged = isinstance(error, tf.errors.DataLossError)
        if damaged or re.search(r"decode_?(jpeg|png|image)|JPEG|PNG", text, re.I):
            raise errors.DataError(
                f"a record is damaged: {errors.one_line(text.splitlines()[0])};"
                " afad-inspect-records --verify names it"
            ) from error
        raise


def open_examples(config: InputConfig, split: str) -> record_index.Examples:
    """The examples of a split, checked against the task.

    Raises:
      UsageError: The split is empty, or a label of the task is missing.
      DataError: The data set is damaged.
    """
    source = _load(config, split)
    missing = [n for n in schema.labels_of(config.task) if n not in source.labels]
    if missing:
        raise errors.UsageError(
            f"--task={config.task} needs the label {missing[0]!r}, which"
            f" {config.files or config.records_dir} does not have; it has"
            f" {', '.join(source.labels) or 'none'}"
        )
    return source


def _engine(config: InputConfig, source: record_index.Examples) -> Any:
    name, reason = choose_engine(config, source)
    _log.info("input: %s engine for %s (%s)", name, source.split, reason)
    _check_cache(config, source)
    module = engine_mapped if name == "mapped" else engine_graph
    return module.Engine(config, source, _image_size(config, source))


def _served(
    config: InputConfig,
    source: record_index.Examples,
    cut: batch_slices.Slices,
    finish: Any,
) -> Any:
    """Training batches that a ``tf.data`` service makes."""
    _log.warning(
        "input: batches come from %s, in an order that depends on its machines: a"
        " stopped training continues with a new pass over the examples, and repeats"
        " nothing exactly",
        config.data_service,
    )
    engine = _engine(config, source)
    # A worker begins each pass anew: with one seed it would repeat the first one.
    epochs = [
        engine.epoch(cut.per_replica, finish, (config.seed + i) % (1 << 31))
        for i in range(_SERVED_ORDERS)
    ]
    batches = data_service.distribute(epochs, config.data_service)
    # Over the ends of workers' shares and of epochs: no example is dropped.
    return batches.rebatch(cut.per_replica, drop_remainder=True)


def open_labels(config: InputConfig, split: str) -> tuple[str, ...]:
    """The labels that a split has, whatever the task."""
    return _load(config, split).labels


def _load(config: InputConfig, split: str) -> record_index.Examples:
    config.check_source()
    if config.files:
        return foreign_files.load(config, split)
    return record_index.load(
        config.records_dir, split, config.cache_dir, config.cache_dir_gib
    )


def choose_engine(
    config: InputConfig, source: record_index.Examples, *, cores: int = 0
) -> tuple[str, str]:
    """The engine that a configuration gets, and why.

    Args:
      config: What was asked for.
      source: The examples.
      cores: As if the process had so many; 0 for those it has.

    Returns:
      ``"mapped"`` or ``"graph"``, and the reason in a few words.

    Raises:
      UsageError: The engine that was asked for cannot read these examples.
    """
    cores = cores or resources.cores()
    if config.data_service:
        return "graph", "its operations run on any machine"
    if config.engine == "graph":
        return "graph", "asked for"
    obstacle = "" if source.local else "the shards are on a remote file system"
    if config.engine == "mapped":
        if obstacle:
            raise errors.UsageError(
                f"--engine=mapped needs local files, and {obstacle}: name a --cache_dir"
                " for them, or use --engine=graph"
            )
        return "mapped", "asked for"
    encoded = not source.pixel
    if not obstacle and (encoded or _resizes(config, source)):
        try:
            errors.require("simplejpeg", extra="fast", purpose="it")
            errors.require("cv2", extra="fast", purpose="it")
        except errors.UsageError:
            obstacle = (
                "simplejpeg or OpenCV is missing: pip install 'afad-tfdata[fast]'"
            )
    if obstacle:
        return "graph", obstacle
    fits = source.image_bytes < resources.available_bytes() // 2
    if encoded and cores * _GRAPH_SHARE > engine_mapped.MAX_THREADS and fits:
        return "graph", (
            f"{cores} cores: one process of the mapped engine stops scaling near"
            f" {engine_mapped.MAX_THREADS} threads"
        )
    what = "decoded by simplejpeg" if encoded else "rows copied"
    threads = min(cores, engine_mapped.MAX_THREADS)
    return "mapped", f"local shards, {what}, {threads} threads"


def _finisher(config: InputConfig, source: record_index.Examples) -> Callable[..., Any]:
    """Makes an element of ``(images, ages, genders, mask)``.

    It is a part of the function that reads, since each stage of a data set costs time
    of its own.
    """
    if config.as_supervised:
        return _supervised(config, source)

    def named(image: Any, age: Any, gender: Any, mask: Any) -> Any:
        features = {"image": image}
        if mask is not None:
            features["mask"] = mask
        values = {"age": age, "gender": gender}
        return features, {label: values[label] for label in source.labels}

    return named


def _supervised(
    config: InputConfig, source: record_index.Examples
) -> Callable[..., Any]:
    """``(image, label, sample_weight)``: normalised, the weight 0 on padding."""
    if source.mean_rgb is None:
        raise errors.UsageError(
            "as_supervised normalises images and needs their channel means: name a"
            " mean.json with --mean_file"
        )
    mean, names = source.mean_rgb, schema.labels_of(config.task)

    def supervised(image: Any, age: Any, gender: Any, mask: Any) -> Any:
        values = {"age": age, "gender": tf.cast(gender, tf.float32)}
        weight = tf.ones_like(age) if mask is None else tf.cast(mask, tf.float32)
        image = preprocess.normalize(image, mean)
        if len(names) == 1:
            return image, values[names[0]], weight
        # One weight for all outputs: Keras takes a dict of weights only where the model
        # has a dict of outputs.
        return image, {f"{name}_output": values[name] for name in names}, weight

    return supervised


def _ahead(config: InputConfig, dataset: Any) -> Any:
    """Keeps some elements ready, and spares what TensorFlow would rearrange."""
    if config.prefetch:
        dataset = dataset.prefetch(config.prefetch)
    options = tf.data.Options()
    options.deterministic = True
    # Every number of threads and elements is given: there is nothing to tune, and
    # nothing for the graph optimiser, which costs a tenth of a second at the start.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)


def order_of(config: InputConfig, source: record_index.Examples) -> order.Order:
    """Which record is at which position of the endless training stream."""
    return order.Order(len(source), config.seed, _groups(config, source))


def _groups(
    config: InputConfig, source: record_index.Examples
) -> tuple[np.ndarray, ...]:
    if config.balance == "none":
        return ()
    if config.balance not in source.labels:
        raise errors.UsageError(
            f"--balance={config.balance} needs that label, which the data set lacks"
        )
    return order.groups_of(source.index[config.balance])


def _check_cache(config: InputConfig, source: record_index.Examples) -> None:
    """Says what a cache will take before it is taken."""
    if config.cache == "none":
        return
    size = _image_size(config, source)
    needed = (
        source.image_bytes
        if config.cache == "encoded"
        else len(source) * size * size * 3
    )
    free = resources.available_bytes()
    _log.info(
        "input: --cache=%s takes %s of memory for the %s split; %s are free",
        config.cache,
        resources.mib(needed),
        source.split,
        resources.mib(free),
    )
    if needed > free:
        raise errors.UsageError(
            f"--cache={config.cache} takes {resources.mib(needed)} for the"
            f" {source.split} split, and {resources.mib(free)} are free: use a smaller"
            " --image_size, --cache=encoded or --cache=none"
        )


def _image_size(config: InputConfig, source: record_index.Examples) -> int:
    size = config.image_size or source.image_size
    if not size:
        raise errors.UsageError(
            "the images differ in size: --image_size says what to bring them to"
        )
    return size


def _resizes(config: InputConfig, source: record_index.Examples) -> bool:
    return _image_size(config, source) != source.stored_size


def _read_image(path: str, out: np.ndarray) -> None:
    try:
        header = codec.read_header(data := codec.read_file(path))
        codec.check_header(header, as_stored=False)
        codec.resize(codec.decode(data, header), len(out), out=out)
    except codec.ImageError as error:
        raise errors.DataError(f"cannot use {path}: {error}") from error
