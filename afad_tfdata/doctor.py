"""The doctor: what works on this machine, and how to get what does not.

What can be tried is tried: a package that is installed, and even imports, may still
have libraries that do not load.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from afad_tfdata import gpu_check
from afad_tfdata.common import (
    compute_capability,
    crc32,
    errors,
    files,
    options,
    remote_files,
    resources,
    tensorflow_io_extra,
    xla,
)
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import check_table
from afad_tfdata.storage import schema, tfds_metadata, tfrecord

_CORE = (
    *("tensorflow", "keras", "numpy", "absl-py", "google-crc32c"),
    *("h5py", "matplotlib", "pillow", "safetensors", "simplejpeg", "tqdm"),
)
# GiB on the disk: records of AFAD take 1 to 2, and each checkpoint of VGG19 with Adam's
# moments 0.3.
_MIN_FREE_GIB = 5.0
# Parts of gpu_check that decide whether results are right, and take seconds each.
_COMPUTING = ("parity", "overflow", "all_reduce")


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Which directory is examined, in addition to the machine."""

    output_dir: str = options.option(
        ".", "Directory that records and runs will be written to; its disk is checked."
    )
    gpu: bool = options.option(
        False,
        "Also compute on the GPUs, in a few minutes: check whether they agree with"
        " the CPU, notice float16 overflows and sum correctly. afad-gpu-check measures"
        " speed, too.",
    )
    devices: str = options.option(
        "",
        "Devices that --gpu tries, such as gpu:0; cpu:2 tries it without a GPU. Without"
        " this flag, all GPUs are tried.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.devices and not self.gpu:
            raise errors.UsageError(
                f"--devices={self.devices} has no effect without --gpu: add it, or"
                " leave --devices out"
            )


class Finding(NamedTuple):
    """What the doctor found in one place: a line of the summary.

    Attributes:
      name: What was looked at.
      works: False for something that is needed and does not work; None for a plain
        fact, or for an extra that is not installed.
      found: What was found.
      advice: How to get it if it does not work; otherwise empty.
    """

    name: str
    works: bool | None
    found: str
    advice: str = ""


def examine(config: DoctorConfig) -> list[Finding]:
    """The doctor's examination; without ``gpu`` it takes as long as TensorFlow's start.

    Raises:
      UsageError: With ``gpu``: there is no such device here.
    """
    return [
        *_examine_machine(config.output_dir),
        *_examine_packages(),
        *_examine_gpus(),
        *_examine_xla(),
        *(_examine_results(config.devices) if config.gpu else ()),
        *_examine_file_systems(),
        *_examine_extras(),
        _examine_weights(),
        _examine_cluster(),
    ]


def summary_text(findings: list[Finding]) -> str:
    """The doctor's findings as lines of text."""
    marks = {True: "ok  ", False: "BAD ", None: "    "}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.works]}{finding.name:<17} {finding.found}")
        if finding.advice:
            lines.append(f"{'':>22}-> {finding.advice}")
    return "\n".join(lines)


def _examine_machine(directory: str) -> Iterator[Finding]:
    """The doctor's findings on Python, cores, memory and free disk."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()}")
    cores = resources.cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("machine", None, f"{cores} usable cores, {memory:.0f} GiB memory")
    try:
        free = shutil.disk_usage(directory).free / 2**30
    except OSError as error:
        advice = "name a directory that exists: --output_dir=DIR"
        yield Finding("disk", False, f"{directory}: {error.strerror}", advice)
        return
    place = os.path.abspath(directory)
    enough = free >= _MIN_FREE_GIB
    advice = "" if enough else "records of AFAD and checkpoints of VGG19 need more"
    yield Finding("disk", enough, f"{free:.0f} GiB free in {place}", advice)


def _examine_packages() -> Iterator[Finding]:
    """The doctor's findings on the packages that every command needs."""
    for name in _CORE:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "missing", f"pip install {name}")
    try:
        version = tuple(int(part) for part in keras.__version__.split(".")[:2])
        if version < (3, 8):
            yield Finding(
                "keras",
                False,
                f"{keras.__version__} has known faults under MirroredStrategy",
                "pip install 'keras>=3.8'",
            )
    except Exception as error:  # A broken install may raise anything.
        advice = "make a fresh environment and install the package there"
        yield Finding("tensorflow", False, errors.one_line(error), advice)


