"""Kills trainings at random moments, continues them, and compares how they end.

    python -m tests.robustness.kill_trials RECORDS_DIR WORK_DIR [--signal=SIGKILL]
        [--trials=10] [--seed=1]

A killed and continued run must have the weights, the optimizer state and the history of
an undisturbed one, bit for bit.  A run that is sent SIGTERM must end with status 75.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import threading
import time
from typing import Any

import keras  # noqa: F401 (Imported once, before the forks.)
import tensorflow as tf  # noqa: F401

from afad_tfdata import trainer
from afad_tfdata.common import errors, preemption
from tests.robustness import forked
from tests.training import small_runs

_CONFIG: dict[str, Any] = {
    "image_size": 16,
    "stage": "tuning",
    "epochs": 3,
    "global_batch_size": 16,
    "devices": "cpu",
    "ema_decay": 0.9,
    "clip_norm": 5.0,
    "augment": "default,form=affine_op",  # Nothing to compile.
    "steps_per_loop": 1,
    "checkpoint_steps": 4,
}
# The steps of a run take about this long; a kill that comes later is tried again.
_LATEST_KILL_SECS = 1.5


def main() -> int:
    """Runs the trials; 1 if a run ended differently."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records_dir", help="data set to train on")
    parser.add_argument("work_dir", help="directory for the runs")
    parser.add_argument(
        "--signal", default="SIGKILL", choices=("SIGKILL", "SIGTERM"), help="what kills"
    )
    parser.add_argument("--trials", type=int, default=10, help="how many are killed")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    number = signal.Signals[options.signal]
    config = {"records_dir": options.records_dir, **_CONFIG}
    undisturbed = os.path.join(options.work_dir, "undisturbed")
    began = time.monotonic()
    status = _run(config, undisturbed)
    if status:
        print(f"the undisturbed run ended with status {status}")
        return 1
    print(f"one run: {time.monotonic() - began:.1f} s", flush=True)
    expected, equal = small_runs.end_of(undisturbed), 0
    for trial in range(options.trials):
        run_dir = os.path.join(options.work_dir, "killed")
        text = _kill_and_continue(config, run_dir, number, rng, expected)
        equal += not text
        print(f"{number.name} {trial}: {text or 'equal'}", flush=True)
    print(f"{equal} of {options.trials} equal")
    return int(equal < options.trials)


def _kill_and_continue(
    config: dict[str, Any],
    run_dir: str,
    number: signal.Signals,
    rng: random.Random,
    expected: small_runs.End,
) -> str:
    """One trial: what was wrong with it, or an empty string."""
    status = 0
    while status == 0:  # It ended before the signal came.
        shutil.rmtree(run_dir, ignore_errors=True)
        status = _run(config, run_dir, number, rng.uniform(0, _LATEST_KILL_SECS))
    wanted = errors.PreemptedError.exit_status if number == signal.SIGTERM else -number
    if status != wanted:
        return f"ended with status {status} instead of {wanted}"
    again = _run(config, run_dir)
    if again:
        return f"continued, it ended with status {again}"
    different = small_runs.differences(small_runs.end_of(run_dir), expected)
    return f"not equal: {', '.join(different)}" if different else ""


def _run(
    config: dict[str, Any],
    run_dir: str,
    number: signal.Signals | None = None,
    delay_secs: float = 0.0,
) -> int:
    """Exit status of a training in a process of its own."""

    def work() -> int:
        preemption.install()
        if number is not None:
            _kill_after_first_step(number, delay_secs)
        network = small_runs.build_network(dropout=0.5, batch_statistics=True)
        try:
            trainer.train(trainer.TrainConfig(run_dir=run_dir, **config), model=network)
        except errors.PreemptedError as error:
            return error.exit_status
        return 0

    return forked.wait(forked.start(work))


def _kill_after_first_step(number: signal.Signals, delay_secs: float) -> None:
    """Sends this process a signal, so long after its first step."""
    looks, look = [], preemption.requested

    def requested() -> bool:
        looks.append(1)
        if len(looks) == 2:  # The loop looks before every step.
            timer = threading.Timer(delay_secs, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        return look()

    preemption.requested = requested


if __name__ == "__main__":
    sys.exit(main())
