"""How fast a data set can be fed to a model on this machine, and what limits the rate.

The pipeline runs as it does in training.  With ``--analyze``, each transformation runs
alone in one thread, too, which shows its share of the work.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import errors, options, resources
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import (
    engine_choice,
    engine_mapped,
    index_loading,
    transformation_rates,
)
from afad_tfdata.storage import schema

# Batches that are taken before the clock starts: those that were prefetched, and those
# that wait for shards which are opened on their first use.
_WARM_BATCHES = 8


@dataclasses.dataclass(frozen=True, init=False)
class BenchmarkConfig(options.Config):
    """What to measure.  The fields of `input` are flat keywords, too."""

    input: input_config.InputConfig = options.part(
        input_config.InputConfig,
        leave_out=(
            "task",  # The rate does not depend on the labels.
            "global_batch_size",  # It is --batch_size here.
            *("as_supervised", "mean_file"),  # The measured batches are not normalised.
            "data_service",  # Its machines would be measured, not this one.
        ),
        help={
            "prefetch": "Number of finished batches that wait to be taken.",
            "image_size": "Side of the square images in pixels; 0 means the size of the"
            " data set.",
        },
    )
    batch_size: int = options.option(128, "Number of images in one batch.")
    split: str = options.option(
        "train",
        "Which split is read: train in shuffled order, any other in its own order.",
    )
    seconds: float = options.option(5.0, "Length of each measurement in seconds.")
    analyze: bool = options.option(
        False,
        "Also measure each transformation of the pipeline alone, and say what to"
        " change.",
    )
    model_rate: float = options.option(
        0.0,
        "Number of images that the model takes per second, for the advice of"
        " --analyze; 0 means unknown.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not 0.05 <= self.seconds <= 3600:
            raise errors.UsageError(
                f"--seconds must be between 0.05 and 3600; got {self.seconds}"
            )
        if self.batch_size < 1:
            raise errors.UsageError(
                f"--batch_size must be 1 or more; got {self.batch_size}"
            )
        if self.model_rate < 0:
            raise errors.UsageError(
                f"--model_rate must be 0 or more; got {self.model_rate}"
            )


class InputSpeed(NamedTuple):
    """The input benchmark's measurements of the whole pipeline.

    Attributes:
      images_per_second: Mean rate.
      p50_ms: Half of the batches arrived within this time, in milliseconds.
      p99_ms: 99 % of the batches arrived within this time, in milliseconds.
      first_batch_seconds: From the call to the first batch.
      cpu_percent: CPU time of the process; 100 is one core.
      memory_mib: Memory of the process without mapped file pages, in MiB.
    """

    images_per_second: float
    p50_ms: float
    p99_ms: float
    first_batch_seconds: float
    cpu_percent: float
    memory_mib: float


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What the input benchmark measured, and what follows from it.

    Attributes:
      engine: Name of the engine.
      reason: Why that engine was chosen.
      speed: Of the whole pipeline.
      batch_size: Images of a batch.
      threads: Batches that are built at the same time.
      cores: Cores that the process may use.
      rates: ``{transformation: images per second in one thread}``; empty without
        ``--analyze``.
      ceiling: Images per second beyond which more threads do not help one process; 0
        without ``--analyze``, and for the graph engine.
      advice: One line; empty without ``--analyze``.
    """

    engine: str
    reason: str
    speed: InputSpeed
    batch_size: int
    threads: int
    cores: int
    rates: dict[str, float]
    ceiling: float
    advice: str

    @property
    def lasting_rates(self) -> dict[str, float]:
        """Rates of the transformations of every pass, not of the first only."""
        first = transformation_rates.FIRST_PASS
        return {name: rate for name, rate in self.rates.items() if name != first}

    @property
    def slowest(self) -> str:
        """The transformation with the lowest rate; empty without ``--analyze``."""
        rates = self.lasting_rates
        return min(rates, key=lambda name: rates[name]) if rates else ""

    def to_dict(self) -> dict[str, Any]:
        """The input benchmark's result as JSON values."""
        return {
            "engine": self.engine,
            "reason": self.reason,
            **self.speed._asdict(),
            "batch_size": self.batch_size,
            "threads": self.threads,
            "cores": self.cores,
            "stages": self.rates,  # The name that programs know from the first version.
            "slowest": self.slowest,
            "ceiling": self.ceiling,
            "advice": self.advice,
        }

    def table(self) -> str:
        """The input benchmark's result as lines of text for people."""
        speed = self.speed
        lines = [
            f"engine           {self.engine} ({self.reason})",
            f"images/s         {speed.images_per_second:,.0f}"
            f"  ({self.threads} threads on {self.cores} cores,"
            f" {speed.cpu_percent:.0f} % CPU)",
            f"batch of {self.batch_size:<7} p50 {speed.p50_ms:.2f} ms,"
            f" p99 {speed.p99_ms:.2f} ms, the first after"
            f" {speed.first_batch_seconds:.2f} s",
            f"memory           {speed.memory_mib:,.0f} MiB without mapped files",
            f"the model waits  if it takes less than"
            f" {1e3 * self.batch_size / speed.images_per_second:.2f} ms for a batch",
        ]
        return "\n".join([*lines, *self._analysis_lines()])

    def _analysis_lines(self) -> Iterator[str]:
        """The benchmark's lines with the rate of each transformation, and advice."""
        if not self.rates:
            return
        yield "one alone        images/s of one thread, share of the work"
        total = sum(1 / rate for rate in self.lasting_rates.values())
        for name, rate in self.rates.items():
            share = f"{100 / rate / total:5.1f} %"
            if name == transformation_rates.FIRST_PASS:
                share = "in the first pass only"
            mark = "  <- slowest" if name == self.slowest else ""
            yield f"  {name:<14} {rate:>12,.0f}  {share}{mark}"
        if self.ceiling:
            yield f"one process reaches about {self.ceiling:,.0f} images/s at most"
        yield f"advice           {self.advice}"


