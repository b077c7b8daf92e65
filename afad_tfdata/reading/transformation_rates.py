"""Measures each transformation of an input pipeline alone, in one thread."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import crc32
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.reading import (
    bad_records,
    engine_choice,
    engine_graph,
    mapped_reader,
    memory_store,
    order,
    record_index,
    shard_maps,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import schema

# The transformations that a pipeline runs in several threads at a time.
THREADED = frozenset(("read", "gather", "parse", "decode", "resize", "batch", "order"))
# The transformation that runs only in the first pass over the data.
FIRST_PASS = "check"
# The number of records that are measured.  Their bytes are kept in memory, so that the
# disk does not limit the rates.
_NUM_SAMPLED = 1024
# The number of batches that are used in turn.  A single batch would stay in the
# processor's cache.
_NUM_BATCHES = 16

# A transformation takes record numbers, int64 [B], and processes B images.
Transformations = dict[str, Callable[[np.ndarray], Any]]


def measure_rates(
    index: record_index.RecordIndex,
    config: input_config.InputConfig,
    *,
    engine: str,
    seconds: float,
) -> dict[str, float]:
    """Measures the rate of each transformation of an input pipeline.

    Args:
      index: The records.
      config: The configuration of the pipeline: image size and batch size.
      engine: Whose transformations: `engine_choice.MAPPED` or `engine_choice.GRAPH`.
      seconds: How long each is measured.

    Returns:
      ``{transformation: images per second}`` in the order in which an image passes
      through: ``order`` (position to record), ``read`` (bytes out of the page cache),
      ``check`` (checksum, first pass only), ``gather`` (rows of pixels, or of what is
      kept in memory), ``parse``, ``decode``, ``resize``, ``batch`` (what ``tf.data``
      takes for a batch), ``copy`` (to the device).  Transformations that the pipeline
      does not have are left out.
    """
    size = engine_choice.image_size(config, index)
    batch_size = config.global_batch_size
    # Each run draws the same sample, because rates are compared between runs.
    rng = np.random.default_rng(0)
    num_sampled = min(_NUM_SAMPLED, len(index))
    sample = np.sort(rng.choice(len(index), num_sampled, replace=False))
    sample = sample.astype(np.int64)
    batches = [rng.choice(sample, batch_size) for _ in range(_NUM_BATCHES)]
    stored = _StoredSample(index, sample)
    image = np.zeros((batch_size, size, size, 3), np.uint8)

    shuffle = tf.function(order.Order(len(index), config.seed).records)
    found: Transformations = {"order": lambda batch: shuffle(tf.constant(batch))}
    if engine == engine_choice.GRAPH or not index.pixel:
        found["read"] = stored.read
    if engine == engine_choice.MAPPED:
        found |= _transformations_of_mapped(
            index, stored, size, config.decode == "fast"
        )
    else:
        found |= _transformations_of_graph(
            index, stored, size, batch_size, config.decode
        )
    rates = {
        name: _images_per_second(
            map(transformation, itertools.cycle(batches)), batch_size, seconds
        )
        for name, transformation in found.items()
    }
    rates["batch"] = _images_per_second(
        _empty_pipeline(engine, image), batch_size, seconds
    )
    if tf.config.list_logical_devices("GPU"):
        copies = (_copy_to_device(image) for _ in itertools.count())
        rates["copy"] = _images_per_second(copies, batch_size, seconds)
    return rates


class _StoredSample:
    """The stored bytes of a sample of records."""

    def __init__(self, index: record_index.RecordIndex, sample: np.ndarray) -> None:
        self._index = index
        self._shards: list[np.ndarray] = []
        self.data: dict[int, bytes] = {}
        if not index.local or not index.contiguous:
            sampled = set(sample.tolist())
            for record, data in enumerate(memory_store.stored_images(index)):
                if record in sampled and isinstance(data, bytes):
                    self.data[record] = data
            return
        self._shards = shard_maps.ShardMaps(index.paths).shards
        self.data = dict(zip(sample.tolist(), self.read(sample), strict=True))

    def read(self, batch: np.ndarray) -> list[bytes]:
        """Copies the stored bytes of a batch: the transformation ``read``."""
        if not self._shards:
            return [self.data[record] for record in batch.tolist()]
        entries = self._index.entries[batch]
        return [
            self._shards[shard][offset : offset + length].tobytes()
            for shard, offset, length in zip(
                entries["shard"].tolist(),
                entries["image_offset"].tolist(),
                entries["image_length"].tolist(),
                strict=True,
            )
        ]


def _transformations_of_mapped(
    index: record_index.RecordIndex, stored: _StoredSample, size: int, fast: bool
) -> Transformations:
    """Returns the mapped engine's transformations, each as a function to be timed."""

    def check(batch: np.ndarray) -> None:
        """Compares the checksums of a batch."""
        for record in batch.tolist():
            crc32.crc32(stored.data[record])

    if index.pixel:
        bad = bad_records.BadRecords(index, 0)
        reader = mapped_reader.MappedReader(index, size, bad, verify=False)
        return {"check": check, "gather": reader.read}
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)  # Rates are measured in one thread.
    jpeg = schema.IMAGE_FORMATS.index("jpeg")
    formats = index.entries["image_format"]
    heights = index.entries["height"].astype(np.int64)
    # This memory is used again, as in `mapped_reader`.
    scratch = np.empty(int((heights * index.entries["width"]).max()) * 3, np.uint8)
    out = np.empty((size, size, 3), np.uint8)

    def decode_one(record: int, buffer: np.ndarray | None) -> np.ndarray:
        """Decodes the image of a record."""
        data = stored.data[record]
        if formats[record] == jpeg:
            return simplejpeg.decode_jpeg(
                data, "RGB", fast, fast, 0, 0, 1.0, buffer, True
            )
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def decode(batch: np.ndarray) -> None:
        """Decodes the images of a batch."""
        for record in batch.tolist():
            decode_one(record, scratch)

    found: Transformations = {"check": check, "decode": decode}
    if index.stored_size != size:
        decoded = {record: decode_one(record, None) for record in stored.data}

        def resize(batch: np.ndarray) -> None:
            """Resizes the images of a batch."""
            for record in batch.tolist():
                cv2.resize(decoded[record], (size, size), out)

        found["resize"] = resize
    return found


