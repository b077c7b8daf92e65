"""How long steps waited for input."""

import pathlib
import subprocess
import sys

import pytest

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import step_clock

_ROOT = str(pathlib.Path(__file__).parents[2])


@pytest.mark.parametrize(
    "came, done, waited",
    [
        ([10.0], [12.0], 0.0),
        ([11.0], [12.0], 1.0),
        ([11.0, 11.5, 14.5], [12.0, 14.0, 15.0], 1.5),
        # Each batch came before the previous step was done: no waiting.
        ([10.0, 10.1, 10.2], [12.0, 14.0, 16.0], 0.0),
    ],
)
def test_a_step_waits_from_the_end_of_the_one_before(came, done, waited):
    began = tf.constant(10.0, tf.float64)
    came, done = (tf.constant(times, tf.float64) for times in (came, done))
    assert float(step_clock.seconds_waited(began, came, done)) == pytest.approx(waited)


def test_times_are_those_of_the_tensors():
    """Each is at or after the time at which its tensor was computed."""

    @tf.function
    def run(count):
        times = step_clock.times_of_steps(count)
        computed = step_clock.times_of_steps(count)
        for i in tf.range(count):
            now = tf.timestamp()
            computed = computed.write(i, now)
            times = times.write(i, step_clock.time_of([now, tf.zeros([2], tf.int32)]))
        return computed.stack(), times.stack()

    computed, times = run(tf.constant(3))
    assert (times >= computed).numpy().all()


# On one processor core, TensorFlow's executor has a single thread.
_ONE_CORE = """
import os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from afad_tfdata.common.lazy_imports import tf
from tests.training import test_step

def work(images, step, offset):
    # Takes its time, and adds nothing.
    x = tf.reshape(tf.cast(images, tf.float32), [-1]) / 255
    x = tf.tensordot(x, x[:2000], axes=0)
    for _ in range(4):
        x = tf.nn.tanh(x)
    return tf.cast(images, tf.float32) / 127.5 - 1 + 0 * tf.reduce_sum(x)

strategy = tf.distribute.get_strategy()
model, trainer = test_step.make_trainer(strategy, prepare=work)
data = tf.data.Dataset.from_tensor_slices(test_step.arrays()).repeat()
data = data.batch(test_step.BATCH, drop_remainder=True)
if sys.argv[1] == "late":
    def wait(*batch):
        seconds = tf.py_function(lambda: time.sleep(0.2) or 0, [], tf.int32)
        with tf.control_dependencies([seconds]):
            return tf.nest.map_structure(tf.identity, batch)
    data = data.map(wait)
batches = iter(data)
trainer.run(batches, 0, [1e-3])
began = time.perf_counter()
_, waited = trainer.run(batches, 1, [1e-3] * 10)
print(float(waited) / (time.perf_counter() - began))
"""


@pytest.mark.parametrize("data", ["early", "late"])
def test_one_core_waits_for_late_batches_only(data):
    """A slow step is not taken for waiting where one thread does everything."""
    done = subprocess.run(
        [sys.executable, "-c", _ONE_CORE, data],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    share = float(done.stdout)
    assert (share < 0.2) if data == "early" else (share > 0.6)
