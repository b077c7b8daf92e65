"""XLA: whether it compiles here, and how often it does for a network."""

from __future__ import annotations

import time
from collections.abc import Iterator

from afad_tfdata.common import xla
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Tries whether XLA compiles here, and times a step that it compiles."""
    strategy = strategies.create_strategy(settings.first_device)
    reason = xla.why_not()
    yield check_table.holds(
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
        model = trial_networks.trial_network(
            "small_cnn", settings.image_size, precision
        )
    loop = step_timing.TimedLoop(
        strategy,
        model,
        settings.batch,
        trial_networks.distributed_batches(
            strategy,
            lambda _: trial_networks.batches_in_memory(
                settings.batch, settings.image_size
            ),
        ),
        jit=True,
    )
    began = time.perf_counter()
    loop.run_steps(1)
    first = time.perf_counter() - began
    began = time.perf_counter()
    loop.run_steps(3)
    later = (time.perf_counter() - began) / 3
    # The shape of a batch never changes, so that the first step alone may be slow.
    yield check_table.fact(
        f"--jit, small_cnn, {precision}",
        f"the first step takes {first:.1f} s, each later one {later * 1e3:.1f} ms",
        first_seconds=first,
        later_seconds=later,
    )
