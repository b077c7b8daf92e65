"""The parts of the check, in the order in which they run.

Each part runs in a process of its own (`part_processes`), because XLA, NCCL and CUDA
can abort a process without an exception, and because some settings of TensorFlow cannot
be changed after its start.
"""

from __future__ import annotations

import dataclasses

from afad_tfdata.measuring import check_settings


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the GPU check.

    Attributes:
      name: The group that ``--parts`` selects, and after a colon, the part within it.
      function: ``module:name`` within this folder; it takes the settings and, if the
        name has a colon, what is after it, and yields rows.
      limit_secs: Time after which its process is ended.
      timed: Whether it measures time, so that nothing else may run next to it.
      min_replicas: How many devices it needs.
      gpu_only: Whether its result has a meaning on GPUs only.
      reads: Whether it needs the data set.
      shares: Whether it may share a process with others if no time is judged.
      in_process: Whether it uses TensorFlow in its own process.
    """

    name: str
    function: str
    limit_secs: int = 120
    timed: bool = False
    min_replicas: int = 1
    gpu_only: bool = False
    reads: bool = False
    shares: bool = True
    in_process: bool = True

    @property
    def group(self) -> str:
        """The name that ``--parts`` selects the part by."""
        return self.name.partition(":")[0]

    @property
    def argument(self) -> str:
        """The argument of the part besides the settings; empty if it has none."""
        return self.name.partition(":")[2]

    def why_not(self, settings: check_settings.CheckSettings) -> str:
        """Why the part cannot run on these devices; empty if it can."""
        if self.gpu_only and not settings.gpus:
            return "there is no GPU among the devices"
        if settings.replicas < self.min_replicas:
            return f"it needs {self.min_replicas} devices, and there is one"
        return ""


MACHINE = Part("machine", "gpus_and_driver:measure")
FACES = Part("faces", "trial_data_set:measure", in_process=False)

# First the parts that show whether results are right, then those that show the speed.
CHECKS = (
    Part("xla", "xla_compilation:measure", 300),
    Part("parity:augmentation", "cpu_parity:measure"),
    Part("parity:step", "cpu_parity:measure"),
    Part("parity:graph", "cpu_parity:measure", reads=True),
    Part("overflow", "float16_overflow:measure"),
    Part(
        "resume",
        "stop_and_continue:measure",
        180,
        reads=True,
        shares=False,
        in_process=False,
    ),
    # Each way gets a process of its own, because a process keeps one strategy for the
    # same devices.
    *(
        Part(
            f"all_reduce:{way}",
            "gradient_sums_and_scaling:sum_over_devices",
            min_replicas=2,
            gpu_only=way == "nccl",
            shares=False,
        )
        for way in ("nccl", "hierarchical", "one_device")
    ),
    *(
        Part(f"steps:{network}", "network_speed:measure", 180, timed=True)
        for network in check_settings.NETWORKS
    ),
    Part("augmentation", "augmentation_cost:measure", timed=True),
    Part("loop", "loop_cost:measure", timed=True),
    Part("input", "input_cost:measure", timed=True, reads=True),
    Part("scaling", "gradient_sums_and_scaling:scale_over_devices", 180, timed=True),
)
GROUPS = tuple(dict.fromkeys(part.group for part in CHECKS))


def find_part(name: str) -> Part:
    """The part of the GPU check with this name."""
    return {part.name: part for part in (MACHINE, FACES, *CHECKS)}[name]


def select_parts(groups: tuple[str, ...]) -> list[Part]:
    """The parts of these groups in order; without a group, all parts."""
    return [part for part in CHECKS if not groups or part.group in groups]
