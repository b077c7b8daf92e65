"""The doctor: what works on this machine, and how to get what does not."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from afad_tfdata.common import errors, options, resources
from afad_tfdata.common.lazy_imports import keras, tf

_CORE = (
    *("tensorflow", "keras", "numpy", "absl-py", "google-crc32c"),
    *("h5py", "matplotlib", "pillow", "simplejpeg", "tqdm"),
)
# GiB on the disk: records of AFAD take 1 to 2, and each checkpoint of VGG19 with Adam's
# moments 0.3.
_MIN_FREE_GIB = 5.0
# For each extra: what to import, and what it is for.
_EXTRAS = {
    "fast": (
        ("cv2",),
        "the mapped input engine and fast writing",
    ),
    "io": (("tensorflow_io",), "s3:// paths and compressed HDF5 in the graph engine"),
    "beam": (("apache_beam",), "write_records on Apache Beam"),
    "tfds": (("tensorflow_datasets",), "opening the records with TFDS"),
    "export": (("tf2onnx", "onnxruntime"), "ONNX files next to the frozen graph"),
}


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Which directory is looked at, in addition to the machine."""

    output_dir: str = options.option(
        ".", "Directory that records and runs will be written to; its disk is checked."
    )


class Finding(NamedTuple):
    """One line of the summary.

    Attributes:
      name: What was looked at.
      works: False for something that is needed and does not work; None for a plain
        fact, or for an extra that is not installed.
      found: What was seen.
      advice: How to get it if it does not work; else empty.
    """

    name: str
    works: bool | None
    found: str
    advice: str = ""


def examine(config: DoctorConfig) -> list[Finding]:
    """Looks at everything; takes as long as importing TensorFlow does."""
    return [
        *_machine(config.output_dir),
        *_core(),
        *_devices(),
        *_extras(),
        _weights(),
        _cluster(),
    ]


def summary(findings: list[Finding]) -> str:
    """The findings as lines of text."""
    marks = {True: "ok  ", False: "BAD ", None: "    "}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.works]}{finding.name:<14} {finding.found}")
        if finding.advice:
            lines.append(f"{'':>19}-> {finding.advice}")
    return "\n".join(lines)


def _machine(directory: str) -> Iterator[Finding]:
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


def _core() -> Iterator[Finding]:
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


def _devices() -> Iterator[Finding]:
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
    elif os.path.exists("/proc/driver/nvidia/version"):
        yield Finding(
            "gpu",
            False,
            "the NVIDIA driver is loaded, but TensorFlow sees no GPU",
            "pip install 'afad-tfdata[cuda]' and unset CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Finding("gpu", None, "none: training runs on the CPU")


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in _EXTRAS.items():
        try:
            for module in modules:
                errors.require(module, extra=extra, purpose=purpose)
            yield Finding(f"extra {extra}", True, purpose)
        except errors.UsageError as error:
            yield Finding(
                f"extra {extra}",
                None,
                f"not usable: {error.__cause__}",
                f"for {purpose}: pip install 'afad-tfdata[{extra}]'",
            )


def _weights() -> Finding:
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


def _cluster() -> Finding:
    for variable in ("TF_CONFIG", "SLURM_JOB_ID"):
        if os.environ.get(variable):
            return Finding("cluster", None, f"{variable} is set")
    return Finding("cluster", None, "neither TF_CONFIG nor a Slurm allocation is set")
