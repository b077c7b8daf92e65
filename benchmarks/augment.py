"""Speed of the augmentation, compared with Keras' layers and Keras' generator.

All of them rotate, zoom, shift, shear and flip a batch in memory with the default
ranges.  They take turns within each round because rates drift on a shared machine:
compare only ratios within one run.

    python benchmarks/augment.py [--batch_size=64] [--image_size=150] [--rounds=15]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.images import augmentation

DEFAULT = augmentation.AugmentConfig()
COLORS = augmentation.AugmentConfig(
    brightness=0.2, contrast=0.2, color=0.2, erasing=0.5
)


def ours(images: Any, config: augmentation.AugmentConfig) -> Callable[[int], Any]:
    def run(step: int) -> Any:
        return wait(
            augmentation.augment_images(images, seed=1, step=step, config=config)
        )

    return run


def wait(result: Any) -> Any:
    """Waits for the device by reading one pixel; a copy of all would be timed, too."""
    result[0, 0, 0].numpy()
    return result


def keras_layers(images: Any, *, shear: bool) -> Callable[[int], Any]:
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(DEFAULT.rotation / 360, fill_mode="nearest"),
        keras.layers.RandomZoom(DEFAULT.zoom, DEFAULT.zoom, fill_mode="nearest"),
        keras.layers.RandomTranslation(
            DEFAULT.shift, DEFAULT.shift, fill_mode="nearest"
        ),
    ]
    if shear:
        factor = np.sin(DEFAULT.shear)
        layers.append(keras.layers.RandomShear(x_factor=factor, fill_mode="nearest"))

    @tf.function
    def augmented(batch: Any) -> Any:
        batch = tf.cast(batch, tf.float32)
        for layer in layers:
            batch = layer(batch, training=True)
        return batch

    return lambda step: wait(augmented(images))


def keras_generator(images: Any) -> Callable[[int], Any]:
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rotation_range=DEFAULT.rotation,
        zoom_range=DEFAULT.zoom,
        width_shift_range=DEFAULT.shift,
        height_shift_range=DEFAULT.shift,
        shear_range=np.rad2deg(DEFAULT.shear),
        horizontal_flip=DEFAULT.flip,
        fill_mode=DEFAULT.fill,
    )
    batches = generator.flow(images.numpy(), batch_size=len(images), shuffle=False)
    return lambda step: next(batches)


def measure(ways: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, float]:
    """Median seconds for a batch, by name."""
    for run in ways.values():
        run(0)  # Traces and compiles.
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run(step)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=64, help="images")
    parser.add_argument("--image_size", type=int, default=150, help="side in pixels")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    size = arguments.image_size
    shape = (arguments.batch_size, size, size, 3)
    images = tf.constant(generator.integers(0, 256, shape, dtype=np.uint8))
    ways = {
        "afad_tfdata, gather under XLA": ours(
            images, dataclasses.replace(DEFAULT, form="gather")
        ),
        "afad_tfdata, gather, all options": ours(
            images, dataclasses.replace(COLORS, form="gather")
        ),
        "afad_tfdata, affine_op": ours(
            images, dataclasses.replace(DEFAULT, form="affine_op")
        ),
        "Keras layers": keras_layers(images, shear=True),
        "Keras layers without shear": keras_layers(images, shear=False),
        "Keras ImageDataGenerator": keras_generator(images),
    }
    seconds = measure(ways, arguments.rounds)
    gpus = len(tf.config.list_physical_devices("GPU"))
    print(
        f"{'x'.join(map(str, shape))} uint8, {os.cpu_count()} {platform.machine()}"
        f" cores, {gpus} GPU, TensorFlow {tf.__version__}, Keras"
        f" {keras.__version__}, {datetime.date.today()}"
    )
    print(f"form=auto is {augmentation.resolve_form(DEFAULT)} here\n")
    print("| | images/s | relative to the layers | relative to the generator |")
    print("|---|---|---|---|")
    for name, value in seconds.items():
        layers = seconds["Keras layers"] / value
        by_image = seconds["Keras ImageDataGenerator"] / value
        rate = arguments.batch_size / value
        print(f"| {name} | {rate:,.0f} | {layers:.1f} | {by_image:.1f} |")


if __name__ == "__main__":
    main()