def _examine_gpus() -> Iterator[Finding]:
    """The doctor's findings on the GPUs that TensorFlow sees."""
    try:
        gpus = tf.config.list_physical_devices("GPU")
    except Exception as error:  # TensorFlow itself may not load.
        yield Finding("devices", False, errors.one_line(error))
        return
    if gpus:
        names = [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in gpus
        ]
        yield Finding("gpu", True, f"TensorFlow sees {len(gpus)}: {', '.join(names)}")
        yield from _examine_gpu_build(gpus)
    elif os.path.exists("/proc/driver/nvidia/version"):
        yield Finding(
            "gpu",
            False,
            "the NVIDIA driver is loaded, but TensorFlow sees no GPU",
            "pip install 'afad-tfdata[cuda]' and unset CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Finding("gpu", None, "none: training runs on the CPU")


def _examine_gpu_build(gpus: Sequence[tf.config.PhysicalDevice]) -> Iterator[Finding]:
    """The doctor's findings on whether TensorFlow was built for each GPU."""
    built = list(tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ()))
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability")
        if not capability or not built:
            continue  # Not from NVIDIA, or a build that does not say.
        fits = compute_capability.built_for(capability, built)
        name = "gpu " + gpu.name.rpartition(":")[2]
        found = (
            f"compute capability {capability[0]}.{capability[1]}; TensorFlow"
            f" {tf.__version__} was built for {', '.join(built)}"
        )
        if fits == "kernels":
            yield Finding(name, True, found)
        elif fits == "translated":
            yield Finding(
                name,
                None,
                f"{found}, and translates its kernels at the first use",
                "the first step takes minutes; a newer TensorFlow may have kernels for"
                " it: pip install --upgrade 'tensorflow[and-cuda]'",
            )
        else:
            yield Finding(
                name,
                False,
                found,
                "a newer TensorFlow: pip install --upgrade 'tensorflow[and-cuda]'; or"
                " train on other devices: --devices=cpu",
            )


def _examine_xla() -> Iterator[Finding]:
    """The doctor's finding on whether XLA compiles here."""
    try:
        reason = xla.why_not()
    except Exception as error:  # TensorFlow itself may not load.
        reason = errors.one_line(error)
    if not reason:
        yield Finding("xla", True, "compiles for the device that trains")
        return
    yield Finding(
        "xla",
        None,
        f"does not compile here: {reason}",
        "training works without it (slower augmentation); do not use --jit or"
        " --augment=form=gather",
    )


def _examine_results(devices: str) -> Iterator[Finding]:
    """The doctor's short GPU check: whether results are right, without speed."""
    with tempfile.TemporaryDirectory(prefix="afad-doctor-") as directory:
        result = gpu_check.check(
            gpu_check.GpuCheckConfig(
                output_dir=directory, devices=devices, parts=_COMPUTING, sizes="tiny"
            )
        )
    works = {check_table.MET: True, check_table.MISSED: False}
    for row in result.found:
        if row.part.partition(":")[0] in _COMPUTING:
            found = f"{row.name}: {row.measured or row.why}"
            advice = ""
            if row.verdict == check_table.MISSED:
                advice = f"wanted: {row.target}. {row.why}".strip()
            yield Finding(row.part, works.get(row.verdict), found, advice)


def _examine_file_systems() -> Iterator[Finding]:
    """The doctor's finding on the remote file systems that TensorFlow opens."""
    try:
        # tensorflow-io adds to them, where it is installed and loads.
        tensorflow_io_extra.why_no_scheme("s3")
        found = ", ".join(
            f"{name}://" for name in tensorflow_io_extra.registered_schemes()
        )
    except Exception as error:  # TensorFlow itself may not load.
        yield Finding("file systems", False, errors.one_line(error))
        return
    yield Finding("file systems", True, f"local paths, {found}")


def _examine_extras() -> Iterator[Finding]:
    """The doctor's findings on the optional extras, each of which it tries."""
    for extra, (trial, purpose) in _EXTRAS.items():
        try:
            with warnings.catch_warnings():
                # Warnings of other packages would be printed between the findings.
                warnings.simplefilter("ignore")
                reason = trial()
        except Exception as error:  # A broken installation may raise anything.
            reason = errors.one_line(error) or type(error).__name__
        if not reason:
            yield Finding(f"extra {extra}", True, purpose)
            continue
        command = f"pip install 'afad-tfdata[{extra}]'"
        if extra == "io":
            command = tensorflow_io_extra.install_command()
        yield Finding(
            f"extra {extra}", None, f"not usable: {reason}", f"for {purpose}: {command}"
        )


def _try_fast() -> str:
    """Tries the extra ``fast`` for the doctor."""
    cv2 = importlib.import_module("cv2")
    cv2.resize(np.zeros((4, 4, 3), np.uint8), (2, 2))
    if crc32.LIBRARY == "zlib":
        return "neither isal nor zlib-ng loads, and checksums are slower"
    return ""


