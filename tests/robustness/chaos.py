"""Commands under faults: kills, full disks, damaged files, two at once, and more.

    python -m tests.robustness.chaos [--faults=200] [--seed=1] [--minutes=60]
        [--markdown=FILE]

Trial n of a seed is the same fault every time, as far as random instants can be. It
runs a command under the fault and judges the end: as undisturbed, or an exit status of
1, 2 or 75 with one clear line, and nothing silently wrong. Then the fault is mended,
the same command runs again, and must end with the bytes, weights and numbers of a run
that nothing disturbed.

TensorFlow is imported once; every command is a process forked off before TensorFlow
has started its runtime.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("MPLBACKEND", "Agg")

import h5py
import keras  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import tensorflow as tf  # noqa: F401

from afad_tfdata.common import preemption
from afad_tfdata.images import drawn_faces
from afad_tfdata.storage import schema
from afad_tfdata.training import checkpoints
from afad_tfdata.writing import inspection, rejections
from tests.robustness import chaos_faults

NUM_FACES, NUM_PREDICTED = 96, 8
LIMIT_SECS = 600


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the chain, on small inputs.

    Attributes:
      name: Of the program in bin/.
      flags: Its command line; paths are relative to the trial's directory.
      needs: Directories that must be there.
      makes: The directory that it fills; empty for none.
      end: What a run of it ended with, of the trial's directory and standard output;
        equal for equal ends.
      weight: How often it is chosen.
    """

    name: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]
    makes: str
    end: Callable[[str, str], Any]
    weight: int = 4


def _end_of_writing(directory: str, output: str) -> Any:
    from tests.writing import test_records

    del output
    return test_records.digests(directory), sorted(os.listdir(directory))


def _end_of_inspection(directory: str, output: str) -> Any:
    del directory
    return json.loads(output)


def _end_of_training(directory: str, output: str) -> Any:
    del output
    newest = checkpoints.load_newest(os.path.join(directory, "checkpoints"))
    assert newest is not None
    with open(os.path.join(directory, "history.json")) as f:
        history = json.load(f)
    arrays = {name: array.tobytes() for name, array in newest.arrays.items()}
    models = [
        _weights(os.path.join(directory, f"{n}.keras")) for n in ("best", "final")
    ]
    return arrays, newest.state, history, models, _tree(directory)


def _weights(path: str) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(path) as parts:
        content = io.BytesIO(parts.read("model.weights.h5"))
    with h5py.File(content) as f:
        f.visititems(
            lambda name, item: found.update(
                {name: item[()].tobytes()} if isinstance(item, h5py.Dataset) else {}
            )
        )
    return found


