"""Runs the parts, each in a process of its own with a time limit, and collects rows.

Whatever happens to a process, it becomes a row of the table: an abort, an error, or the
end of its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from afad_tfdata.common import child_process, xla
from afad_tfdata.measuring import check_settings, part_list, row_verdicts

# A part cannot do anything useful in less time.
_LEAST_SECS = 5.0
# If no time is judged, the machine may be busy with other things: the limits of the
# parts are then this many times as long.
_PATIENCE = 3

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs parts until a deadline.

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
    ) -> list[row_verdicts.Row]:
        """Runs the parts; those that measure time run alone, after the others.

        If no time is judged, parts share processes: starting TensorFlow would take
        most of the time.

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
                    executor.submit(self.run, group, settings) for group in together
                ]
                found = [row for future in waiting for row in future.result()]
            except BaseException:  # Ctrl-C too: the threads wait for their processes.
                self._stop()
                raise
        for group in alone:
            found += self.run(group, settings)
        order = {part.name: i for i, part in enumerate(chosen)}
        return sorted(found, key=lambda row: order[row.part])

    def run(
        self, group: Sequence[part_list.Part], settings: check_settings.CheckSettings
    ) -> list[row_verdicts.Row]:
        """Runs parts one after another in one process, and returns their rows."""
        found, able = [], []
        for part in group:
            if reason := part.why_not(settings):
                row = row_verdicts.not_applicable("the part itself", reason)
                found.append(dataclasses.replace(row, part=part.name))
            else:
                able.append(part)
        left = self._deadline - time.monotonic()
        patience = _PATIENCE if settings.unjudged else 1
        limit = min(left, patience * sum(part.limit_secs for part in able))
        if able and limit >= _LEAST_SECS:
            found += self._measured(able, settings, limit)
        done = {row.part for row in found}
        late = "the time of --minutes was used up before it began"
        if limit >= _LEAST_SECS:
            late = "the process of several parts ended before it began"
        for part in group:
            if part.name not in done:
                row = row_verdicts.failed(late, measured="not run")
                found.append(dataclasses.replace(row, part=part.name))
        return found

    def _measured(
        self,
        group: Sequence[part_list.Part],
        settings: check_settings.CheckSettings,
        limit: float,
    ) -> list[row_verdicts.Row]:
        """Runs parts in one process; returns their rows."""
        began = time.monotonic()
        names = [part.name for part in group]
        path = os.path.join(settings.work_dir, names[0].replace(":", "-"))
        command = child_process.command(
            "afad_tfdata.measuring.part_main:main",
            *(",".join(names), settings.to_json(), f"{path}.jsonl", f"{limit:.0f}"),
        )
        with open(f"{path}.log", "wb") as log:
            end = self._wait(command, log.fileno(), limit)
        result = [row_verdicts.Row(**value) for value in _values(f"{path}.jsonl")]
        if end:
            with open(f"{path}.log", encoding="utf-8", errors="replace") as log_text:
                last = xla.fatal_line(log_text.read())
            # The part that ran is the one with the last row, or the one after it.
            part = result[-1].part if result else names[0]
            row = row_verdicts.failed(last, measured=end)
            result.append(dataclasses.replace(row, part=part))
        seconds = time.monotonic() - began
        _log.info("%s: %d row(s) in %.0f s", ", ".join(names), len(result), seconds)
        return result

    def _wait(self, command: list[str], log: int, limit: float) -> str:
        """Runs a process; returns nothing, or how it ended if it did not end well."""
        with self._lock:
            if self._stopped:
                return "not run"
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # It forms a group with its own children, which is ended as a whole.
                start_new_session=True,
            )
            self._running.add(process)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended after {limit:.0f} s, its time limit"
        finally:
            _end(process)
            self._running.discard(process)
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}" if status else ""

    def _stop(self) -> None:
        """Ends the processes that run, and lets no other begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _end(process)


def _end(process: subprocess.Popen) -> None:
    """Kills a process that runs a part, with its children."""
    with contextlib.suppress(OSError):  # The group has no processes left.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _values(path: str) -> Iterator[dict[str, Any]]:
    """The rows that a process wrote; an abort may have cut the last line."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