def _try_io() -> str:
    """Tries the extra ``io`` for the doctor."""
    return tensorflow_io_extra.why_no_scheme("s3") or tensorflow_io_extra.why_no_hdf5()


def _try_tensorboard() -> str:
    """Tries the extra ``tensorboard`` for the doctor."""
    # The command tensorboard starts like this; importing the package alone loads
    # almost nothing.
    importlib.import_module("tensorboard.default").get_plugins()
    return ""


def _try_tfds() -> str:
    """Tries the extra ``tfds`` for the doctor, with a data set of one image."""
    tfds = importlib.import_module("tensorflow_datasets")
    name = "doctor-train.tfrecord-00000-of-00001"
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, name)
        image = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()
        record = tfrecord.encode_record(
            image,
            image_format="png",
            height=2,
            width=2,
            filename=b"face.png",
            sha256=bytes(32),
            age=30,
            gender=1,
        )
        files.write_atomic(path, record.data, durable=False)
        shard = schema.Shard(name, 1, len(record.data), sha256="")
        manifest = schema.Manifest(
            name="doctor",
            format="tfrecord",
            image_encoding="original",
            image_size=2,
            config={},
            class_names=("male", "female"),
            gender_codes={},
            resize={},
            pixel={},
            mean={},
            found=1,
            written=1,
            rejected=0,
            passed_over=0,
            splits={"train": schema.Split(1, (shard,), shard, {})},
        )
        tfds_metadata.write(directory, manifest)
        builder = tfds.builder_from_directory(directory)
        ages = [
            int(example["label"]["age"])
            for example in tfds.as_numpy(builder.as_dataset(split="train"))
        ]
    return "" if ages == [30] else f"it reads the ages {ages} instead of [30]"


def _try_imports(*modules: str) -> Callable[[], str]:
    """A trial of the doctor that imports the modules of an extra."""

    def trial() -> str:
        """Imports the modules; an error says what is missing."""
        for module in modules:
            importlib.import_module(module)
        return ""

    return trial


# For each extra: a trial that returns nothing or the reason why it does not work, and
# what the extra is for.
_EXTRAS: dict[str, tuple[Callable[[], str], str]] = {
    "fast": (_try_fast, "the mapped input engine and fast writing"),
    "remote": (
        lambda: remote_files.why_no_fsspec("s3") or remote_files.why_no_fsspec("gs"),
        "copies to and from s3:// and gs:// on any TensorFlow",
    ),
    "io": (_try_io, "s3:// paths and compressed HDF5 in the graph engine"),
    "tensorboard": (
        _try_tensorboard,
        "showing the events that training writes",
    ),
    "beam": (_try_imports("apache_beam"), "write_records on Apache Beam"),
    "tfds": (_try_tfds, "opening the records with TFDS"),
    "croissant": (
        _try_imports("mlcroissant", "pyarrow"),
        "loading records through Croissant",
    ),
    "faces": (_try_imports("mtcnn"), "finding faces in photos (--find_faces)"),
    "keras-hub": (
        _try_imports("keras_hub"),
        "networks of keras-hub, such as ViT (--backbone=keras_hub:PRESET)",
    ),
    "export": (
        _try_imports(
            *("tf2onnx.convert", "onnxruntime", "tf_keras"),
            "ai_edge_litert.interpreter",
        ),
        "ONNX files, the check of TFLite files by LiteRT, and models of Keras 2",
    ),
}


def _examine_weights() -> Finding:
    """The doctor's finding on the backbone weights that Keras has downloaded."""
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    directory = os.path.join(os.path.expanduser(home), "models")
    try:
        found = sorted(name for name in os.listdir(directory) if name.endswith(".h5"))
    except OSError:
        found = []
    if found:
        return Finding("weights", True, f"in {directory}: {', '.join(found)}")
    return Finding(
        "weights",
        None,
        f"no ImageNet weights in {directory}",
        "the first training with --weights=imagenet downloads them; without a network,"
        " copy the files there or train with --weights=FILE",
    )


def _examine_cluster() -> Finding:
    """The doctor's finding on whether ``TF_CONFIG`` or Slurm describes machines."""
    for variable in ("TF_CONFIG", "SLURM_JOB_ID"):
        if os.environ.get(variable):
            return Finding("cluster", None, f"{variable} is set")
    return Finding("cluster", None, "neither TF_CONFIG nor a Slurm allocation is set")
