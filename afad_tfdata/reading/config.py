"""The options of the input pipeline."""

from __future__ import annotations

import dataclasses

from afad_tfdata.common import errors, options
from afad_tfdata.reading import data_service
from afad_tfdata.storage import schema

ENGINES = ("auto", "mapped", "graph")
CACHES = ("none", "encoded", "decoded")
BALANCES = ("none", "gender", "age")


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """What to read, in which order, and how.

    Attributes:
      records_dir: Directory that ``write_records`` filled.
      task: One of `schema.TASKS`: which labels must be there, and which the
        ``as_supervised`` form carries.
      global_batch_size: Examples of a step over all replicas.
      image_size: Side of the images, pixels; 0 for the data set's.
      seed: Of the order; any 64-bit integer.
      balance: Whether training draws every gender or every age equally often.
      engine: Who reads and decodes; ``auto`` chooses and says why.
      cache: What is kept in memory: nothing, the encoded bytes, or the pixels.
      cache_dir: Local directory in which remote shards are kept (`shard_cache`).
      cache_dir_gib: Most that it may hold, GiB; 0 for what is free on its disk.
      max_bad_records: Damaged records that are passed over; one more is an error.
      verify: Whether each record's checksum is checked when it is first read.
      as_supervised: Elements ``(image, label, sample_weight)`` for ``model.fit``.
      num_parallel_calls: Batches that are made at the same time; 0: one for each core.
      prefetch: Batches that wait ready.
      memory_budget_mib: Most that the graph engine holds for a global shuffle, MiB;
        0 for half of what is free.
      shuffle_window: Records that it shuffles among where they do not fit.
      data_service: Dispatcher of a ``tf.data`` service that training batches come from.
      files: Files that another program wrote, instead of `records_dir`.
      features: What their features are called.
      mean_file: JSON with their channel means; `as_supervised` needs it.
    """

    records_dir: str = options.option("", "Data set that write_records made.")
    task: str = options.option("age_gender", "What is learnt.", choices=schema.TASKS)
    global_batch_size: int = options.option(128, "Images of a step over all devices.")
    image_size: int = options.option(
        0, "Side of the images in pixels; 0: the data set's."
    )
    seed: int = options.option(1, "Of the order of examples.")
    balance: str = options.option(
        "none", "Draw every gender or age equally often.", choices=BALANCES
    )
    engine: str = options.option(
        "auto",
        "mapped: memory-mapped shards, simplejpeg and OpenCV; graph: TensorFlow"
        " operations only; auto: the faster one that works here.",
        choices=ENGINES,
    )
    cache: str = options.option(
        "none", "What is kept in memory after it was read.", choices=CACHES
    )
    cache_dir: str = options.option(
        "",
        "Local directory for the shards of a remote --records_dir, for the mapped"
        " engine; checked by SHA-256 and shared by the processes of a machine.",
    )
    cache_dir_gib: float = options.option(
        0.0, "Most that --cache_dir may hold, GiB; 0: what is free on its disk."
    )
    max_bad_records: int = options.option(
        0, "Damaged records that are passed over, counted and listed."
    )
    verify: bool = options.option(
        True, "Check each record's checksum when it is first read."
    )
    as_supervised: bool = options.option(
        False, "Elements (image, label, weight) for model.fit.", flag=False
    )
    num_parallel_calls: int = options.option(
        0, "Batches made at the same time; 0: one for each core."
    )
    prefetch: int = options.option(2, "Batches that wait ready.")
    memory_budget_mib: int = options.option(
        0,
        "Most that the graph engine holds in memory for a global shuffle, MiB;"
        " 0: half of what is free.",
    )
    shuffle_window: int = options.option(
        16_384, "Records that the graph engine shuffles among where they do not fit."
    )
    data_service: str = options.option(
        "",
        "grpc://HOST:PORT of the dispatcher that afad-data-service runs: training"
        " batches are read there, in no order that could be repeated.",
    )
    files: str = options.option(
        "",
        "TFRecord or HDF5 files of another program instead of --records_dir: paths or"
        " patterns, separated by commas; {split} stands for the split's name.",
    )
    features: str = options.option(
        "",
        "Names of the features in --files, such as"
        " image=image/encoded,age=label/age,gender=label/gender.",
    )
    mean_file: str = options.option(
        "", 'JSON {"R":, "G":, "B":} with the channel means of --files.'
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if bool(self.records_dir) == bool(self.files):
            came = "both" if self.files else "neither"
            raise errors.UsageError(
                f"wanted --records_dir or --files, one of them; got {came}"
            )
        if self.data_service:
            data_service.parse(self.data_service)
            for name, value in (
                ("engine=mapped", self.engine == "mapped"),
                ("cache", self.cache != "none"),
                ("balance", self.balance != "none"),
                ("max_bad_records", self.max_bad_records > 0),
            ):
                if value:
                    raise errors.UsageError(
                        f"--data_service reads shards in turn by TensorFlow operations:"
                        f" leave --{name} out"
                    )
        for name in ("features", "mean_file"):
            if getattr(self, name) and not self.files:
                raise errors.UsageError(
                    f"--{name} describes --files; a data set in --records_dir has it"
                    " in its manifest"
                )
        for name, low, high in (
            ("global_batch_size", 1, 1 << 20),
            ("image_size", 0, 4096),
            ("seed", -(1 << 63), (1 << 63) - 1),
            ("max_bad_records", 0, 1 << 31),
            ("cache_dir_gib", 0, 1 << 31),
            ("num_parallel_calls", 0, 1024),
            ("prefetch", 0, 1024),
            ("memory_budget_mib", 0, 1 << 31),
            ("shuffle_window", 1, 1 << 31),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise errors.UsageError(
                    f"--{name} must lie between {low} and {high}; got {value}"
                )
