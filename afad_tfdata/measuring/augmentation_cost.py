"""What the augmentation costs, compared with a step of VGG19."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import xla
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import augmentation, tensor_preprocessing
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.training import process_settings
from afad_tfdata.training.distributed import strategies

# The augmentation may cost this share of a VGG19 step.
LIMIT = 0.02


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Times the augmentation alone and within a step, in turn with the bare step."""
    strategy = strategies.create_strategy(settings.first_device)
    precision = process_settings.resolve_precision(
        "auto" if settings.gpus else "float32"
    )
    ways: dict[str, Callable[[int], Any]] = {
        "none": _augmented_step(
            strategy, settings, precision, trial_networks.normalized
        ).run_steps
    }
    forms = [
        form for form in augmentation.FORMS if form != "gather" or not xla.why_not()
    ]
    for form in forms:
        ways[form] = _augmentation_alone(settings, form)
        prepare = functools.partial(_augmented, form)
        ways[f"step with {form}"] = _augmented_step(
            strategy, settings, precision, prepare
        ).run_steps
    found = step_timing.time_in_turn(
        ways, seconds=settings.seconds, rounds=settings.rounds
    )
    for form in augmentation.FORMS:
        name = f"{form} ({'compiled by XLA' if form == 'gather' else 'plain'})"
        if form not in forms:
            yield check_table.not_applicable(name, "XLA does not compile here")
            continue
        within = float(np.median(found[f"step with {form}"] / found["none"])) - 1
        alone = float(np.median(found[form]))
        yield check_table.at_most(
            f"{name}, share of a {settings.slow_network} step in {precision}",
            float(np.median(found[form] / found["none"])),
            LIMIT,
            "{:.2%}",
            not_applicable=settings.unjudged,
            measured=f"{alone * 1e3:.2f} ms for {settings.batch} images; a step with it"
            f" takes {within:+.1%}",
            seconds=alone,
            within_step=within,
        )


def _augmented(
    form: str, images: tf.Tensor, step: tf.Tensor, offset: tf.Tensor
) -> tf.Tensor:
    """The trial network's input with the form of augmentation that is timed."""
    config = augmentation.AugmentConfig(form=form)
    images = augmentation.augment_images(
        images, seed=1, step=step, offset=offset, config=config
    )
    return tensor_preprocessing.normalize(images, trial_networks.MEAN)


def _augmented_step(
    strategy: tf.distribute.Strategy,
    settings: check_settings.CheckSettings,
    precision: str,
    prepare: Callable[..., tf.Tensor],
) -> step_timing.TimedLoop:
    """The training loop of the slow network with this form of augmentation."""
    with strategy.scope():
        model = trial_networks.trial_network(
            settings.slow_network, settings.image_size, precision
        )
    batches = trial_networks.distributed_batches(
        strategy,
        lambda _: trial_networks.batches_in_memory(settings.batch, settings.image_size),
    )
    return step_timing.TimedLoop(
        strategy, model, settings.batch, batches, prepare=prepare
    )


def _augmentation_alone(
    settings: check_settings.CheckSettings, form: str
) -> Callable[[int], Any]:
    """Augments a batch on the device again and again, to time the augmentation."""
    device = settings.devices[0].upper() if settings.gpus else "CPU:0"
    pixels, _ = trial_networks.random_batches(settings.batch, settings.image_size, 1)
    with tf.device(device):
        images = tf.identity(tf.constant(pixels[0]))

    augmented = tf.autograph.experimental.do_not_convert(_augmented)

    @tf.function
    def repeat(images: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Augments the images a number of times."""
        total = tf.zeros([])
        for i in tf.range(count):
            # Each turn needs the last one's result, so that none is left out.
            step = tf.cast(i, tf.int64) + tf.cast(0 * total, tf.int64)
            total += augmented(form, images, step, tf.constant(0))[0, 0, 0, 0]
        return total

    def run(count: int) -> None:
        """Augments the images a number of times, and waits for the last one."""
        with tf.device(device):
            repeat(images, tf.constant(count)).numpy()

    return run
