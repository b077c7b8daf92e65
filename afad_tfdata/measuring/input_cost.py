"""Training from records beside training from memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

from afad_tfdata import input_fn
from afad_tfdata.common import resources
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    step_timing,
    trial_networks,
)
from afad_tfdata.training import process_settings, step
from afad_tfdata.training.distributed import strategies

# The share of the time that steps may wait for the records.
LIMIT = 0.01


def measure(settings: check_settings.CheckSettings) -> Iterator[check_table.Row]:
    """Takes the same steps from records and from memory; counts the cores needed."""
    strategy = strategies.create_strategy(settings.first_device)
    precision = process_settings.resolve_precision(
        "auto" if settings.gpus else "float32"
    )
    config = input_fn.InputConfig(
        records_dir=settings.records_dir,
        global_batch_size=settings.batch,
        image_size=settings.image_size,
    )

    def from_memory(context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Batches of noise from memory."""
        del context
        return trial_networks.batches_in_memory(settings.batch, settings.image_size)

    def from_records(context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Batches of the trial data set."""
        return input_fn.train_input_fn(config, context)

    cores = resources.cores()
    one_pass = input_fn.num_examples(config, "train") // settings.batch + 1
    for backbone in settings.networks:
        rates = {}
        for name, make in (("memory", from_memory), ("records", from_records)):
            with strategy.scope():
                model = trial_networks.trial_network(
                    backbone, settings.image_size, precision
                )
            batches = trial_networks.distributed_batches(strategy, make)
            loop = step_timing.TimedLoop(strategy, model, settings.batch, batches)
            # The first pass is not timed, because it also compares the checksums, which
            # happens once in a training.
            loop.run_steps(min(one_pass, step.MAX_STEPS_PER_CALL))
            rates[name] = loop.step_rate(2 * settings.seconds)
            del loop, batches, model
        needed = rates["memory"].images_per_second * _input_cpu_seconds(
            config, settings
        )
        yield check_table.at_most(
            f"{backbone} in {precision}, waiting for records",
            rates["records"].waiting,
            LIMIT,
            "{:.1%}",
            not_applicable=settings.unjudged,
            why=f"{needed:.1f} cores are needed, and there are {cores}"
            if needed > cores
            else "",
            measured=f"{rates['records'].images_per_second:,.0f} images/s, from memory"
            f" {rates['memory'].images_per_second:,.0f}; reading that fast takes"
            f" {needed:.1f} of {cores} cores",
            images_per_second=rates["records"].images_per_second,
            from_memory=rates["memory"].images_per_second,
            cores_needed=needed,
            cores=cores,
        )


def _input_cpu_seconds(
    config: input_fn.InputConfig, settings: check_settings.CheckSettings
) -> float:
    """CPU time that the input takes to read, decode and resize one image."""
    iterator = iter(input_fn.train_input_fn(config))

    @tf.function
    def take(iterator: Iterator, count: tf.Tensor) -> tf.Tensor:
        """Takes a number of batches; returns the number of their images."""
        total = tf.constant(0)
        for _ in tf.range(count):
            features, _ = next(iterator)
            total += tf.shape(features["image"])[0]
        return total

    # The first pass also checks the checksums.
    steps = input_fn.num_examples(config, "train") // config.global_batch_size + 1
    take(iterator, tf.constant(steps)).numpy()
    images, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < began + settings.seconds:
        images += int(take(iterator, tf.constant(8)))
    return (time.process_time() - used) / images
