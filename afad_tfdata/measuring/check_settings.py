"""What the parts of the check get: the devices, the sizes, and where the faces are."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

# The networks whose steps are timed.
NETWORKS = ("VGG19", "ResNet50", "EfficientNetB0", "small_cnn")


@dataclasses.dataclass(frozen=True)
class CheckSettings:
    """What the GPU check measures, and how long.

    Attributes:
      devices: Names for `strategies.create_strategy`, one for each device: ``gpu:0``
        and so on, or ``cpu``, or ``cpu:N`` for N logical devices of the CPU.
      gpus: Number of GPUs among them; 0 if all are the CPU.
      tiny: Whether the sizes are small, so that the numbers mean nothing and only show
        that everything runs.
      batch: Images of a device's batch.
      image_size: Side of the images, in pixels.
      seconds: Shortest time of one measurement, in seconds.
      rounds: How often ways that are compared take turns.
      work_dir: Directory for everything that is not kept.
      records_dir: Data set of faces; the part `faces` writes it.
      data_dir: Folder of faces that it is written from; empty to draw them.
    """

    devices: tuple[str, ...]
    gpus: int
    tiny: bool
    batch: int
    image_size: int
    seconds: float
    rounds: int
    work_dir: str
    records_dir: str
    data_dir: str

    @property
    def first_device(self) -> str:
        """The device for the parts of the GPU check that need only one."""
        return self.devices[0] if self.gpus else "cpu"

    @property
    def all_devices(self) -> str:
        """All devices of the GPU check, as for ``--devices``."""
        return ",".join(self.devices)

    @property
    def replicas(self) -> int:
        """Number of devices of the GPU check."""
        count = self.devices[0].partition(":")[2]
        # A number that is wrong is refused by the part about the machine.
        return self.gpus or (int(count) if count.isdecimal() and int(count) else 1)

    @property
    def slow_network(self) -> str:
        """The network whose step is compared; a small one if nothing is judged."""
        return "small_cnn" if self.tiny else "VGG19"

    @property
    def networks(self) -> tuple[str, ...]:
        """The GPU check's slow network, and a fast one, which shows other costs."""
        return tuple(dict.fromkeys((self.slow_network, "small_cnn")))

    @property
    def unjudged(self) -> str:
        """Why the GPU check's targets of speed do not count; empty if they do."""
        if not self.gpus:
            return "speed counts on a GPU only"
        return "the sizes are too small for speed to count" if self.tiny else ""

    def to_json(self) -> str:
        """The GPU check's settings as JSON, for the command line of a process."""
        return json.dumps(dataclasses.asdict(self))


def settings_from_json(text: str) -> CheckSettings:
    """The GPU check's settings from what `CheckSettings.to_json` wrote."""
    values: dict[str, Any] = json.loads(text)
    values["devices"] = tuple(values["devices"])
    return CheckSettings(**values)


def settings_for(
    devices: tuple[str, ...],
    gpus: int,
    *,
    tiny: bool,
    work_dir: str,
    data_dir: str = "",
) -> CheckSettings:
    """The GPU check's settings for these devices; the usual sizes are those of AFAD."""
    return CheckSettings(
        devices=devices,
        gpus=gpus,
        tiny=tiny,
        batch=4 if tiny else 128,
        image_size=32 if tiny else 150,
        seconds=0.05 if tiny else 1.5,
        rounds=2 if tiny else 7,
        work_dir=work_dir,
        records_dir=os.path.join(work_dir, "records"),
        data_dir=data_dir,
    )