def run(config: BenchmarkConfig) -> BenchmarkResult:
    """Runs the input benchmark: the pipeline and, with ``analyze``, its parts.

    Raises:
      UsageError: The data set does not exist, or cannot be read in this way.
      DataError: The data set is damaged.
    """
    data = _readable_config(config)
    source = index_loading.open_index(data, config.split)
    engine, reason = engine_choice.choose(data, source)
    rates: dict[str, float] = {}
    with input_fn.readable_errors():
        speed = _measure_input(data, config.split, config.seconds)
        if config.analyze:
            rates = transformation_rates.measure_rates(
                source, data, engine=engine, seconds=config.seconds
            )
    cores = resources.cores()
    most = engine_mapped.MAX_THREADS if engine == engine_choice.MAPPED else cores
    result = BenchmarkResult(
        engine=engine,
        reason=reason,
        speed=speed,
        batch_size=config.batch_size,
        threads=data.num_parallel_calls or min(cores, most),
        cores=cores,
        rates=rates,
        ceiling=_most_images_per_second(rates)
        if engine == engine_choice.MAPPED
        else 0.0,
        advice="",
    )
    if not rates:
        return result
    size = data.image_size or source.image_size
    advice = _advice_on_input(
        result,
        model_rate=config.model_rate,
        image_size=size,
        # uint8 RGB of the whole split, as --cache=decoded keeps it.
        decoded_bytes=len(source) * size * size * 3,
    )
    return dataclasses.replace(result, advice=advice)


def _readable_config(config: BenchmarkConfig) -> input_config.InputConfig:
    """The config of the measured input, with a task of which there are labels."""
    data = dataclasses.replace(config.input, global_batch_size=config.batch_size)
    labels = set(index_loading.labels_in_index(data, config.split))
    tasks = [t for t in schema.TASKS if set(schema.labels_of(t)) <= labels]
    return dataclasses.replace(data, task=tasks[-1]) if tasks else data


def _most_images_per_second(rates: dict[str, float]) -> float:
    """The rate that the benchmark predicts with as many threads as help."""
    if not rates:
        return 0.0
    threaded = transformation_rates.THREADED & set(rates)
    return engine_mapped.MAX_THREADS / sum(1 / rates[name] for name in threaded)


def _measure_input(
    data: input_config.InputConfig, split: str, seconds: float
) -> InputSpeed:
    """Measures the input: takes its batches for some seconds, as fast as they come."""
    tf.constant(0)  # TensorFlow's own start is not the pipeline's.
    start = time.perf_counter()
    if split == "train":
        iterator = iter(input_fn.train_input_fn(data))
    else:
        iterator = iter(input_fn.eval_input_fn(data, split).repeat())
    next(iterator)
    first = time.perf_counter() - start
    for _ in range(_WARM_BATCHES):
        next(iterator)
    times: list[float] = []
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    last = start
    # Ten batches at least, or a percentile would mean nothing.
    while last < start + seconds or len(times) < 10:
        next(iterator)
        now = time.perf_counter()
        times.append(now - last)
        last = now
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    p50, p99 = np.percentile(times, [50, 99])
    return InputSpeed(
        images_per_second=len(times) * data.global_batch_size / (last - start),
        p50_ms=float(p50) * 1e3,
        p99_ms=float(p99) * 1e3,
        first_batch_seconds=first,
        cpu_percent=100 * cpu / (last - start),
        memory_mib=resources.own_memory_bytes() / (1 << 20),
    )


def _advice_on_input(
    result: BenchmarkResult, *, model_rate: float, image_size: int, decoded_bytes: int
) -> str:
    """The input benchmark's advice: the one thing to change, if anything."""
    rate = result.speed.images_per_second
    if model_rate and rate > 1.2 * model_rate:
        return (
            f"nothing: the pipeline gives {rate:,.0f} images/s, the model takes"
            f" {model_rate:,.0f}"
        )
    if "pip install" in result.reason:
        return result.reason
    if (
        result.engine == engine_choice.MAPPED
        and result.cores > engine_mapped.MAX_THREADS
    ):
        return (
            f"one process stops scaling near {engine_mapped.MAX_THREADS} threads: feed"
            " the replicas through several input pipelines (one process each), or try"
            " --engine=graph"
        )
    # Half of the free memory, which leaves the training its own share.
    fits = decoded_bytes < resources.available_bytes() // 2
    cache = (
        f"--cache=decoded ({resources.mib(decoded_bytes)} for this split)"
        if fits
        else f"pixels ({resources.mib(decoded_bytes)}) on a fast disk"
    )
    return {
        "read": "the disk or page cache is slow: use --cache=encoded, or a local SSD",
        "gather": "rows are copied as fast as the memory allows: only a smaller"
        " --image_size helps",
        "parse": "use --engine=mapped, which reads through the index and parses"
        " nothing",
        "decode": "decoding is most of the work: write the records with"
        f" --image_encoding=jpeg at {image_size} px or as raw pixels, or use {cache}",
        "resize": f"write the records at {image_size} px (--image_encoding=jpeg or"
        f" raw), or use {cache}",
        "order": "use a larger --batch_size",
        "batch": "use a larger --batch_size: the cost of a batch is then paid less"
        " often",
        "copy": "the bus to the device is slow: use a smaller --image_size",
    }[result.slowest]
