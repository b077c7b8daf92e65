"""Lines of a batch log: periodic, with rate and time left, and one at the end."""

from __future__ import annotations

import io
import logging

from afad_tfdata.common import progress


class _Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def _bar(clock, **options):
    return progress.Progress(
        100, "writing", every_secs=10.0, stream=io.StringIO(), clock=clock, **options
    )


def test_lines_are_logged_at_intervals_with_the_rate(caplog):
    caplog.set_level(logging.INFO)
    clock = _Clock()
    with _bar(clock) as bar:
        for _ in range(5):
            clock.now += 4
            bar.update(10)
        assert bar.rate() == 50 / 20
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "writing: 30/100 images, 2 images/s, 28 s left",
        "writing: 50/100 images, 2 images/s, 20 s left",
    ]


def test_work_done_before_does_not_count_for_the_rate(caplog):
    caplog.set_level(logging.INFO)
    clock = _Clock()
    with _bar(clock, initial=90) as bar:
        clock.now += 5
        bar.update(10, loss="0.5")
    assert bar.rate() == 2
    assert caplog.records[-1].getMessage() == (
        "writing: 100/100 images, 2 images/s, loss=0.5"
    )


def test_no_work_logs_nothing(caplog):
    caplog.set_level(logging.INFO)
    with _bar(_Clock(), initial=100):
        pass
    assert not caplog.records
