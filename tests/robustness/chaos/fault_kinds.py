"""The kinds of fault; each arranges trials in which it happens and is judged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from afad_tfdata.storage import schema
from afad_tfdata.writing import (
    data_set_verification,
    rejections,
    work_directory,
)
from tests.robustness.chaos import commands, faults
from tests.robustness.chaos.commands import (
    COMMANDS,
    EVALUATE,
    FREEZE,
    INSPECT,
    PREDICT,
    TRAIN,
    WRITE_HDF5,
    WRITE_TFRECORD,
    WRITERS,
)
from tests.robustness.chaos.trials import NUM_FACES, Base, Ended, Process, Trial, Wrong

# A little more than the last digit in which each number is printed.
_LAST_DIGITS = {"age": 0.011, "low": 0.011, "high": 0.011, "probability": 1.1e-6}


def _kill(number: int) -> Callable[[Trial], None]:
    """The process gets a signal at a random instant."""

    def arrange(trial: Trial) -> None:
        # On a quiet machine some signals come too late; `Trial.run` then tries earlier.
        delay = trial.random.uniform(0.05, 1.1) * trial.base.seconds[trial.command]
        if number == signal.SIGTERM and trial.command is TRAIN:
            delay = max(delay, 0.3)  # By then the handler is installed.
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
    """No file can have more than so many bytes."""
    # The range is such that small files can be written, and large ones cannot.
    limit = int(2 ** trial.random.uniform(12, 21))
    trial.what = f"no file beyond {limit} bytes"
    trial.faults = [lambda: faults.limit_file_size(limit)]


def _full_disk(trial: Trial) -> None:
    """All files together can have only so many bytes more."""
    rng = trial.random
    fault = faults.FileFault(
        *("write", int(2 ** rng.uniform(8, 22)), rng.choice(faults.FULL), True)
    )
    _install(trial, fault, f"full after {fault.number} bytes ({fault.error})")


def _file_error(trial: Trial) -> None:
    """A call of the operating system for a file fails, once or from then on."""
    rng = trial.random
    call = rng.choice([c for c in faults.CALLS if c != "write"])
    if not trial.command.makes:
        call = "read"
    error = rng.choice((*faults.FULL, *faults.REFUSED))
    if call in ("read", "scandir"):
        error = rng.choice(faults.REFUSED)
    number = int(2 ** rng.uniform(0, 5)) - 1
    fault = faults.FileFault(call, number, error, rng.random() < 0.7)
    still = "" if fault.lasting else " once"
    _install(trial, fault, f"{call} {number} fails{still} ({os.strerror(error)})")
    if trial.command in WRITERS and call in ("read", "scandir"):
        _accept_less(trial)
    elif trial.command is PREDICT:
        _accept_bad_images(trial)


def _install(trial: Trial, fault: faults.FileFault, what: str) -> None:
    trial.what = what
    trial.faults = [lambda: fault.install(trial.place)]


def _directories(trial: Trial) -> None:
    """An input is missing, a file has the output's name, or it cannot be created."""
    command, ways = trial.command, ["missing"]
    if command.makes:
        ways += ["in the way", "refused"]
    way = trial.random.choice(ways)
    if way == "missing":
        name = trial.random.choice(command.needs)
        os.rename(trial.path(name), trial.path("away"))
        trial.mend = lambda: _put_back(trial, name)
        trial.what = f"{name} is missing"
    elif way == "in the way":
        with open(trial.path(command.makes), "w") as f:
            f.write("a file")
        trial.mend = lambda: os.remove(trial.path(command.makes))
        trial.what = f"{command.makes} is a file"
    else:
        fault = faults.FileFault("mkdir", 0, errno.EACCES, True)
        _install(trial, fault, f"{command.makes} cannot be created")


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
        change = faults.Change(number, what, endings)
        trial.what = f"opening {number} of a file: {what}"
        trial.faults = [lambda: change.install(trial.place)]
    trial.mend = trial.copy_all_in
    if command in WRITERS:
        _accept_less(trial)

        def mend() -> None:
            trial.copy_all_in()
            trial.remove_output()

        trial.mend = mend
    elif command is PREDICT:
        _accept_bad_images(trial)


def _change_later(trial: Trial, what: str) -> None:
    """A shard changes at a random instant, whether it is open or not."""
    delay = trial.random.uniform(0, 1) * trial.base.seconds[trial.command]
    shards = [n for n in commands.files_below(trial.path("records")) if "-of-0000" in n]
    path, where = trial.random.choice(shards), trial.random.random()
    trial.what = f"{path} after {delay:.2f} s: {what}"
    # Pages of a mapped file that are cut off have no bytes: reading them is SIGBUS.
    trial.killed = (-signal.SIGBUS,) if what in ("cut", "empty") else ()

    def during(process: Process) -> None:
        time.sleep(delay)
        faults.damage(trial.path("records", path), what, where)

    trial.during = during


