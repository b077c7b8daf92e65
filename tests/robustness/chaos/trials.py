"""A trial: a directory with a command's inputs, two runs, and how they are judged."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from afad_tfdata.common import preemption
from afad_tfdata.images import drawn_faces
from tests.robustness import forked
from tests.robustness.chaos import commands

NUM_FACES, NUM_PREDICTED = 96, 8
AS_UNDISTURBED = "as without the fault"
_LIMIT_SECS = 600
# A kill at this instant finds a process that has hardly started; earlier is no help.
_EARLIEST_KILL_SECS = 0.02
# Statuses that a command may end with; docs and README name them.
_STATUSES = (0, 1, 2, 75)


@dataclasses.dataclass
class Ended:
    """How a process ended.

    Attributes:
      status: Exit status, or the negative number of the signal that killed it.
      output: Its standard output.
      errors: Its standard error.
      seconds: From start to end.
    """

    status: int
    output: str
    errors: str
    seconds: float

    def __str__(self) -> str:
        return f"status {self.status}, {self.errors.strip()[-1500:]!r}"


class Wrong(Exception):
    """A promise was broken."""


class Process:
    """A running command; its streams are files in the trial's directory.

    Args:
      command: What runs.
      place: The trial's directory.
      name: Part of the names of the stream files.
      *install_faults: Called in the process before the command.
    """

    def __init__(
        self,
        command: commands.Command,
        place: str,
        name: str,
        *install_faults: Callable[[], None],
    ) -> None:
        self._paths = [os.path.join(place, f".{name}.{s}") for s in ("out", "err")]
        self._began = time.monotonic()
        self.pid = forked.start(
            lambda: _run_command(command, place, self._paths, install_faults)
        )

    def has_ended(self) -> bool:
        """Whether it has ended; `wait` can still be called."""
        return forked.has_ended(self.pid)

    def kill(self, number: int) -> None:
        """Sends a signal to it, and not to the processes that it started."""
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Its end; a process that does not end is wrong."""
        try:
            status = forked.wait(self.pid, _LIMIT_SECS)
        except TimeoutError as error:
            raise Wrong(str(error)) from error
        texts = []
        for path in self._paths:
            with open(path, errors="replace") as f:
                texts.append(f.read())
        return Ended(status, *texts, time.monotonic() - self._began)


def _run_command(
    command: commands.Command,
    place: str,
    paths: Sequence[str],
    install_faults: Sequence[Callable[[], None]],
) -> int:
    """The command in this process, as a shell would start it; its exit status."""
    os.chdir(place)
    for number, path in enumerate(paths, 1):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    sys.argv = [command.name, *command.flags]
    module = importlib.import_module(f"afad_tfdata.bin.{command.name}")
    try:
        for install in install_faults:
            install()
        module.run()
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        traceback.print_exc()  # Which `Trial` looks for.
        return 1
    return 0


