"""XLA: whether it compiles here, and how often it does for a network."""

from __future__ import annotations

import time
from collections.abc import Iterator

from afad_tfdata.common import xla
from afad_tfdata.measuring import rows, trial_steps
from afad_tfdata.measuring import settings as check_settings
from afad_tfdata.training.distributed import strategies


def measure(settings: check_settings.Settings) -> Iterator[rows.Row]:
    """Tries XLA, and then a step that XLA compiles, with its loss scaling."""
    strategy = strategies.create_strategy(settings.first)
    reason = xla.why_not()
    yield rows.holds(
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
        model = trial_steps.network("small_cnn", settings.image_size, precision)
    loop = trial_steps.Loop(
        strategy,
        model,
        settings.batch,
        trial_steps.distributed(
            strategy,
            lambda _: trial_steps.in_memory(settings.batch, settings.image_size),
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
    yield rows.fact(
        f"--jit, small_cnn, {precision}",
        f"the first step takes {first:.1f} s, each later one {later * 1e3:.1f} ms",
        first_seconds=first,
        later_seconds=later,
    )