def _accept_less(trial: Trial) -> None:
    """Accepts a data set without some files, if it is sound and names them."""

    def accept(ended: Ended) -> None:
        directory = trial.path(trial.command.makes)
        if wrong := data_set_verification.verify(directory):
            raise Wrong(f"written with faults: {wrong}")
        manifest = schema.load_manifest(directory)
        with open(os.path.join(directory, rejections.FILE_NAME)) as f:
            named = len(f.readlines())
        counts = manifest.found, manifest.written + manifest.passed_over + named
        if counts[0] != counts[1] or named != manifest.rejected:
            raise Wrong(f"the counts do not add up: {counts}, {named} named")
        if manifest.found != schema.load_manifest(trial.base.path("records")).found:
            raise Wrong(f"{manifest.found} files found")

    trial.accept, trial.mend = accept, trial.remove_output


def _accept_bad_images(trial: Trial) -> None:
    """Accepts predictions without some images, if all of these are named."""

    def accept(ended: Ended) -> None:
        if not ended.output:  # The graph itself was refused.
            lines = ended.errors.strip().splitlines()
            if ended.status and lines[-1].startswith("afad-predict: error: "):
                return
            raise Wrong(f"no clear line: {ended}")
        rows = [json.loads(line) for line in ended.output.splitlines()]
        wanted = {r["image"]: r for r in trial.base.ends[PREDICT]}
        bad = {row["image"] for row in rows if "error" in row}
        flipped = _changed_file(trial)
        for row in rows:
            if "error" in row:
                continue
            same = _is_same_prediction(row, wanted.pop(row["image"]))
            if not same and row["image"] != flipped:
                raise Wrong(f"a different result: {row}")
        if set(wanted) != bad or bool(bad) != (ended.status == 1):
            raise Wrong(f"missing {set(wanted)}, named {bad}, status {ended.status}")

    trial.accept, trial.accepted = accept, (1,)


