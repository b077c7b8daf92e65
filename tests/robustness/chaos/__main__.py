"""Runs the trials in several lanes, and counts how they ended."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence

import keras  # noqa: F401 (What every command needs is imported before the forks.)
import matplotlib.backends.backend_agg  # noqa: F401
import tensorflow as tf  # noqa: F401

from tests.robustness import forked
from tests.robustness.chaos import commands, fault_kinds, trials

OUTCOMES = {
    trials.AS_UNDISTURBED: "as without the fault",
    "named": "named, and the rest right",
    "status 1": "status 1",
    "status 2": "status 2",
    "status 75": "status 75",
    "killed": "killed",
    "wrong": "wrong",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
      number: Number of the trial.
      kind: One of `fault_kinds.KINDS`.
      command: Name of the command.
      what: The fault, and the error that the command printed.
      outcome: One of `OUTCOMES`, or a status and ``named``; ``wrong`` where a promise
        was broken.
    """

    number: int
    kind: str
    command: str
    what: str
    outcome: str


def run_trial(base: trials.Base, seed: int, number: int) -> Result:
    """Runs one trial; its directory stays if something was wrong."""
    kind, trial = fault_kinds.arrange(base, seed, number)
    try:
        outcome = trial.run()
    except Exception as error:
        trial.what += f": {error}"
        if not isinstance(error, trials.Wrong):
            trial.what += f" {traceback.format_exc()}"
        outcome = "wrong"
    else:
        shutil.rmtree(trial.place, ignore_errors=True)
    name = " ".join([trial.command.name, *trial.command.flags[-1:]])
    return Result(number, kind, name, trial.what, outcome)


def run_lane(
    base: trials.Base, seed: int, numbers: Sequence[int], deadline: float, path: str
) -> int:
    """Runs trials one after the other; writes their results as JSON lines."""
    with open(path, "w", buffering=1) as f:
        for number in numbers:
            if time.monotonic() > deadline:
                break
            result = run_trial(base, seed, number)
            f.write(json.dumps(dataclasses.asdict(result)) + "\n")
            text = f"{number} {result.kind}: {result.command}: {result.what}"
            print(f"{text} -> {result.outcome}", flush=True)
    return 0


def table(results: Sequence[Result]) -> list[list[str]]:
    """Rows of counts by kind and outcome, with a heading and a sum."""
    rows = [["fault", "trials", *OUTCOMES.values()]]
    for kind in [*fault_kinds.KINDS, "all"]:
        mine = [r for r in results if kind in (r.kind, "all")]
        counts = collections.Counter(
            "named" if r.outcome.endswith("named") else r.outcome for r in mine
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
    """A table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def main() -> int:
    """Runs the trials; 1 if a promise was broken, or none was tried."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.chaos",
        description="Runs the commands under faults, and judges how they end.",
    )
    parser.add_argument("--faults", type=int, default=200, help="number of trials")
    parser.add_argument("--seed", type=int, default=1, help="decides the faults")
    parser.add_argument(
        "--minutes", type=float, default=60, help="no trial starts after this time"
    )
    parser.add_argument(
        "--lanes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="trials at a time; default: one for each core",
    )
    parser.add_argument(
        "--only", type=int, nargs="*", help="numbers of the trials to run"
    )
    parser.add_argument("--markdown", default="", help="file for the table of counts")
    options = parser.parse_args()
    for command in commands.COMMANDS:
        importlib.import_module(f"afad_tfdata.bin.{command.name}")
    numbers = options.only or list(range(options.faults))
    directory = tempfile.mkdtemp(prefix="afad-chaos-")
    # Killed processes leave temporary files, which must go with the directory.
    os.environ["TMPDIR"] = tempfile.tempdir = os.path.join(directory, "tmp")
    os.mkdir(tempfile.tempdir)
    base = trials.Base(directory)
    # What the trials need is written by now, which can take as long on a busy machine.
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    lanes = []
    for i in range(options.lanes):
        path = os.path.join(directory, f"lane-{i}.jsonl")
        arguments = (base, options.seed, numbers[i :: options.lanes], deadline, path)
        lanes.append((forked.start(functools.partial(run_lane, *arguments)), path))
    results = []
    for pid, path in lanes:
        crashed = forked.wait(pid)
        assert not crashed, f"a lane ended with status {crashed}"
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
    # That nothing was wrong with no trial at all says nothing.
    return int(bool(wrong) or not results)


if __name__ == "__main__":
    sys.exit(main())
