"""Kills runs at random moments, continues them, and compares with an undisturbed one.

    python tests/robustness/kill_trials.py RECORDS_DIR WORK_DIR SIGKILL|SIGTERM TRIALS
        [SEED]

TensorFlow is imported once; every run is a process forked off before TensorFlow has
started its runtime.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf  # noqa: F401

from afad_tfdata import trainer
from afad_tfdata.common import errors, preemption
from afad_tfdata.training import checkpoints


def main() -> int:
    records_dir, work_dir, name, trials = sys.argv[1:5]
    random.seed(int(sys.argv[5]) if len(sys.argv) > 5 else 1)
    config = {
        "records_dir": records_dir,
        "backbone": "small_cnn",
        "image_size": 16,
        "stage": "tuning",
        "epochs": 3,
        "global_batch_size": 16,
        "devices": "cpu",
        "ema_decay": 0.9,
        "clip_norm": 5.0,
        "augment": "default,form=affine_op",
        "steps_per_loop": 1,
        "checkpoint_steps": 4,
    }
    whole = os.path.join(work_dir, "whole")
    began = time.monotonic()
    assert _forked(config, whole, None, 0.0) == 0
    print(f"one run: {time.monotonic() - began:.1f} s", flush=True)
    expected, equal = _end(whole), 0
    for trial in range(int(trials)):
        run_dir = os.path.join(work_dir, "killed")
        shutil.rmtree(run_dir, ignore_errors=True)
        # The steps of a run take about this long; a kill that comes after the end is
        # tried again.
        status = 0
        while status == 0:
            shutil.rmtree(run_dir, ignore_errors=True)
            status = _forked(config, run_dir, name, random.uniform(0, 1.5))
        steps = checkpoints.steps(os.path.join(run_dir, "checkpoints"))
        wanted = 75 if name == "SIGTERM" else -signal.SIGKILL
        again = _forked(config, run_dir, None, 0.0)
        same = again == 0 and status == wanted and _same(_end(run_dir), expected)
        equal += same
        print(
            f"{name} {trial}: {status}, checkpoints {steps}, equal {same}", flush=True
        )
    print(f"{equal} of {trials} equal")
    return 0 if equal == int(trials) else 1


def _forked(config, run_dir, name, delay) -> int:
    """Exit status of a run in a process of its own; negative for a signal."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        preemption.install()
        if name is not None:
            _kill_after_first_step(getattr(signal, name), delay)
        trainer.train(trainer.TrainConfig(run_dir=run_dir, **config), model=_network())
        status = 0
    except errors.PreemptedError:
        status = 75
    except BaseException as error:
        print(repr(error), flush=True)
    finally:
        os._exit(status)


def _network():
    """Small, with everything whose state is easily lost."""
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3), name="root_input")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(0.5, seed=1)(x)
    age = keras.layers.Dense(1, name="age_output")(x)
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender_output")(x)
    return keras.Model(image, [age, gender])


def _kill_after_first_step(number, delay) -> None:
    looks, look = [], preemption.requested

    def requested() -> bool:
        looks.append(1)
        if len(looks) == 2:
            timer = threading.Timer(delay, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        return look()

    preemption.requested = requested


def _end(run_dir):
    newest = checkpoints.load_newest(os.path.join(run_dir, "checkpoints"))
    with open(os.path.join(run_dir, "history.json")) as f:
        return newest.arrays, newest.state, json.load(f)


def _same(one, two) -> bool:
    return (
        one[1:] == two[1:]
        and one[0].keys() == two[0].keys()
        and all(np.array_equal(one[0][n], two[0][n]) for n in one[0])
    )


if __name__ == "__main__":
    sys.exit(main())