def _is_same_prediction(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two rows of predictions differ at most in the last digit of a number.

    An image that cannot be read makes its batch smaller, which changes the rounding of
    the others.
    """
    return row.keys() == wanted.keys() and all(
        value == wanted[name]
        or (isinstance(value, float) and abs(value - wanted[name]) < _LAST_DIGITS[name])
        for name, value in row.items()
    )


def _changed_file(trial: Trial) -> str:
    """The file that a change hit, relative to the trial's directory."""
    try:
        with open(trial.path("changed")) as f:
            return os.path.relpath(f.read(), trial.place)
    except FileNotFoundError:
        return ""


def _two(trial: Trial) -> None:
    """The same command twice: both end well, or one says that another is running."""
    delay = trial.random.uniform(0, 0.8) * trial.base.seconds[trial.command]
    trial.what = f"a second one {delay:.2f} s later"

    def during(process: Process) -> None:
        time.sleep(delay)
        other = Process(trial.command, trial.place, "other").wait()
        if other.status:
            trial.check_error(other)

    trial.during = during


def _clock(trial: Trial) -> None:
    """The time of day changes, and so do times of input files."""
    rng = trial.random
    seconds = rng.choice((-1, 1)) * 10 ** rng.uniform(1, 9)
    number = rng.randrange(20)
    trial.what = f"the clock jumps by {seconds:.0f} s"
    trial.faults = [lambda: faults.jump_clock(number, seconds)]
    for name in trial.command.needs:
        for path in commands.files_below(trial.path(name)):
            if rng.random() < 0.3:  # Files from a machine with another clock.
                at = time.time() + rng.choice((-1, 1)) * 10 ** rng.uniform(1, 9)
                os.utime(trial.path(name, path), (at, max(at, 0)))


def _slow(trial: Trial) -> None:
    """A slow disk; or the reader of the output is slow, or closes it."""
    rng = trial.random
    # A command that fills a directory prints too little for its reader to matter.
    ways = ("disk", "slow reader", "early end")
    way = "disk" if trial.command.makes else rng.choice(ways)
    if way == "disk":
        seconds = rng.uniform(0.005, 0.03)
        trial.what = f"{1000 * seconds:.0f} ms for each file"
        trial.faults = [lambda: faults.slow_reading(trial.place, seconds)]
        return
    trial.what = f"reading the output: {way}"
    reading, writing = os.pipe()
    path = trial.path(".first.out")
    trial.faults = [lambda: _into(writing, reading)]

    def during(process: Process) -> None:
        os.close(writing)
        with open(path + ".read", "wb") as copy:
            while data := os.read(reading, 200):
                copy.write(data)
                if way == "early end":
                    break
                time.sleep(0.01)
        os.close(reading)
        os.replace(path + ".read", path)

    trial.during = during
    if way == "early end":
        trial.may_be_silent, trial.accept = True, lambda ended: None


def _into(writing: int, reading: int) -> None:
    """Makes a pipe the standard output of this process."""
    os.close(reading)
    sys.stdout = open(writing, "w")


def _memory(trial: Trial) -> None:
    """Memory runs out, in a writer process or for one image."""
    rng = trial.random
    if trial.command is WRITE_TFRECORD and rng.random() < 0.7:
        limit = int(2 ** rng.uniform(25, 30))
        trial.what = f"writer processes have {limit >> 20} MiB"
        trial.faults = [lambda: faults.limit_processes(limit)]
        return
    number = rng.randrange(6 if trial.command is PREDICT else NUM_FACES)
    trial.what = f"no memory for image {number}"
    trial.faults = [lambda: faults.exhaust_memory(number)]


def _damage(trial: Trial) -> None:
    """An input is cut short or has a flipped bit."""
    command, rng = trial.command, trial.random
    if command in WRITERS:
        _damaged_work(trial)
        return
    name = rng.choice(command.needs)
    if command is TRAIN and rng.random() < 0.7:
        trial.copy_in("run", "half")
        name = "run"
    paths = [
        p for p in commands.files_below(trial.path(name)) if not p.endswith(".png")
    ]
    if name == "run" and command is TRAIN:
        paths = [p for p in paths if "checkpoints" in p or rng.random() < 0.3]
    path = rng.choice(paths)
    what = rng.choice(("vanish", "cut", "empty", "flip", "flip"))
    faults.damage(trial.path(name, path), what, rng.random())
    trial.what = f"{what} in {name}/{path}"
    if command is TRAIN and name == "run":
        trial.mend = lambda: trial.copy_in("run", "half")
    else:
        trial.mend = lambda: trial.copy_in(name)
    if command is INSPECT:
        trial.must_fail = path.startswith(("afad-", "manifest", "mean"))
    if command is PREDICT and name == "some":
        with open(trial.path("changed"), "w") as f:
            f.write(trial.path(name, path))
        _accept_bad_images(trial)


def _damaged_work(trial: Trial) -> None:
    """A writer is killed, and one of the files that it left is damaged."""
    rng = trial.random
    work, wanted = (
        trial.path(trial.command.makes, work_directory.WORK_NAME),
        rng.randrange(4, 9),
    )
    process = Process(trial.command, trial.place, "killed")
    while not process.has_ended() and _count(work) < wanted:
        time.sleep(0.002)
    process.kill(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # Its writer processes notice, and end.
    paths = [p for p in commands.files_below(work) if not p.endswith("lock")]
    if not paths:
        trial.what = "no file was left to be damaged"
        return
    path, what = rng.choice(paths), rng.choice(("vanish", "cut", "empty", "flip"))
    faults.damage(os.path.join(work, path), what, rng.random())
    trial.what = f"{what} in {work_directory.WORK_NAME}/{path}"
    trial.mend = trial.remove_output


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except FileNotFoundError:
        return 0


# The writer of TFRecord counts twice: its memory can run out in two places.
_MEMORY_COMMANDS = (
    *(WRITE_TFRECORD, WRITE_HDF5, WRITE_TFRECORD),
    *(INSPECT, TRAIN, EVALUATE, PREDICT),
)
# Kind of fault -> what arranges a trial of it, and the commands that it can hit.
KINDS: dict[str, tuple[Callable[[Trial], None], Sequence[commands.Command]]] = {
    "SIGKILL at a random instant": (_kill(signal.SIGKILL), COMMANDS),
    "SIGTERM at a random instant": (_kill(signal.SIGTERM), COMMANDS),
    "files cannot grow (RLIMIT_FSIZE)": (_small_files, COMMANDS),
    "the disk is full": (_full_disk, [c for c in COMMANDS if c.makes]),
    "a call of the file layer fails": (_file_error, COMMANDS),
    "a directory is missing or refused": (_directories, COMMANDS),
    "a file vanishes or changes when opened": (_changing, COMMANDS),
    "the same command twice at once": (_two, [*WRITERS, TRAIN, EVALUATE, FREEZE]),
    "the clock jumps": (_clock, COMMANDS),
    "a slow disk, a slow or leaving reader": (_slow, COMMANDS),
    "no memory": (_memory, _MEMORY_COMMANDS),
    "truncated, emptied or flipped files": (_damage, COMMANDS),
}


def arrange(base: Base, seed: int, number: int) -> tuple[str, Trial]:
    """The trial of a number.

    Returns:
      The kind of its fault, and the trial, ready to run.
    """
    rng = random.Random(f"{seed}/{number}")
    kind = list(KINDS)[number % len(KINDS)]
    prepare, choices = KINDS[kind]
    (command,) = rng.choices(choices, [c.weight for c in choices])
    trial = Trial(base, number, command, rng)
    prepare(trial)
    return kind, trial