def _transformations_of_graph(
    index: record_index.RecordIndex,
    stored: _StoredSample,
    size: int,
    batch_size: int,
    decode: str,
) -> Transformations:
    """Returns the graph engine's transformations, each as a function to be timed."""
    records = sorted(stored.data)
    place = {record: i for i, record in enumerate(records)}
    data = tf.constant([stored.data[record] for record in records])

    def gather(batch: np.ndarray) -> tf.Tensor:
        """Gathers the stored images of a batch."""
        return tf.gather(data, [place[record] for record in batch.tolist()])

    found: Transformations = {"gather": gather}
    # The functions below always process the same batch, which is part of their graphs.
    # If they took a batch as argument, passing it would be measured too.
    chosen = gather(np.resize(np.array(records), batch_size))
    if index.format == "tfrecord":
        name = index.features["image"]
        serialized = tf.constant([_timed_example(name, one) for one in chosen.numpy()])
        spec = {name: tf.io.FixedLenFeature([], tf.string)}
        parse = tf.function(lambda: tf.io.parse_example(serialized, spec)[name])
        found["parse"] = lambda batch: parse()
    if index.pixel:
        side = index.stored_size
        unpack = tf.function(
            lambda: engine_graph.unpack_pixels(chosen, index.pixel, side, side)
        )
        found["decode"] = lambda batch: unpack()
        return found

    def decoded_size(one: tf.Tensor) -> tf.Tensor:
        """Decodes an image, and returns the number of its values."""
        # This decodes like `tensor_preprocessing.decode_and_resize`.  It returns only
        # the number of values, because images of different sizes cannot be stacked.
        return tf.size(
            tf.io.decode_jpeg(
                one, channels=3, **tensor_preprocessing.jpeg_options(decode)
            )
        )

    decode_all = tf.function(
        lambda: tf.map_fn(
            decoded_size, chosen, fn_output_signature=tf.int32, parallel_iterations=1
        )
    )
    found["decode"] = lambda batch: decode_all()
    if index.stored_size != size:
        image = tensor_preprocessing.decode_and_resize(chosen[0], size)[tf.newaxis]
        resize = tf.function(
            lambda: tf.map_fn(
                lambda _: tensor_preprocessing.resize(image, size)[0],
                chosen,
                fn_output_signature=tf.uint8,
                parallel_iterations=1,
            )
        )
        found["resize"] = lambda batch: resize()
    return found


def _timed_example(name: str, data: bytes) -> bytes:
    """Returns a serialized example with one image, whose parsing is timed."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    features = tf.train.Features(feature={name: feature})
    return tf.train.Example(features=features).SerializeToString()


def _empty_pipeline(engine: str, image: np.ndarray) -> Iterator[Any]:
    """Returns a pipeline that only passes an array on, whose rate is measured."""
    if engine == engine_choice.GRAPH:
        constant = tf.constant(image)
        dataset = tf.data.Dataset.counter().map(lambda i: (i, constant))
    else:
        dataset = tf.data.Dataset.counter().map(
            lambda i: tf.numpy_function(lambda _: image, [i], tf.uint8)
        )
    return iter(dataset)


def _copy_to_device(image: np.ndarray) -> np.generic:
    """Copies a batch to the GPU, and waits for it, to be timed."""
    with tf.device("GPU:0"):
        # The copy is asynchronous; reading one value waits for it.
        return tf.identity(tf.constant(image))[0, 0, 0, 0].numpy()


def _images_per_second(
    batches: Iterator[Any], batch_size: int, seconds: float
) -> float:
    """Measures the images per second of an iterator of batches."""
    for _ in range(2):  # The first calls trace, and touch new memory.
        next(batches)
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds or not count:
        next(batches)
        count += 1
    return count * batch_size / max(now - start, 1e-9)
