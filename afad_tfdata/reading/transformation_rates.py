"""The stages of an input pipeline, each alone in one thread."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common.lazy import tf
from afad_tfdata.images import preprocess
from afad_tfdata.reading import (
    bad_records,
    engine_graph,
    engine_mapped,
    memory_store,
    order,
    record_index,
)
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import schema

# What a pipeline does in several threads at a time.
THREADED = frozenset(("read", "gather", "parse", "decode", "resize", "batch", "order"))
# The stage that only the first pass over the data has.
FIRST_PASS = "check"
# Examples that are taken as a sample of the split.
_SAMPLE = 1024

Stages = dict[str, Callable[[np.ndarray], Any]]


def measure(
    source: record_index.Examples,
    config: input_config.InputConfig,
    *,
    engine: str,
    seconds: float,
) -> dict[str, float]:
    """Rates of the stages.

    Args:
      source: The examples.
      config: Of the pipeline.
      engine: Whose stages: ``mapped`` or ``graph``.
      seconds: How long each is measured.

    Returns:
      ``{stage: images per second}`` in the order in which an image passes through:
      ``order`` (position to record), ``read`` (bytes out of the page cache), ``check``
      (checksum, first pass only), ``gather`` (rows of pixels, or of what is held in
      memory), ``parse``, ``decode``, ``resize``, ``batch`` (what `tf.data` takes for a
      batch), ``copy`` (to the device).  A stage that a pipeline does not have is left
      out.
    """
    size = config.image_size or source.image_size
    batch_size = config.global_batch_size
    rng = np.random.default_rng(0)
    sample = np.sort(
        rng.choice(len(source), min(_SAMPLE, len(source)), replace=False)
    ).astype(np.int64)
    batches = [rng.choice(sample, batch_size) for _ in range(16)]
    stream = order.Order(len(source), config.seed)
    ordered = tf.function(stream.records)
    found: Stages = {"order": lambda batch: ordered(tf.constant(batch))}
    stored = _Stored(source, sample)
    if engine == "graph" or not source.pixel:
        found["read"] = stored.read
    if engine == "mapped":
        found |= _mapped(source, stored, size)
    else:
        found |= _graph(source, stored, size, batch_size)
    image = np.zeros((batch_size, size, size, 3), np.uint8)
    rates = {
        name: _rate(stage, batches, batch_size, seconds)
        for name, stage in found.items()
    }
    rates["batch"] = _rate_of(_layer(engine, image), batch_size, seconds)
    if tf.config.list_logical_devices("GPU"):
        rates["copy"] = _rate(
            lambda batch: _to_device(image), batches, batch_size, seconds
        )
    return rates


class _Stored:
    """Stored bytes of a sample of records."""

    def __init__(self, source: record_index.Examples, sample: np.ndarray) -> None:
        self._source = source
        self._shards: list[np.ndarray] = []
        self.data: dict[int, bytes] = {}
        if not source.local or not source.contiguous:
            wanted = set(sample.tolist())
            for record, data in enumerate(memory_store.stored_images(source)):
                if record in wanted and isinstance(data, bytes):
                    self.data[record] = data
            return
        self._shards = [np.asarray(np.memmap(p, np.uint8, "r")) for p in source.paths]
        self.data = dict(zip(sample.tolist(), self.read(sample), strict=True))

    def read(self, batch: np.ndarray) -> list[bytes]:
        """Copies the bytes of a batch."""
        if not self._shards:
            return [self.data[record] for record in batch.tolist()]
        rows = self._source.index[batch]
        return [
            self._shards[shard][offset : offset + length].tobytes()
            for shard, offset, length in zip(
                rows["shard"].tolist(),
                rows["image_offset"].tolist(),
                rows["image_length"].tolist(),
                strict=True,
            )
        ]


def _mapped(source: record_index.Examples, stored: _Stored, size: int) -> Stages:
    def check(batch: np.ndarray) -> None:
        for record in batch.tolist():
            zlib.crc32(stored.data[record])

    bad = bad_records.BadRecords(source, 0)
    reader = engine_mapped.Reader(source, size, bad, verify=False)
    if source.pixel:
        return {"check": check, "gather": reader.read}
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)
    jpeg = schema.IMAGE_FORMATS.index("jpeg")
    kinds = source.index["image_format"]
    sides = source.index["height"].astype(np.int64) * source.index["width"]
    scratch = np.empty(int(sides.max()) * 3, np.uint8)
    out = np.empty((size, size, 3), np.uint8)

    def decode_one(record: int, buffer: Any) -> np.ndarray:
        data = stored.data[record]
        if kinds[record] == jpeg:
            return simplejpeg.decode_jpeg(
                data, "RGB", False, False, 0, 0, 1.0, buffer, True
            )
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def decode(batch: np.ndarray) -> None:
        for record in batch.tolist():
            decode_one(record, scratch)

    found: Stages = {"check": check, "decode": decode}
    if source.stored_size != size:
        decoded = {record: decode_one(record, None) for record in stored.data}

        def resize(batch: np.ndarray) -> None:
            for record in batch.tolist():
                cv2.resize(decoded[record], (size, size), out)

        found["resize"] = resize
    return found


def _graph(
    source: record_index.Examples, stored: _Stored, size: int, batch_size: int
) -> Stages:
    records = sorted(stored.data)
    place = {record: i for i, record in enumerate(records)}
    data = tf.constant([stored.data[record] for record in records])

    def strings(batch: np.ndarray) -> Any:
        return tf.gather(data, [place[record] for record in batch.tolist()])

    chosen = strings(np.resize(np.array(records), batch_size))
    found: Stages = {"gather": strings}
    if source.format == "tfrecord":
        name = source.features["image"]
        serialized = tf.constant([_example(name, one) for one in chosen.numpy()])
        spec = {name: tf.io.FixedLenFeature([], tf.string)}
        parse = tf.function(lambda: tf.io.parse_example(serialized, spec)[name])
        found["parse"] = lambda batch: parse()
    if source.pixel:
        unpack = tf.function(
            lambda: engine_graph.pixels(
                chosen, source.pixel, source.stored_size, source.stored_size
            )
        )
        found["decode"] = lambda batch: unpack()
        return found

    def decode_size(one: Any) -> Any:
        return tf.size(
            tf.io.decode_jpeg(
                one,
                channels=3,
                dct_method="INTEGER_ACCURATE",
                fancy_upscaling=True,
            )
        )

    decode = tf.function(
        lambda: tf.map_fn(
            decode_size, chosen, fn_output_signature=tf.int32, parallel_iterations=1
        )
    )
    found["decode"] = lambda batch: decode()
    if source.stored_size != size:
        image = preprocess.decode_and_resize(chosen[0], size)[tf.newaxis]
        resize = tf.function(
            lambda: tf.map_fn(
                lambda _: preprocess.resize(image, size)[0],
                chosen,
                fn_output_signature=tf.uint8,
                parallel_iterations=1,
            )
        )
        found["resize"] = lambda batch: resize()
    return found


def _example(name: str, data: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    features = tf.train.Features(feature={name: feature})
    return tf.train.Example(features=features).SerializeToString()


def _layer(engine: str, image: np.ndarray) -> Iterator[Any]:
    """A pipeline that hands on the same array over and over."""
    if engine == "graph":
        constant = tf.constant(image)
        dataset = tf.data.Dataset.counter().map(lambda i: (i, constant))
    else:
        dataset = tf.data.Dataset.counter().map(
            lambda i: tf.numpy_function(lambda _: image, [i], tf.uint8)
        )
    return iter(dataset)


def _to_device(image: np.ndarray) -> None:
    with tf.device("GPU:0"):
        # Reading one value waits for the copy.
        tf.identity(tf.constant(image))[0, 0, 0, 0].numpy()


def _rate(
    stage: Callable[[np.ndarray], Any],
    batches: list[np.ndarray],
    batch_size: int,
    seconds: float,
) -> float:
    return _rate_of(map(stage, itertools.cycle(batches)), batch_size, seconds)


def _rate_of(results: Iterator[Any], batch_size: int, seconds: float) -> float:
    """Images per second of an iterator of batches."""
    for _ in range(2):  # Tracing, first touches.
        next(results)
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds or not count:
        next(results)
        count += 1
    return count * batch_size / max(now - start, 1e-9)
