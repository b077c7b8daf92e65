"""One table of how well training works on this machine's GPUs.

Each part runs in a process of its own with a time limit
(`measuring.part_processes`), so that an abort of one is a row of the table::

    result = gpu_check.check(gpu_check.GpuCheckConfig(output_dir="gpu_check"))
    print(result.text())

On a CPU the parts run with small sizes, which shows only that the check itself works.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import tempfile
from typing import Any

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    gpus_and_driver,
    part_list,
    part_processes,
)

# How many of the parts that measure no time run at once; only one runs if a GPU takes a
# single process.
_JOBS = 3
_SIZES = ("auto", "full", "tiny")


@dataclasses.dataclass(frozen=True)
class GpuCheckConfig:
    """What is tried, and where the results go."""

    output_dir: str = options.option(
        "gpu_check",
        "Directory for gpu_check.json, gpu_check.md and the logs of the parts.",
    )
    devices: str = options.option(
        "",
        "Devices to check, such as gpu:0,gpu:1; cpu:2 tries the check itself on two"
        " logical CPU devices. Without this flag, all GPUs are checked.",
    )
    parts: tuple[str, ...] = options.option(
        (),
        f"Which parts run: {', '.join(part_list.GROUPS)}. Without this flag, all run.",
    )
    sizes: str = options.option(
        "auto",
        "Sizes of images, batches and timings. full: AFAD's 150 pixels. tiny: takes"
        " seconds, but its times mean nothing. auto: full on GPUs, and tiny on a CPU.",
        choices=_SIZES,
    )
    minutes: float = options.option(
        8.0, "Number of minutes after which parts that have not ended are stopped."
    )
    data_dir: str = options.option(
        "",
        "Folder of faces, filed as AGE/GENDER/IMAGE, for the parts that read records;"
        " without this flag, faces are drawn.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        unknown = [name for name in self.parts if name not in part_list.GROUPS]
        if unknown:
            raise errors.UsageError(
                f"--parts takes {', '.join(part_list.GROUPS)}; got {unknown[0]!r}"
            )
        if not 0 < self.minutes <= 24 * 60:
            raise errors.UsageError(
                f"--minutes must be above 0 and at most 1440; got {self.minutes:g}"
            )
        if self.data_dir and not os.path.isdir(self.data_dir):
            raise errors.UsageError(
                f"--data_dir={self.data_dir} is not a folder: name one with faces, or"
                " leave the flag out"
            )


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The table of the GPU check, and the facts about the machine.

    Attributes:
      found: All rows, in order.
      facts: What `measuring.gpus_and_driver` found out, and when.
    """

    found: list[check_table.Row]
    facts: dict[str, Any]

    @property
    def missed(self) -> list[check_table.Row]:
        """The rows of the GPU check whose targets are missed."""
        return [row for row in self.found if row.verdict == check_table.MISSED]

    def text(self) -> str:
        """The table of the GPU check for a terminal."""
        return check_table.table_text(self.found)

    def to_dict(self) -> dict[str, Any]:
        """The table of the GPU check as JSON values, as in gpu_check.json."""
        return {**self.facts, "rows": [dataclasses.asdict(row) for row in self.found]}


def check(config: GpuCheckConfig) -> CheckResult:
    """Runs the GPU check, and writes gpu_check.json and gpu_check.md.

    Raises:
      UsageError: The devices do not exist, or the directory cannot be written.
    """
    files.make_dirs(config.output_dir)
    began = datetime.datetime.now(datetime.timezone.utc)
    manager = part_processes.Supervisor(config.minutes)
    with tempfile.TemporaryDirectory(prefix="afad-gpu-check-") as work_dir:
        found, facts = _run_parts(config, manager, work_dir)
        _keep_logs(work_dir, config.output_dir)
    facts["date"] = began.date().isoformat()
    facts["seconds"] = round(
        (datetime.datetime.now(datetime.timezone.utc) - began).total_seconds()
    )
    facts["afad_tfdata"] = __version__
    result = CheckResult(found, facts)
    files.write_json(
        os.path.join(config.output_dir, "gpu_check.json"), result.to_dict()
    )
    files.write_atomic(
        os.path.join(config.output_dir, "gpu_check.md"),
        check_table.markdown_page(found, facts),
    )
    return result


