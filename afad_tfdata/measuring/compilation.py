"""XLA: whether it compiles here, and how often it does for a network."""

from __future__ import annotations

import time
from collections.abc import Iterator

from afad_tfdata.common import xla
from afad_tfdata.measuring import (
    check_settings,
    row_verdicts,
    step_timing,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies


def measure(settings: check_settings.CheckSettings) -> Iterator[row_verdicts.Row]:
    """Tries XLA, and then a step that XLA compiles, with its loss scaling."""
    strategy = strategies.create_strategy(settings.first)
    reason = xla.why_not()
    yield row_verdicts.holds(
        "XLA",
        not reason,
        target="compiles for the device",
        measured="does not compile" if reason else "compiles",
        why=reason,
    )
    if reason:
        return
    # float16 on a CPU takes 100 times as long.
    precision = "mixed_float16" if settings.gpus else "float32"
    with strategy.scope():
        model = trial_networks.network("small_cnn", settings.image_size, precision)
    loop = step_timing.TimedLoop(
        strategy,
        model,
        settings.batch,
        trial_networks.distributed(
            strategy,
            lambda _: trial_networks.in_memory(settings.batch, settings.image_size),
        ),
        jit=True,
    )
    began = time.perf_counter()
    loop.run(1)
    first = time.perf_counter() - began
    began = time.perf_counter()
    loop.run(3)
    later = (time.perf_counter() - began) / 3
    # The shape of a batch never changes, so that the first step alone may be slow.
    yield row_verdicts.fact(
        f"--jit, small_cnn, {precision}",
        f"the first step takes {first:.1f} s, each later one {later * 1e3:.1f} ms",
        first_seconds=first,
        later_seconds=later,
    )
