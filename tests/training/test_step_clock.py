"""How long steps waited for input."""

import pytest

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import step_clock


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
