"""The machine: driver, GPUs, and what this TensorFlow was built for."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from afad_tfdata.common import compute_capability, files, resources
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.measuring import check_settings, check_table
from afad_tfdata.training.distributed import strategies

# The file in which this part leaves what the other parts need to know.
FACTS = "machine.json"
_DRIVER = "/proc/driver/nvidia/version"
_QUERY = "index,name,driver_version,compute_mode,memory.total,memory.used"
# Variables that change how TensorFlow uses a GPU.
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_FORCE_GPU_ALLOW_GROWTH"),
    *("TF_GPU_ALLOCATOR", "TF_GPU_THREAD_MODE", "TF_GPU_THREAD_COUNT", "TF_XLA_FLAGS"),
    *("XLA_FLAGS", "TF_DETERMINISTIC_OPS", "NCCL_P2P_DISABLE", "NCCL_DEBUG"),
)


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Names the machine's GPUs, driver and software, which other rows depend on."""
    yield check_table.fact(
        "software",
        f"TensorFlow {tf.__version__}, Keras {keras.__version__},"
        f" Python {platform.python_version()}",
    )
    yield check_table.fact(
        "host", f"{resources.cores()} usable cores, {_processor_name()}"
    )
    devices = strategies.device_names(",".join(settings.devices))
    gpus = [_describe_gpu(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    smi = _nvidia_smi()
    used = [gpus[int(n[4:])] for n in devices if n.startswith("GPU")]
    facts = {
        "devices": [name.lower() for name in devices],
        "gpus": used,
        "all_gpus": len(gpus),
        # Whether a GPU takes only one process at a time.
        "exclusive": any("Exclusive" in line for line in smi),
        "tensorflow": tf.__version__,
        "driver": _driver_version(),
    }
    files.write_json(os.path.join(settings.work_dir, FACTS), facts)
    yield check_table.fact("devices", ", ".join(facts["devices"]))
    yield from _gpu_rows(facts, smi)
    found = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    yield check_table.fact(
        "environment", ", ".join(found) or "no variable that matters"
    )


def _gpu_rows(facts: dict[str, Any], smi: list[str]) -> Iterator[check_table.Row]:
    """The GPU check's rows about the driver and the GPUs."""
    if not facts["gpus"]:
        yield check_table.not_applicable("driver", "there is no GPU among the devices")
        return
    yield check_table.fact("driver", facts["driver"] or "unknown")
    build = tf.sysconfig.get_build_info()
    versions = (build.get(f"{name}_version", "?") for name in ("cuda", "cudnn"))
    yield check_table.fact("built with", "CUDA {}, cuDNN {}".format(*versions))
    built = list(build.get("cuda_compute_capabilities", ()))
    for gpu in facts["gpus"]:
        capability = tuple(gpu["capability"])
        fits = compute_capability.built_for(capability, built)
        yield check_table.holds(
            f"{gpu['name']} {gpu['card']}",
            fits == "kernels",
            target="TensorFlow contains code for its compute capability",
            measured=f"{'.'.join(map(str, capability))}, built for {', '.join(built)}",
            why="its code is translated at the first use, which takes minutes"
            if fits
            else "install a newer TensorFlow",
        )
    for line in smi:
        yield check_table.fact("nvidia-smi", line)


def _describe_gpu(device: tf.config.PhysicalDevice) -> dict[str, Any]:
    """Name, card and compute capability of a GPU, for the GPU check."""
    details = tf.config.experimental.get_device_details(device)
    return {
        "name": "gpu:" + device.name.rpartition(":")[2],
        "card": details.get("device_name", "unknown"),
        "capability": list(details.get("compute_capability", (0, 0))),
    }


def _driver_version() -> str:
    """Version of the NVIDIA driver for the GPU check; empty if none is loaded."""
    try:
        with open(_DRIVER) as file:
            match = re.search(r"Module\s+(?:for\s+\S+\s+)?([\d.]+)", file.read())
    except OSError:
        return ""
    return match[1] if match else ""


def _nvidia_smi() -> list[str]:
    """A line of ``nvidia-smi`` on each GPU, for the GPU check; none if it fails."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _processor_name() -> str:
    """The name of the processor next to the GPUs, for the GPU check."""
    try:
        with open("/proc/cpuinfo") as file:
            match = re.search(r"^model name\s*: (.+)$", file.read(), re.M)
    except OSError:
        match = None
    return match[1] if match else platform.machine()