class Base:
    """What undisturbed runs of all commands leave, and how long they take.

    Attributes:
      directory: Holds ``base``, where they ran, and the trials.
      ends: What `Command.end` returned for each.
      seconds: How long each took.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.ends: dict[commands.Command, Any] = {}
        self.seconds: dict[commands.Command, float] = {}
        home = self.path()
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(
                output_dir=self.path("faces"), num_images=NUM_FACES, seed=3
            )
        )
        os.mkdir(self.path("some"))
        faces = [p for p in commands.files_below(self.path("faces")) if ".jpg" in p]
        for path in faces[:: NUM_FACES // NUM_PREDICTED]:
            shutil.copy(self.path("faces", path), self.path("some"))
        for command in commands.COMMANDS:
            ended = Process(command, home, "base").wait()
            assert ended.status == 0, (command, ended)
            end = command.end(self.path(command.makes), ended.output)
            self.ends[command], self.seconds[command] = end, ended.seconds
            print(f"{command.name}: {ended.seconds:.1f} s", flush=True)
        self._make_half()

    def path(self, *names: str) -> str:
        """A path in the directory of the undisturbed runs."""
        return os.path.join(self.directory, "base", *names)

    def _make_half(self) -> None:
        """A run that was stopped in its second epoch: ``half``."""
        place = os.path.join(self.directory, "stopped")
        os.mkdir(place)
        shutil.copytree(self.path("records"), os.path.join(place, "records"))
        ended = Process(commands.TRAIN, place, "base", lambda: _stop_at_look(6)).wait()
        assert ended.status == 75, ended
        shutil.move(os.path.join(place, "run"), self.path("half"))


def _stop_at_look(number: int) -> None:
    """Asks the training in this process to stop when it looks for the n-th time."""
    look, left = preemption.requested, [number]

    def requested() -> bool:
        left[0] -= 1
        if left[0] == 0:
            preemption.request("SIGTERM")
        return look()

    preemption.requested = requested


class Trial:
    """A directory with the inputs of a command, and what happens in it.

    Attributes:
      place: The directory.
      random: Decides everything that the kind of fault leaves open.
      command: What runs.
      what: The fault in a few words.
      faults: Called in the process before the command.
      during: Called with the process while it runs.
      mend: Called before the second run.
      killed: Statuses of signals that may end the first run.
      early: Seconds after which it is killed; 0 where it is not.
      accept: Judges a first run that ended with status 0 or one of `accepted`; by
        default, status 0 must have the end of an undisturbed run.
      must_fail: Whether status 0 is wrong.
      may_be_silent: Whether no error is expected, because nobody reads it.
    """

    def __init__(
        self, base: Base, number: int, command: commands.Command, rng: random.Random
    ) -> None:
        self.base, self.command, self.random = base, command, rng
        self.place = os.path.join(base.directory, f"trial-{number}")
        self.what = ""
        self.faults: list[Callable[[], None]] = []
        self.during: Callable[[Process], None] = lambda process: None
        self.mend: Callable[[], None] = lambda: None
        self.killed: tuple[int, ...] = ()
        self.accept: Callable[[Ended], None] | None = None
        self.early = 0.0
        self.accepted: tuple[int, ...] = ()
        self.must_fail = self.may_be_silent = False
        os.mkdir(self.place)
        for name in command.needs:
            self.copy_in(name)

    def copy_in(self, name: str, source: str = "") -> None:
        """Copies a directory of the undisturbed runs here, in place of what is here."""
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.base.path(source or name), path)

    def copy_all_in(self) -> None:
        """Copies every directory that the command needs."""
        for name in self.command.needs:
            self.copy_in(name)

    def remove_output(self) -> None:
        """Removes the directory that the command fills."""
        if self.command.makes:
            shutil.rmtree(self.path(self.command.makes), ignore_errors=True)

    def path(self, *names: str) -> str:
        """A path in the trial's directory."""
        return os.path.join(self.place, *names)

    def run(self) -> str:
        """Both runs; how the first one ended, in a word."""
        outcome = self._run_first()
        while outcome == AS_UNDISTURBED and self.early > _EARLIEST_KILL_SECS:
            # The kill came too late: try again, and earlier.
            self.early /= 2
            self.remove_output()
            outcome = self._run_first()
        self.mend()
        if outcome != AS_UNDISTURBED:
            again = Process(self.command, self.place, "second").wait()
            if again.status != 0:
                raise Wrong(f"the second run: {again}")
            self._compare(again, "the second run")
        return outcome

    def check_error(self, ended: Ended) -> None:
        """The last line on standard error must be the command's error.

        `predict` continues after an image that cannot be read; there, the line before
        the last one may be the error, because the summary comes last.
        """
        if "Traceback" in ended.errors:
            raise Wrong(f"a traceback: {ended}")
        if self.may_be_silent and not ended.errors.strip():
            return
        lines = ended.errors.strip().splitlines() or [""]
        kind = "stopped" if ended.status == 75 else "error"
        name = self.command.name.replace("_", "-")
        last = lines[-2:] if self.command is commands.PREDICT else lines[-1:]
        if not any(line.startswith(f"afad-{name}: {kind}: ") for line in last):
            raise Wrong(f"no clear line: {ended}")
        self.what += f"; {lines[-1]}"

    def _run_first(self) -> str:
        process = Process(self.command, self.place, "first", *self.faults)
        try:
            self.during(process)
        finally:
            first = process.wait()
        return self._judge(first)

    def _compare(self, ended: Ended, which: str) -> None:
        """The end must be that of the undisturbed run."""
        found = self.command.end(self.path(self.command.makes), ended.output)
        wanted = self.base.ends[self.command]
        if found != wanted:
            raise Wrong(f"{which} ended differently: {_difference(found, wanted)}")

    def _judge(self, ended: Ended) -> str:
        if "Traceback" in ended.errors:
            raise Wrong(f"a traceback: {ended}")
        if ended.status in self.killed:
            return "killed"
        if ended.status not in _STATUSES:
            raise Wrong(f"an unexpected status: {ended}")
        if ended.status == 0 and self.must_fail:
            raise Wrong("not noticed")
        if self.accept and (ended.status == 0 or ended.status in self.accepted):
            self.accept(ended)
            return f"status {ended.status}, named" if ended.status else "named"
        if ended.status == 0:
            self._compare(ended, "the first run")
            return AS_UNDISTURBED
        if ended.status == 2 and self.command is commands.INSPECT and ended.output:
            if not json.loads(ended.output)["faults"]:
                raise Wrong("status 2 without a fault")
            return "status 2"
        self.check_error(ended)
        return f"status {ended.status}"


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first difference between two nested values, with its place."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted({*found, *wanted}, key=str):
            if found.get(name) != wanted.get(name):
                return _difference(found.get(name), wanted.get(name), f"{where}/{name}")
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        if len(found) != len(wanted):
            return f"{where}: {found} instead of {wanted}"[:1500]
        for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}/{i}")
    return f"{where}: {str(found)[:300]} instead of {str(wanted)[:300]}"