def _run_parts(
    config: GpuCheckConfig, manager: part_processes.Supervisor, work_dir: str
) -> tuple[list[check_table.Row], dict[str, Any]]:
    """The rows of all parts of the GPU check, and the facts about the machine."""
    asked = tuple(config.devices.replace(" ", "").lower().split(","))
    if re.fullmatch(r"cpu(:[1-9]\d*)?", ",".join(asked)):
        # Nothing about the machine changes what runs, so that the part about it can
        # share a process.
        tiny, jobs = config.sizes != "full", _JOBS
        settings = check_settings.settings_for(
            asked, 0, tiny=tiny, work_dir=work_dir, data_dir=_data_dir(config)
        )
        found = _run_chosen(config, manager, settings, [part_list.MACHINE], jobs)
        found.sort(key=lambda row: row.part != part_list.MACHINE.name)
        return found, _facts(work_dir, found)
    first = check_settings.settings_for(asked, 0, tiny=True, work_dir=work_dir)
    found = manager.run_group([part_list.MACHINE], first)
    facts = _facts(work_dir, found)
    gpus = len(facts["gpus"])
    if not gpus and not config.devices:
        raise errors.UsageError(
            "TensorFlow sees no GPU here; afad-doctor shows why, and --devices=cpu:2"
            " tries the check without one"
        )
    settings = check_settings.settings_for(
        tuple(facts["devices"]) if gpus else asked,
        gpus,
        tiny=config.sizes == "tiny" or (config.sizes == "auto" and not gpus),
        work_dir=work_dir,
        data_dir=_data_dir(config),
    )
    jobs = 1 if facts["exclusive"] else _JOBS
    return found + _run_chosen(config, manager, settings, [], jobs), facts


def _data_dir(config: GpuCheckConfig) -> str:
    """The absolute path of ``--data_dir`` of the GPU check; empty to draw faces."""
    return os.path.abspath(config.data_dir) if config.data_dir else ""


def _run_chosen(
    config: GpuCheckConfig,
    manager: part_processes.Supervisor,
    settings: check_settings.CheckSettings,
    others: list[part_list.Part],
    jobs: int,
) -> list[check_table.Row]:
    """The rows of the chosen parts of the GPU check and others, and of their faces."""
    chosen = part_list.select_parts(config.parts)
    found = []
    if any(part.reads for part in chosen):
        found = manager.run_group([part_list.FACES], settings)
    return found + manager.run_all([*others, *chosen], settings, jobs=jobs)


def _facts(work_dir: str, found: list[check_table.Row]) -> dict[str, Any]:
    """What the part of the GPU check about the machine found out.

    Raises:
      UsageError: It failed, because a device does not exist, for example.
    """
    path = os.path.join(work_dir, gpus_and_driver.FACTS)
    if not os.path.exists(path):
        why = next(row for row in found if row.verdict == check_table.MISSED)
        raise errors.UsageError(f"{why.why} ({why.measured})")
    return files.read_json(path, what="facts about the machine", advice="try again")


def _keep_logs(work_dir: str, output_dir: str) -> None:
    """Copies what the parts of the GPU check printed, to explain a failure."""
    directory = os.path.join(output_dir, "logs")
    files.make_dirs(directory)
    for name in sorted(os.listdir(work_dir)):
        if re.fullmatch(r"[\w-]+\.log", name):
            content = files.read_bytes(os.path.join(work_dir, name))
            files.write_atomic(os.path.join(directory, name), content, durable=False)
