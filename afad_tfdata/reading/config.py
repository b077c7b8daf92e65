"""The options of the input pipeline."""

from __future__ import annotations

import dataclasses

from afad_tfdata.common import errors, files, options
from afad_tfdata.images import codec
from afad_tfdata.reading import data_service
from afad_tfdata.storage import schema

ENGINES = ("auto", "mapped", "graph")
CACHES = ("none", "encoded", "decoded")
BALANCES = ("none", "gender", "age")

_ONE_SOURCE = "wanted --records_dir or --files, one of them; got {}"


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """What to read, in which order, and how."""

    records_dir: str = options.option(
        "",
        "Directory of the data set that afad-write-records wrote. If you name several"
        " directories, separated by commas, their data sets are read as one.",
    )
    max_examples: int = options.option(
        0,
        "Use at most this number of examples of each split, for a first try. The"
        " first examples of the split are used; they are a random sample. 0 means all"
        " examples.",
    )
    task: str = options.option(
        "age_gender",
        "Which labels the network learns; the data set must have them.",
        choices=schema.TASKS,
    )
    global_batch_size: int = options.option(
        128, "Number of images in one step, over all devices."
    )
    image_size: int = options.option(
        0, "Side of the square images in pixels; 0 means the size of the data set."
    )
    seed: int = options.option(
        1, "Seed of the order of the examples; any 64-bit integer."
    )
    balance: str = options.option(
        "none",
        "Draw every gender, or every age, equally often in training; none draws every"
        " example once an epoch.",
        choices=BALANCES,
    )
    engine: str = options.option(
        "auto",
        "Which input engine reads the records: mapped uses memory-mapped shards,"
        " simplejpeg and OpenCV; graph uses TensorFlow operations only; auto takes the"
        " faster one that works here and logs the reason.",
        choices=ENGINES,
    )
    decode: str = options.option(
        "accurate",
        "How JPEGs are decoded: accurate gives the pixels that most programs show; fast"
        " uses libjpeg-turbo's fast DCT and upsampling, whose pixels differ by about"
        " one level of 255. The run, its models and graphs record the choice and repeat"
        " it.",
        choices=codec.DECODES,
    )
    cache: str = options.option(
        "none",
        "What is kept in memory after it is read: nothing, the encoded images, or the"
        " decoded pixels.",
        choices=CACHES,
    )
    cache_dir: str = options.option(
        "",
        "Local directory for copies of the shards of a remote --records_dir, which the"
        " mapped engine can read. The copies are checked by SHA-256, and the processes"
        " of a machine share them. Without this flag, shards are copied only if"
        " TensorFlow cannot read them, to a directory in the user's cache.",
    )
    cache_dir_gib: float = options.option(
        0.0,
        "Largest size of --cache_dir in GiB; 0 leaves a tenth of the free space on its"
        " disk.",
    )
    max_bad_records: int = options.option(
        0,
        "Largest number of damaged records. Up to this number, they are skipped,"
        " counted and listed; one more is an error.",
    )
    verify: bool = options.option(
        True, "Check the checksum of each record when it is read for the first time."
    )
    as_supervised: bool = options.option(
        False,
        "Elements are (image, label) for model.fit, and images are normalised.",
        flag=False,
    )
    num_parallel_calls: int = options.option(
        0,
        "Number of batches that are built at the same time; 0 means one for each core.",
    )
    prefetch: int = options.option(2, "Number of finished batches that are kept ready.")
    memory_budget_mib: int = options.option(
        0,
        "Largest amount of memory, in MiB, that the graph engine uses for a global"
        " shuffle; 0 means half of the free memory.",
    )
    shuffle_window: int = options.option(
        16_384,
        "Number of records that the graph engine shuffles at a time if a global"
        " shuffle does not fit into --memory_budget_mib.",
    )
    data_service: str = options.option(
        "",
        "Address grpc://HOST:PORT of the dispatcher that afad-data-service runs. The"
        " training batches then come from its data servers, in an order that cannot be"
        " repeated.",
    )
    files: str = options.option(
        "",
        "TFRecord or HDF5 files of another program, instead of --records_dir: paths or"
        " patterns, separated by commas; {split} is replaced by the split's name.",
    )
    features: str = options.option(
        "",
        "Names of the features in --files, such as"
        " image=image/encoded,age=label/age,gender=label/gender. age=NAME+15 reads"
        " class numbers of which 0 means 15 years, NAME[1] reads the second of several"
        " values, and pixels=0..1 gives the values of black and white in HDF5.",
    )
    mean_file: str = options.option(
        "",
        'JSON file {"R":, "G":, "B":} with the channel means of the images in --files,'
        " in [0, 255]; normalised images need it.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        # A config may name neither: a training on a caller's own data needs none.
        if self.records_dir and self.files:
            raise errors.UsageError(_ONE_SOURCE.format("both"))
        if self.data_service:
            data_service.parse_address(self.data_service)
            # Data servers read whole shards by TensorFlow operations.  They cannot draw
            # single records, and they cannot share a list of bad records.
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
        if files.is_remote(self.cache_dir):
            raise errors.UsageError(
                f"--cache_dir={self.cache_dir} is not a local directory: name one on a"
                " disk of this machine"
            )
        # The upper limits catch typing errors before memory is allocated.  The seed is
        # limited to the int64 that TensorFlow's stateless operations take.
        for name, low, high in (
            ("global_batch_size", 1, 1 << 20),
            ("image_size", 0, 4096),
            ("seed", -(1 << 63), (1 << 63) - 1),
            ("max_bad_records", 0, 1 << 31),
            ("max_examples", 0, 1 << 31),
            ("cache_dir_gib", 0, 1 << 31),
            ("num_parallel_calls", 0, 1024),
            ("prefetch", 0, 1024),
            ("memory_budget_mib", 0, 1 << 31),
            ("shuffle_window", 1, 1 << 31),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise errors.UsageError(
                    f"--{name} must be between {low} and {high}; got {value}"
                )

    def check_source(self) -> None:
        """Raises `UsageError` if the config names nothing to read."""
        if not (self.records_dir or self.files):
            raise errors.UsageError(_ONE_SOURCE.format("neither"))
