"""How fast a data set can be fed to a model here, and what stands in the way.

The pipeline is run as training runs it.  With ``--analyze`` each stage is run alone in
one thread too, so that its share of the work shows.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, options, resources
from afad_tfdata.common.lazy import tf
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import engine_mapped, record_index, transformation_rates
from afad_tfdata.storage import schema

# Batches that are made before the clock starts: what is prefetched, and first passes
# of lazily opened shards.
_WARM_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure.

    Attributes:
      records_dir: As in `input_config.InputConfig`, like the fields up to `features`.
      batch_size: Its ``global_batch_size``.
      image_size: Side of the images, pixels; 0 for the data set's.
      engine: Who reads and decodes.
      cache: What is kept in memory.
      cache_dir: Local directory for remote shards.
      cache_dir_gib: Most that it may hold, GiB.
      num_parallel_calls: Batches made at the same time.
      prefetch: Batches that wait ready.
      seed: Of the order.
      files: Files of another program instead of `records_dir`.
      features: Names of their features.
      split: ``train`` is read in shuffled order, other splits in their own.
      seconds: How long the pipeline, and each stage, is measured.
      analyze: Whether to measure the stages.
      model_rate: Images that the model takes per second; 0 if nobody knows.
    """

    records_dir: str = options.option("", "Data set that write_records made.")
    batch_size: int = options.option(128, "Images of a batch.")
    image_size: int = options.option(
        0, "Side of the images in pixels; 0: the data set's."
    )
    engine: str = options.option(
        "auto", "Who reads and decodes.", choices=input_config.ENGINES
    )
    cache: str = options.option(
        "none", "What is kept in memory after it was read.", choices=input_config.CACHES
    )
    cache_dir: str = options.option(
        "", "Local directory for the shards of a remote data set, as for afad-train."
    )
    cache_dir_gib: float = options.option(0.0, "Most it may hold, GiB; 0: its disk.")
    num_parallel_calls: int = options.option(
        0, "Batches made at the same time; 0: one for each core."
    )
    prefetch: int = options.option(2, "Batches that wait ready.")
    seed: int = options.option(1, "Of the order of examples.")
    files: str = options.option(
        "", "Files of another program: a glob, as for input_fn."
    )
    features: str = options.option("", "Names of the features in --files.")
    split: str = options.option("train", "Which split to read.")
    seconds: float = options.option(5.0, "Length of each measurement.")
    analyze: bool = options.option(False, "Measure each stage alone, too.")
    model_rate: float = options.option(
        0.0, "Images that the model takes per second, for the advice."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not 0.05 <= self.seconds <= 3600:
            raise errors.UsageError(
                f"--seconds must lie between 0.05 and 3600; got {self.seconds}"
            )
        if self.batch_size < 1:
            raise errors.UsageError(
                f"--batch_size must be 1 or more; got {self.batch_size}"
            )
        if self.model_rate < 0:
            raise errors.UsageError(
                f"--model_rate must be 0 or more; got {self.model_rate}"
            )

    def input_config(self) -> input_config.InputConfig:
        """The pipeline's configuration."""
        same = (
            *("image_size", "engine", "cache", "cache_dir", "cache_dir_gib"),
            *("num_parallel_calls", "prefetch"),
        )
        config = input_config.InputConfig(
            records_dir=self.records_dir,
            global_batch_size=self.batch_size,
            seed=self.seed,
            files=self.files,
            features=self.features,
            **{name: getattr(self, name) for name in same},
        )
        if not self.files:
            return config
        # Whatever labels there are: the rate does not hang on them.
        labels = input_fn.open_labels(config, self.split)
        tasks = [t for t in schema.TASKS if set(schema.labels_of(t)) <= set(labels)]
        return dataclasses.replace(config, task=tasks[-1] if tasks else config.task)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
      engine: Name of the engine.
      reason: Why that one.
      images_per_second: Of the whole pipeline.
      p50_ms: Half of the batches came within this time, milliseconds.
      p99_ms: 99 of 100 did.
      first_batch_seconds: From the call to the first batch.
      cpu_percent: Of one core, while it ran.
      memory_mib: Of the process, mapped file pages apart, MiB.
      batch_size: Images of a batch.
      threads: Batches made at the same time.
      cores: Cores that the process may use.
      stages: ``{stage: images per second of one thread}``; empty without analysis.
      slowest: The stage with the lowest rate.
      ceiling: Images per second at which one process stops gaining from threads; 0
        without analysis.
      advice: One line.
    """

    engine: str
    reason: str
    images_per_second: float
    p50_ms: float
    p99_ms: float
    first_batch_seconds: float
    cpu_percent: float
    memory_mib: float
    batch_size: int
    threads: int
    cores: int
    stages: dict[str, float]
    slowest: str
    ceiling: float
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """For people."""
        lines = [
            f"engine           {self.engine} ({self.reason})",
            f"images/s         {self.images_per_second:,.0f}"
            f"  ({self.threads} threads on {self.cores} cores,"
            f" {self.cpu_percent:.0f} % CPU)",
            f"batch of {self.batch_size:<7} p50 {self.p50_ms:.2f} ms,"
            f" p99 {self.p99_ms:.2f} ms, the first after"
            f" {self.first_batch_seconds:.2f} s",
            f"memory           {self.memory_mib:,.0f} MiB, mapped files apart",
            f"the model waits  if it takes less than"
            f" {1e3 * self.batch_size / self.images_per_second:.2f} ms for a batch",
        ]
        if self.stages:
            lasting = {
                n: r
                for n, r in self.stages.items()
                if n != transformation_rates.FIRST_PASS
            }
            total = sum(1 / rate for rate in lasting.values())
            lines.append("stage alone      images/s of one thread, share of the work")
            for name, rate in self.stages.items():
                share = f"{100 / rate / total:5.1f} %"
                if name == transformation_rates.FIRST_PASS:
                    share = "in the first pass only"
                mark = "  <- slowest" if name == self.slowest else ""
                lines.append(f"  {name:<14} {rate:>12,.0f}  {share}{mark}")
            if self.ceiling:
                lines.append(f"one process ends near {self.ceiling:,.0f} images/s")
            lines.append(f"advice           {self.advice}")
        return "\n".join(lines)


def run(config: BenchmarkConfig) -> Report:
    """Measures the pipeline and, on request, its stages.

    Raises:
      UsageError: The data set cannot be read so.
      DataError: It is damaged.
    """
    pipeline = config.input_config()
    source = input_fn.open_examples(pipeline, config.split)
    engine, reason = input_fn.choose_engine(pipeline, source)
    with input_fn.readable_errors():
        measured = _measure(config, pipeline)
        found: dict[str, float] = {}
        if config.analyze:
            found = transformation_rates.measure(
                source, pipeline, engine=engine, seconds=config.seconds
            )
    lasting = {
        name: rate
        for name, rate in found.items()
        if name != transformation_rates.FIRST_PASS
    }
    slowest = min(lasting, key=lambda name: lasting[name]) if lasting else ""
    threads = config.num_parallel_calls or resources.cores()
    ceiling = 0.0
    if engine == "mapped":
        threads = config.num_parallel_calls or min(threads, engine_mapped.MAX_THREADS)
        if found:
            alone = 1 / sum(
                1 / found[name] for name in transformation_rates.THREADED & set(found)
            )
            ceiling = alone * engine_mapped.MAX_THREADS
    report = Report(
        engine=engine,
        reason=reason,
        batch_size=config.batch_size,
        threads=threads,
        cores=resources.cores(),
        stages=found,
        slowest=slowest,
        ceiling=ceiling,
        advice="",
        **measured,
    )
    if not found:
        return report
    return dataclasses.replace(report, advice=_advice(config, source, report))


def _measure(
    config: BenchmarkConfig, pipeline: input_config.InputConfig
) -> dict[str, float]:
    """The figures of the whole pipeline, as `Report` names them."""
    make: Callable[[], Any]
    if config.split == "train":

        def make() -> Any:
            return input_fn.train_input_fn(pipeline)
    else:

        def make() -> Any:
            return input_fn.eval_input_fn(pipeline, config.split).repeat()

    tf.constant(0)  # TensorFlow's own start is not the pipeline's.
    start = time.perf_counter()
    iterator = iter(make())
    next(iterator)
    first = time.perf_counter() - start
    for _ in range(_WARM_BATCHES):
        next(iterator)
    times: list[float] = []
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    last = start
    while last < start + config.seconds or len(times) < 10:
        next(iterator)
        now = time.perf_counter()
        times.append(now - last)
        last = now
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "images_per_second": len(times) * config.batch_size / (last - start),
        "p50_ms": float(p50) * 1e3,
        "p99_ms": float(p99) * 1e3,
        "first_batch_seconds": first,
        "cpu_percent": 100 * cpu / (last - start),
        "memory_mib": resources.own_memory_bytes() / (1 << 20),
    }


def _advice(
    config: BenchmarkConfig, source: record_index.Examples, report: Report
) -> str:
    """The one thing to change, if anything."""
    if config.model_rate and report.images_per_second > 1.2 * config.model_rate:
        return (
            f"nothing: the pipeline gives {report.images_per_second:,.0f} images/s, the"
            f" model takes {config.model_rate:,.0f}"
        )
    if "pip install" in report.reason:
        return report.reason
    if report.engine == "mapped" and report.cores > engine_mapped.MAX_THREADS:
        return (
            f"one process stops scaling near {engine_mapped.MAX_THREADS} threads: feed"
            " the replicas through several input pipelines (one process each), or try"
            " --engine=graph"
        )
    size = config.image_size or source.image_size
    pixels = len(source) * size * size * 3
    fits = pixels < resources.available_bytes() // 2
    cache = (
        f"--cache=decoded ({resources.mib(pixels)} for this split)"
        if fits
        else f"pixels ({resources.mib(pixels)}) on a fast disk"
    )
    return {
        "read": "the disk or page cache is slow: --cache=encoded, or a local SSD",
        "gather": "rows are copied at the memory's speed: nothing to gain but a smaller"
        " --image_size",
        "parse": "--engine=mapped reads through the index and parses nothing",
        "decode": "decoding is most of the work: write the records with"
        f" --image_encoding=jpeg at {size} px or as raw pixels, or use {cache}",
        "resize": f"write the records at {size} px (--image_encoding=jpeg or raw), or"
        f" use {cache}",
        "order": "a larger --batch_size",
        "batch": "a larger --batch_size: what a batch costs is paid less often",
        "copy": "the bus to the device: a smaller --image_size",
    }[report.slowest]
