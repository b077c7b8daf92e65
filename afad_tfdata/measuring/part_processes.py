"""The processes in which the parts of the check run, each with a time limit.

`Supervisor` starts them and collects their rows; `run_parts` is what they do.  Whatever
happens to a process, it becomes a row of the table: an abort, an error, or the end of
its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

from afad_tfdata.common import (
    child_process,
    errors,
    lazy_imports,
    tensorflow_messages,
)
from afad_tfdata.measuring import check_settings, check_table, part_list
from afad_tfdata.training.distributed import strategies

# A part cannot do anything useful in less time.
_LEAST_SECS = 5.0
# If times are not judged, the machine may be busy with other things: the limits of the
# parts are then this many times as long.
_PATIENCE = 3
# The supervisor ends a process that takes too long.  If the supervisor itself is gone,
# the process ends this many seconds later.
_GRACE_SECS = 10

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs parts of the GPU check in processes until a deadline.

    Args:
      minutes: How long all parts together may take.
    """

    def __init__(self, minutes: float) -> None:
        self._deadline = time.monotonic() + 60 * minutes
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()  # Guards `_running` and `_stopped`.
        self._stopped = False

    def run_all(
        self,
        chosen: Sequence[part_list.Part],
        settings: check_settings.CheckSettings,
        *,
        jobs: int,
    ) -> list[check_table.Row]:
        """Runs the parts; those that measure time run alone, after the others.

        If times are not judged, parts share processes, because starting TensorFlow
        would take most of the time.

        Args:
          chosen: The parts, in the order of their rows.
          settings: For all of them.
          jobs: Number of other parts that may run at the same time.
        """
        together = [[part] for part in chosen if not part.timed]
        alone = [[part] for part in chosen if part.timed]
        if settings.unjudged:
            sharing = [part for part in chosen if part.shares]
            groups = [
                [part for part in sharing if part.timed],
                [part for part in sharing if not part.timed],
                *([part] for part in chosen if not part.shares),
            ]
            together, alone = [group for group in groups if group], []
        with futures.ThreadPoolExecutor(jobs) as executor:
            try:
                waiting = [
                    executor.submit(self.run_group, group, settings)
                    for group in together
                ]
                found = [row for future in waiting for row in future.result()]
            except BaseException:  # Ctrl-C too: the threads wait for their processes.
                self._stop_all()
                raise
        for group in alone:
            found += self.run_group(group, settings)
        order = {part.name: i for i, part in enumerate(chosen)}
        return sorted(found, key=lambda row: order[row.part])

    def run_group(
        self, group: Sequence[part_list.Part], settings: check_settings.CheckSettings
    ) -> list[check_table.Row]:
        """Runs some parts of the check in one process, and returns their rows."""
        found, able = [], []
        for part in group:
            if reason := part.why_not(settings):
                row = check_table.not_applicable("the part itself", reason)
                found.append(dataclasses.replace(row, part=part.name))
            else:
                able.append(part)
        left = self._deadline - time.monotonic()
        patience = _PATIENCE if settings.unjudged else 1
        limit = min(left, patience * sum(part.limit_secs for part in able))
        if able and limit >= _LEAST_SECS:
            found += self._run_process(able, settings, limit)
        done = {row.part for row in found}
        late = "the time of --minutes was used up before it began"
        if limit >= _LEAST_SECS:
            late = "the process of several parts ended before it began"
        for part in group:
            if part.name not in done:
                row = check_table.failed(late, measured="not run")
                found.append(dataclasses.replace(row, part=part.name))
        return found

    def _run_process(
        self,
        group: Sequence[part_list.Part],
        settings: check_settings.CheckSettings,
        limit: float,
    ) -> list[check_table.Row]:
        """Runs the process of some parts; returns their rows."""
        began = time.monotonic()
        names = [part.name for part in group]
        path = os.path.join(settings.work_dir, names[0].replace(":", "-"))
        command = child_process.command(
            "afad_tfdata.measuring.part_processes:run_parts",
            *(",".join(names), settings.to_json(), f"{path}.jsonl", f"{limit:.0f}"),
        )
        with open(f"{path}.log", "wb") as log:
            end = self._wait_for_process(command, log.fileno(), limit)
        result = [check_table.Row(**value) for value in _written_rows(f"{path}.jsonl")]
        if end:
            with open(f"{path}.log", encoding="utf-8", errors="replace") as log_text:
                last = tensorflow_messages.fatal_line(log_text.read())
            # The part that ran is the one with the last row, or the one after it.
            part = result[-1].part if result else names[0]
            row = check_table.failed(last, measured=end)
            result.append(dataclasses.replace(row, part=part))
        seconds = time.monotonic() - began
        _log.info("%s: %d row(s) in %.0f s", ", ".join(names), len(result), seconds)
        return result

    def _wait_for_process(self, command: list[str], log: int, limit: float) -> str:
        """Runs a process of parts; returns how it ended, or nothing if well."""
        with self._lock:
            if self._stopped:
                return "not run"
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The process and its children are one group, which is ended as a whole.
                start_new_session=True,
            )
            self._running.add(process)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended after {limit:.0f} s, its time limit"
        finally:
            _kill_process(process)
            self._running.discard(process)
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}" if status else ""

    def _stop_all(self) -> None:
        """Ends the processes of parts that run, and lets no other begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill_process(process)


def _kill_process(process: subprocess.Popen) -> None:
    """Kills a process that runs parts of the check, with its children."""
    with contextlib.suppress(OSError):  # The group has no processes left.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _written_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows that a process of parts wrote; an abort may have cut the last line."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def run_parts(arguments: list[str]) -> int:
    """Runs parts of the GPU check in this process, which it ends.

    It appends each row to a file as soon as it is known, so that an abort loses only
    what was not measured yet.

    Args:
      arguments: Names of the parts with commas, their settings as JSON, the file for
        the rows, and the number of seconds that they may take.
    """
    names, text, path, limit = arguments
    signal.alarm(int(float(limit)) + _GRACE_SECS)
    lazy_imports.hide_start_lines()
    with open(path, "a", encoding="utf-8") as file:
        for name in names.split(","):
            part = part_list.find_part(name)
            settings = check_settings.settings_from_json(text)
            for row in _rows_of_part(part, settings):
                value = dataclasses.asdict(dataclasses.replace(row, part=name))
                file.write(json.dumps(value) + "\n")
                file.flush()
    # The clean-up of CUDA and NCCL can abort or hang after everything is measured.
    os._exit(0)


def _rows_of_part(
    part: part_list.Part, settings: check_settings.CheckSettings
) -> Iterator[check_table.Row]:
    """The rows of one part of the check; a row of the error if it fails."""
    module, _, function = part.function.partition(":")
    try:
        if part.in_process and not settings.gpus and settings.all_devices:
            # Logical devices can be created only before TensorFlow starts.
            strategies.device_names(settings.all_devices)
        measure = getattr(
            importlib.import_module(f"afad_tfdata.measuring.{module}"), function
        )
        if part.argument:
            yield from measure(settings, part.argument)
        else:
            yield from measure(settings)
    except Exception as error:  # Whatever goes wrong is a row of the table.
        yield check_table.failed(errors.one_line(error) or type(error).__name__)