def _tree(directory: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _end_of_evaluation(directory: str, output: str) -> Any:
    del output
    with open(os.path.join(directory, "metrics.json")) as f:
        return json.load(f), _tree(directory)


def _end_of_freezing(directory: str, output: str) -> Any:
    del output
    with open(os.path.join(directory, "faces.json")) as f:
        description = json.load(f)
    for name in ("latency_ms", "checksum", "parity"):
        description.pop(name, None)
    with open(os.path.join(directory, "mean.json")) as f:
        return description, json.load(f), _tree(directory)


def _end_of_prediction(directory: str, output: str) -> Any:
    del directory
    value = json.loads(output)
    del value["images_per_sec"]
    return value


_WRITE = ("--data_dir=faces", "--image_size=24", "--num_shards=3")
COMMANDS = (
    Command(
        "write_records",
        (*_WRITE, "--output_dir=records", "--num_workers=2"),
        ("faces",),
        "records",
        _end_of_writing,
    ),
    Command(
        "write_records",
        (*_WRITE, "--output_dir=pixels", "--format=hdf5", "--num_workers=1"),
        ("faces",),
        "pixels",
        _end_of_writing,
    ),
    Command(
        "inspect_records",
        ("--records_dir=records", "--verify", "--json"),
        ("records",),
        "",
        _end_of_inspection,
    ),
    Command(
        "train",
        (
            *("--records_dir=records", "--run_dir=run", "--backbone=small_cnn"),
            *("--image_size=16", "--stage=tuning", "--epochs=2", "--devices=cpu"),
            *("--global_batch_size=16", "--steps_per_loop=1", "--checkpoint_steps=2"),
            *("--optimizer=adam", "--augment=default,form=affine_op"),
        ),
        ("records",),
        "run",
        _end_of_training,
        weight=6,
    ),
    Command(
        "evaluate",
        (
            *("--run_dir=run", "--records_dir=records", "--output_dir=evaluation"),
            *("--bootstrap_samples=20", "--devices=cpu"),
        ),
        ("records", "run"),
        "evaluation",
        _end_of_evaluation,
        weight=3,
    ),
    Command(
        "freeze",
        (
            *("--run_dir=run", "--records_dir=records", "--output_dir=graph"),
            "--output_name=faces",
        ),
        ("records", "run"),
        "graph",
        _end_of_freezing,
        weight=2,
    ),
    Command(
        "predict",
        ("--graph=graph/faces.pb", "--json", "--device=cpu", "--threads=2", "some"),
        ("graph", "some"),
        "",
        _end_of_prediction,
        weight=3,
    ),
)
WRITERS, INSPECT, TRAIN, EVALUATE, FREEZE, PREDICT = (
    COMMANDS[:2],
    *COMMANDS[2:],
)


@dataclasses.dataclass
class Ended:
    """How a process ended."""

    status: int
    output: str
    errors: str
    seconds: float


class Wrong(Exception):
    """Something that a fault must not lead to."""


class Process:
    """A command, forked off; its streams are files in the trial's directory."""

    def __init__(
        self, command: Command, place: str, name: str, *faults: Callable[[], None]
    ) -> None:
        self._paths = [os.path.join(place, f".{name}.{s}") for s in ("out", "err")]
        self._began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be(command, place, self._paths, faults)

    def has_ended(self) -> bool:
        """Whether it has ended; it still can be waited for."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def kill(self, number: int) -> None:
        """Sends a signal to it and not to its workers."""
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Its end; one that does not end is wrong."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - self._began > LIMIT_SECS:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Wrong(f"did not end in {LIMIT_SECS} s")
            time.sleep(0.005)
        texts = []
        for path in self._paths:
            with open(path, errors="replace") as f:
                texts.append(f.read())
        seconds = time.monotonic() - self._began
        return Ended(os.waitstatus_to_exitcode(status), *texts, seconds)


def _be(
    command: Command,
    place: str,
    paths: Sequence[str],
    faults: Sequence[Callable[[], None]],
) -> None:
    """What the forked process does; it does not return."""
    status = 70
    try:
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
            for fault in faults:
                fault()
            module.run()
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


class Trial:
    """A directory with the inputs of a command, and what happens in it.

    Attributes:
      place: The directory.
      random: Decides everything that the trial leaves open.
      command: What runs.
      what: The fault in a few words.
      faults: Called in the process before the command.
      during: Called with the process while it runs.
      mend: Called before the second run.
      killed: Statuses of signals that are no surprise.
      early: Seconds after which it is killed; 0 where it is not.
      accept: Judges a first run that ended with status 0 or one of `accepted`; by
        default status 0 has the end of an undisturbed run.
      must_fail: Whether status 0 is wrong.
      may_be_silent: Whether there is nobody to be told.
    """

    def __init__(self, base: Base, number: int, command: Command, rng: random.Random):
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
            self.bring(name)

    def bring(self, name: str, source: str = "") -> None:
        """Copies a directory of the undisturbed runs here, anew."""
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.base.path(source or name), path)

    def path(self, *names: str) -> str:
        """Of something in the trial's directory."""
        return os.path.join(self.place, *names)

    def run(self) -> str:
        """Both runs; how the first one ended, in a word."""
        outcome = self._once()
        while self.early and outcome == "as undisturbed" and self.early > 0.02:
            # The kill came too late: again, and earlier.
            self.early /= 2
            shutil.rmtree(self.path(self.command.makes or "nothing"), True)
            outcome = self._once()
        self.mend()
        if outcome != "as undisturbed":
            again = Process(self.command, self.place, "second").wait()
            if again.status != 0:
                raise Wrong(f"the second run: {_shown(again)}")
            self.compare(again, "the second run")
        return outcome

    def _once(self) -> str:
        process = Process(self.command, self.place, "first", *self.faults)
        try:
            self.during(process)
        finally:
            first = process.wait()
        return self._judge(first)

    def compare(self, ended: Ended, which: str) -> None:
        """The end is that of a run that nothing disturbed."""
        directory = self.path(self.command.makes)
        found = self.command.end(directory, ended.output)
        wanted = self.base.ends[self.command]
        if found != wanted:
            raise Wrong(f"{which} ended otherwise: {_difference(found, wanted)}")

    def _judge(self, ended: Ended) -> str:
        if "Traceback" in ended.errors:
            raise Wrong(f"a traceback: {_shown(ended)}")
        if ended.status in self.killed:
            return "killed"
        if ended.status not in (0, 1, 2, 75):
            raise Wrong(f"ended otherwise: {_shown(ended)}")
        if ended.status == 0 and self.must_fail:
            raise Wrong("not noticed")
        if self.accept and (ended.status == 0 or ended.status in self.accepted):
            self.accept(ended)
            return f"status {ended.status}, named" if ended.status else "passed over"
        if ended.status == 0:
            self.compare(ended, "the first run")
            return "as undisturbed"
        if ended.status == 2 and self.command is INSPECT and ended.output:
            if not json.loads(ended.output)["faults"]:
                raise Wrong("status 2 without a fault")
            return "status 2"
        self.clear_line(ended)
        return f"status {ended.status}"

    def clear_line(self, ended: Ended) -> None:
        """A run that ended with an error says so in a last line of its own.

        `predict` goes on after an image that cannot be read; its progress comes last.
        """
        if "Traceback" in ended.errors:
            raise Wrong(f"a traceback: {_shown(ended)}")
        if self.may_be_silent and not ended.errors.strip():
            return
        lines = ended.errors.strip().splitlines() or [""]
        kind = "stopped" if ended.status == 75 else "error"
        name = self.command.name.replace("_", "-")
        last = lines[-2:] if self.command is PREDICT else lines[-1:]
        if not any(line.startswith(f"afad-{name}: {kind}: ") for line in last):
            raise Wrong(f"no clear line: {_shown(ended)}")
        self.what += f"; {lines[-1]}"


def _shown(ended: Ended) -> str:
    return f"status {ended.status}, {ended.errors.strip()[-1500:]!r}"


def _difference(found: Any, wanted: Any, where: str = "") -> str:
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


class Base:
    """What undisturbed runs of all commands leave and take."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.ends: dict[Command, Any] = {}
        self.seconds: dict[Command, float] = {}
        home = self.path()
        drawn_faces.make_sample(
            drawn_faces.SampleConfig(
                output_dir=self.path("faces"), num_images=NUM_FACES, seed=3
            )
        )
        os.mkdir(self.path("some"))
        for path in self.files("faces", (".jpg",))[:: NUM_FACES // NUM_PREDICTED]:
            shutil.copy(path, self.path("some"))
        for command in COMMANDS:
            ended = Process(command, home, "base").wait()
            assert ended.status == 0, (command, ended)
            end = command.end(self.path(command.makes), ended.output)
            self.ends[command], self.seconds[command] = end, ended.seconds
            print(f"{command.name}: {ended.seconds:.1f} s", flush=True)
        self._half()

    def path(self, *names: str) -> str:
        """Of something in the base's directory."""
        return os.path.join(self.directory, "base", *names)

    def files(self, name: str, endings: tuple[str, ...] = ("",)) -> list[str]:
        """Files below a directory of the base, in order."""
        return [
            self.path(name, path)
            for path in _tree(self.path(name))
            if path.endswith(endings)
        ]

    def _half(self) -> None:
        """A run that was stopped in its second epoch: ``half``."""
        place = os.path.join(self.directory, "stopped")
        os.mkdir(place)
        shutil.copytree(self.path("records"), os.path.join(place, "records"))
        ended = Process(TRAIN, place, "base", _stop_after(6)).wait()
        assert ended.status == 75, ended
        shutil.move(os.path.join(place, "run"), self.path("half"))


def _stop_after(looks: int) -> Callable[[], None]:
    def install() -> None:
        look, left = preemption.requested, [looks]

        def requested() -> bool:
            left[0] -= 1
            if left[0] == 0:
                preemption.request("SIGTERM")
            return look()

        preemption.requested = requested

    return install


# The kinds of fault: each arranges a trial.


def _kill(number: int) -> Callable[[Trial], None]:
    def arrange(trial: Trial) -> None:
        # Some come after the end, on a quiet machine.
        delay = trial.random.uniform(0.05, 1.1) * trial.base.seconds[trial.command]
        if number == signal.SIGTERM and trial.command is TRAIN:
            delay = max(delay, 0.3)  # The handler stands by then.
            trial.killed = ()
        else:
            trial.killed = (-number,)
        trial.what, trial.early = (
            f"{signal.Signals(number).name} about {delay:.2f} s",
            delay,
        )

        def during(process: Process) -> None:
            time.sleep(trial.early)
            with contextlib.suppress(ProcessLookupError):
                process.kill(number)

        trial.during = during

    return arrange


def _small_files(trial: Trial) -> None:
    # Small files pass, and large ones do not.
    limit = int(2 ** trial.random.uniform(12, 21))
    trial.what = f"no file beyond {limit} bytes"
    trial.faults = [lambda: chaos_faults.limit_file_size(limit)]


def _full_disk(trial: Trial) -> None:
    rng = trial.random
    fault = chaos_faults.FileFault(
        *("write", int(2 ** rng.uniform(8, 22)), rng.choice(chaos_faults.FULL), True)
    )
    _install(trial, fault, f"full after {fault.number} bytes ({fault.error})")


def _file_error(trial: Trial) -> None:
    rng = trial.random
    call = rng.choice([c for c in chaos_faults.CALLS if c != "write"])
    if not trial.command.makes:
        call = "read"
    error = rng.choice((*chaos_faults.FULL, *chaos_faults.REFUSED))
    if call in ("read", "scandir"):
        error = rng.choice(chaos_faults.REFUSED)
    number = int(2 ** rng.uniform(0, 5)) - 1
    fault = chaos_faults.FileFault(call, number, error, rng.random() < 0.7)
    still = "" if fault.lasting else " once"
    _install(trial, fault, f"{call} {number} fails{still} ({os.strerror(error)})")
    if trial.command in WRITERS and call in ("read", "scandir"):
        _accept_less(trial)
    elif trial.command is PREDICT:
        _accept_bad_images(trial)


def _install(trial: Trial, fault: chaos_faults.FileFault, what: str) -> None:
    trial.what = what
    trial.faults = [lambda: fault.install(trial.place)]


def _directories(trial: Trial) -> None:
    """An input is gone, a file stands in the place of the output, or no right to it."""
    command, ways = trial.command, ["gone"]
    if command.makes:
        ways += ["in the way", "refused"]
    way = trial.random.choice(ways)
    if way == "gone":
        name = trial.random.choice(command.needs)
        os.rename(trial.path(name), trial.path("away"))
        trial.mend = lambda: _put_back(trial, name)
        trial.what = f"{name} is gone"
    elif way == "in the way":
        with open(trial.path(command.makes), "w") as f:
            f.write("a file")
        trial.mend = lambda: os.remove(trial.path(command.makes))
        trial.what = f"{command.makes} is a file"
    else:
        fault = chaos_faults.FileFault("mkdir", 0, 13, True)
        _install(trial, fault, f"{command.makes} cannot be made")


def _put_back(trial: Trial, name: str) -> None:
    shutil.rmtree(trial.path(name), ignore_errors=True)
    os.rename(trial.path("away"), trial.path(name))


def _changing(trial: Trial) -> None:
    """Inputs vanish or change just before they are opened."""
    command, rng = trial.command, trial.random
    endings = {
        "write_records": (".jpg",),
        "predict": (".jpg", ".pb", ".json"),
        "evaluate": ("00003", "00002", "00001", ".npy", ".keras"),
        "freeze": ("00001", ".npy", ".keras"),
    }.get(command.name, ("00003", "00002", "00001", ".npy", "manifest.json"))
    what = rng.choice(("vanish", "cut", "empty", "flip"))
    if command.name in ("train", "evaluate", "inspect_records") and rng.random() < 0.5:
        _change_later(trial, what)
    else:
        number = rng.randrange(60 if command in WRITERS else 6)
        change = chaos_faults.Change(number, what, endings)
        trial.what = f"opening {number} of a file: {what}"
        trial.faults = [lambda: change.install(trial.place)]
    trial.mend = lambda: [trial.bring(name) for name in command.needs] and None
    if command in WRITERS:
        own = trial.mend
        _accept_less(trial)

        def mend() -> None:
            own()
            shutil.rmtree(trial.path(command.makes), ignore_errors=True)

        trial.mend = mend
    elif command is PREDICT:
        _accept_bad_images(trial)


def _change_later(trial: Trial, what: str) -> None:
    """A shard changes at a random instant, opened or not."""
    delay = trial.random.uniform(0, 1) * trial.base.seconds[trial.command]
    shards = [n for n in _tree(trial.path("records")) if "-of-0000" in n]
    path, where = trial.random.choice(shards), trial.random.random()
    trial.what = f"{path} after {delay:.2f} s: {what}"
    # What is mapped and then cut off has no bytes: the system ends who asks for them.
    trial.killed = (-signal.SIGBUS,) if what in ("cut", "empty") else ()

    def during(process: Process) -> None:
        time.sleep(delay)
        chaos_faults.damage(trial.path("records", path), what, where)

    trial.during = during


def _accept_less(trial: Trial) -> None:
    """A data set of a source that changed: sound, and what it lacks is named."""

    def accept(ended: Ended) -> None:
        directory = trial.path(trial.command.makes)
        if faults := inspection.verify(directory):
            raise Wrong(f"written with faults: {faults}")
        manifest = schema.load_manifest(directory)
        with open(os.path.join(directory, rejections.FILE_NAME)) as f:
            named = len(f.readlines())
        counts = manifest.found, manifest.written + manifest.passed_over + named
        if counts[0] != counts[1] or named != manifest.rejected:
            raise Wrong(f"found and told apart {counts}, {named} named")
        if manifest.found != schema.load_manifest(trial.base.path("records")).found:
            raise Wrong(f"{manifest.found} files found")

    def mend() -> None:
        shutil.rmtree(trial.path(trial.command.makes), ignore_errors=True)

    trial.accept, trial.mend = accept, mend


def _accept_bad_images(trial: Trial) -> None:
    """The images that could be read have their results, the others are named."""

    def accept(ended: Ended) -> None:
        if not ended.output:  # The graph itself was refused.
            lines = ended.errors.strip().splitlines()
            if ended.status and lines[-1].startswith("afad-predict: error: "):
                return
            raise Wrong(f"nothing said: {_shown(ended)}")
        value = json.loads(ended.output)
        wanted = {r["image"]: r for r in trial.base.ends[PREDICT]["images"]}
        bad = {b["image"] for b in value["bad"]}
        flipped = _changed_file(trial)
        for row in value["images"]:
            if row != wanted.pop(row["image"]) and row["image"] != flipped:
                raise Wrong(f"another result: {row}")
        if set(wanted) != bad or bool(bad) != (ended.status == 2):
            raise Wrong(f"missing {set(wanted)}, named {bad}, status {ended.status}")

    trial.accept, trial.accepted = accept, (2,)


def _changed_file(trial: Trial) -> str:
    """The file that a change hit, relative to the trial's directory."""
    try:
        with open(trial.path("changed")) as f:
            return os.path.relpath(f.read(), trial.place)
    except FileNotFoundError:
        return ""


def _two(trial: Trial) -> None:
    """The same command twice: both end well, or one says that another is at work."""
    delay = trial.random.uniform(0, 0.8) * trial.base.seconds[trial.command]
    trial.what = f"another one {delay:.2f} s later"

    def during(process: Process) -> None:
        time.sleep(delay)
        other = Process(trial.command, trial.place, "other").wait()
        if other.status:
            trial.clear_line(other)

    trial.during = during


def _clock(trial: Trial) -> None:
    rng = trial.random
    seconds = rng.choice((-1, 1)) * 10 ** rng.uniform(1, 9)
    number = rng.randrange(20)
    trial.what = f"the clock jumps by {seconds:.0f} s"
    trial.faults = [lambda: chaos_faults.jump_clock(number, seconds)]
    for name in trial.command.needs:
        for path in _tree(trial.path(name)):
            if rng.random() < 0.3:  # As a copy by another machine leaves them.
                at = time.time() + rng.choice((-1, 1)) * 10 ** rng.uniform(1, 9)
                os.utime(trial.path(name, path), (at, max(at, 0)))


def _slow(trial: Trial) -> None:
    """A slow disk; or whoever reads the output is slow, or leaves."""
    rng = trial.random
    way = (
        rng.choice(("disk", "reader", "leaver")) if not trial.command.makes else "disk"
    )
    if way == "disk":
        seconds = rng.uniform(0.005, 0.03)
        trial.what = f"{1000 * seconds:.0f} ms for each file"
        trial.faults = [lambda: chaos_faults.slow_reading(trial.place, seconds)]
        return
    trial.what = f"a {way} of the output"
    reading, writing = os.pipe()
    path = trial.path(".first.out")
    trial.faults = [lambda: _into(writing, reading)]

    def during(process: Process) -> None:
        os.close(writing)
        with open(path + ".read", "wb") as copy:
            while data := os.read(reading, 200):
                copy.write(data)
                if way == "leaver":
                    break
                time.sleep(0.01)
        os.close(reading)
        os.replace(path + ".read", path)

    trial.during = during
    if way == "leaver":
        trial.may_be_silent, trial.accept = True, lambda ended: None


def _into(writing: int, reading: int) -> None:
    os.close(reading)
    sys.stdout = open(writing, "w")


def _memory(trial: Trial) -> None:
    rng = trial.random
    if trial.command is COMMANDS[0] and rng.random() < 0.7:
        limit = int(2 ** rng.uniform(25, 30))
        trial.what = f"workers have {limit >> 20} MiB"
        trial.faults = [lambda: chaos_faults.limit_workers(limit)]
        return
    number = rng.randrange(6 if trial.command is PREDICT else NUM_FACES)
    trial.what = f"no memory for image {number}"
    trial.faults = [lambda: chaos_faults.exhaust_memory(number)]


def _damage(trial: Trial) -> None:
    """An input is cut short or has a flipped bit."""
    command, rng = trial.command, trial.random
    if command in WRITERS:  # Their own earlier work is damaged.
        _damaged_work(trial)
        return
    name = rng.choice(command.needs)
    if command is TRAIN and rng.random() < 0.7:
        trial.bring("run", "half")
        name = "run"
    paths = [p for p in _tree(trial.path(name)) if not p.endswith(".png")]
    if name == "run" and command is TRAIN:
        paths = [p for p in paths if "checkpoints" in p or rng.random() < 0.3]
    path = rng.choice(paths)
    what = rng.choice(("vanish", "cut", "empty", "flip", "flip"))
    chaos_faults.damage(trial.path(name, path), what, rng.random())
    trial.what = f"{what} in {name}/{path}"
    if command is TRAIN and name == "run":
        trial.mend = lambda: trial.bring("run", "half")
    else:
        trial.mend = lambda: trial.bring(name)
    if command is INSPECT:
        trial.must_fail = path.startswith(("afad-", "manifest", "mean"))
    if command is PREDICT and name == "some":
        with open(trial.path("changed"), "w") as f:
            f.write(trial.path(name, path))
        _accept_bad_images(trial)


def _damaged_work(trial: Trial) -> None:
    """A writer that was killed, and what it left is damaged."""
    rng = trial.random
    work, wanted = trial.path(trial.command.makes, ".work"), rng.randrange(4, 9)
    process = Process(trial.command, trial.place, "killed")
    while not process.has_ended() and _count(work) < wanted:
        time.sleep(0.002)
    process.kill(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # Its workers end by themselves.
    paths = [p for p in _tree(work) if not p.endswith("lock")]
    if not paths:
        trial.what = "nothing was left to be damaged"
        return
    path, what = rng.choice(paths), rng.choice(("vanish", "cut", "empty", "flip"))
    chaos_faults.damage(os.path.join(work, path), what, rng.random())
    trial.what = f"{what} in .work/{path}"
    trial.mend = lambda: shutil.rmtree(trial.path(trial.command.makes), True)


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except FileNotFoundError:
        return 0


KINDS: dict[str, tuple[Callable[[Trial], None], Sequence[Command]]] = {
    "SIGKILL at a random instant": (_kill(signal.SIGKILL), COMMANDS),
    "SIGTERM at a random instant": (_kill(signal.SIGTERM), COMMANDS),
    "files cannot grow (RLIMIT_FSIZE)": (_small_files, COMMANDS),
    "the disk is full": (_full_disk, [c for c in COMMANDS if c.makes]),
    "a call of the file layer fails": (_file_error, COMMANDS),
    "a directory is missing or refused": (_directories, COMMANDS),
    "a file vanishes or changes when opened": (_changing, COMMANDS),
    "the same command twice at once": (_two, COMMANDS[:2] + COMMANDS[3:6]),
    "the clock jumps": (_clock, COMMANDS),
    "a slow disk, a slow or leaving reader": (_slow, COMMANDS),
    "no memory": (_memory, [*WRITERS, COMMANDS[0], INSPECT, TRAIN, EVALUATE, PREDICT]),
    "truncated, emptied or flipped files": (_damage, COMMANDS),
}


def trial_of(base: Base, seed: int, number: int) -> tuple[str, Trial]:
    """The fault of a number: its kind, and the trial, arranged."""
    rng = random.Random(f"{seed}/{number}")
    kind = list(KINDS)[number % len(KINDS)]
    arrange, commands = KINDS[kind]
    (command,) = rng.choices(commands, [c.weight for c in commands])
    trial = Trial(base, number, command, rng)
    arrange(trial)
    return kind, trial


@dataclasses.dataclass(frozen=True)
class Result:
    """What a trial came to; `outcome` is ``wrong`` where a promise was broken."""

    number: int
    kind: str
    command: str
    what: str
    outcome: str


def try_it(base: Base, seed: int, number: int) -> Result:
    """One trial; its directory stays if something was wrong."""
    kind, trial = trial_of(base, seed, number)
    try:
        outcome = trial.run()
    except Exception as error:
        trial.what += f": {error}"
        if not isinstance(error, Wrong):
            trial.what += f" {traceback.format_exc()}"
        outcome = "wrong"
    else:
        shutil.rmtree(trial.place, ignore_errors=True)
    name = " ".join([trial.command.name, *trial.command.flags[-1:]])
    return Result(number, kind, name, trial.what, outcome)


def lane(
    base: Base, seed: int, numbers: Sequence[int], deadline: float, path: str
) -> None:
    """Trials one after the other, in a process of its own; results are JSON lines."""
    with open(path, "w", buffering=1) as f:
        for number in numbers:
            if time.monotonic() > deadline:
                break
            result = try_it(base, seed, number)
            f.write(json.dumps(dataclasses.asdict(result)) + "\n")
            text = f"{number} {result.kind}: {result.command}: {result.what}"
            print(f"{text} -> {result.outcome}", flush=True)


OUTCOMES = {
    "as undisturbed": "as undisturbed",
    "passed over": "named, and the rest right",
    "status 1": "status 1",
    "status 2": "status 2",
    "status 75": "status 75",
    "killed": "killed",
    "wrong": "wrong",
}


def table(results: Sequence[Result]) -> list[list[str]]:
    """Counts by kind and outcome, with a heading and a sum."""
    rows = [["fault", "tries", *OUTCOMES.values()]]
    for kind in [*KINDS, "all"]:
        mine = [r for r in results if kind in (r.kind, "all")]
        counts = collections.Counter(
            "passed over" if r.outcome.endswith("named") else r.outcome for r in mine
        )
        rows.append([kind, str(len(mine)), *(str(counts[o] or "") for o in OUTCOMES)])
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table as documents have it."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Commands under faults.")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="at most")
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", type=int, nargs="*", help="numbers of trials")
    parser.add_argument("--markdown", default="", help="file for the table")
    options = parser.parse_args()
    for command in COMMANDS:
        importlib.import_module(f"afad_tfdata.bin.{command.name}")
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    numbers = options.only or list(range(options.faults))
    directory = tempfile.mkdtemp(prefix="afad-chaos-")
    # Where killed processes leave what is theirs.
    os.environ["TMPDIR"] = tempfile.tempdir = os.path.join(directory, "tmp")
    os.mkdir(tempfile.tempdir)
    base = Base(directory)
    lanes = []
    for i in range(options.lanes):
        path = os.path.join(directory, f"lane-{i}.jsonl")
        pid = os.fork()
        if pid == 0:
            try:
                lane(base, options.seed, numbers[i :: options.lanes], deadline, path)
            finally:
                os._exit(0)
        lanes.append((pid, path))
    results = []
    for pid, path in lanes:
        os.waitpid(pid, 0)
        with open(path) as f:
            results += [Result(**json.loads(line)) for line in f]
    rows = table(results)
    print(f"\n{as_text(rows)}")
    if options.markdown:
        with open(options.markdown, "w") as f:
            f.write(as_markdown(rows))
    wrong = [r for r in results if r.outcome == "wrong"]
    for result in wrong:
        print(f"wrong: {result}")
    print(
        f"seed {options.seed}: {len(results)} of {len(numbers)} faults tried in"
        f" {(time.monotonic() - began) / 60:.1f} minutes, {len(wrong)} wrong"
    )
    if wrong:
        print(f"what they left is in {directory}")
    else:
        shutil.rmtree(directory)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
