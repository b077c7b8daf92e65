"""Time that the training loop adds to the model, and how model.fit compares.

    python benchmarks/train.py [--pairs=20] [--steps=20] [--records_dir=records]

The same network and optimizer run in one process, on the same batches:

=======  ============================================================================
bare     a ``tf.function`` around forward pass, backward pass and update
loop     this package's loop (`step.TrainStep`), with its metrics and its clock
fit      Keras ``model.fit``
reading  the loop again, on batches from records (with ``--records_dir``)
input    these batches alone, without a model
=======  ============================================================================

They take turns, so that a machine that becomes slower slows all of them.  The result is
the median of the ratios within a round, with its bootstrap interval.  The cost of
reading is the time of ``reading`` compared with the time of ``loop`` plus the CPU time
of ``input``.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from afad_tfdata import input_fn, models
from afad_tfdata.images import tensor_preprocessing
from afad_tfdata.models import losses
from afad_tfdata.training import optimizers, step

MEAN = (130.0, 115.0, 105.0)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="rounds")
    parser.add_argument("--steps", type=int, default=20, help="steps of one timing")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument(
        "--backbone", default="small_cnn", help="as for afad-train's --backbone"
    )
    parser.add_argument(
        "--records_dir", default="", help="data set for the lines reading and input"
    )
    arguments = parser.parse_args()
    dataset = batches(arguments.batch, arguments.size)
    ways = {
        "bare": bare(arguments, dataset),
        "loop": loop(arguments, dataset),
        "fit": fit(arguments, dataset),
    }
    if arguments.records_dir:
        config = input_fn.InputConfig(
            records_dir=arguments.records_dir,
            global_batch_size=arguments.batch,
            image_size=arguments.size,
        )
        ways["reading"] = loop(arguments, input_fn.train_input_fn(config))
        ways["input"] = input_alone(input_fn.train_input_fn(config))
    for way in ways.values():
        way(2)  # Traces and compiles.
        way(arguments.steps)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for pair in range(arguments.pairs):
        # Back and forth, so that none always runs after the same other one.
        names = list(ways) if pair % 2 == 0 else list(reversed(ways))
        for name in names:
            began, cpu_began = time.perf_counter(), time.process_time()
            ways[name](arguments.steps)
            seconds[name].append((time.perf_counter() - began) / arguments.steps)
            cpu[name].append((time.process_time() - cpu_began) / arguments.steps)
    print(
        f"{arguments.backbone}, batch {arguments.batch}, {arguments.size} px,"
        f" TensorFlow {tf.__version__}, {len(os.sched_getaffinity(0))} cores,"
        f" {len(tf.config.list_physical_devices('GPU'))} GPUs;"
        f" {arguments.pairs} rounds of {arguments.steps} steps"
    )
    print(
        f"{'':<8}{'ms/step':>9}{'steps/s':>9}{'images/s':>10}{'CPU ms':>9}"
        "   compared with bare: time, CPU time"
    )
    for name, values in seconds.items():
        median = float(np.median(values))
        print(
            f"{name:<8}{median * 1e3:9.2f}{1 / median:9.1f}"
            f"{arguments.batch / median:10.0f}{np.median(cpu[name]) * 1e3:9.2f}"
            f"   {change(values, seconds['bare'])}, {change(cpu[name], cpu['bare'])}"
        )
    if "reading" in ways:
        for name, values in (("time", seconds), ("CPU time", cpu)):
            parts = [a + b for a, b in zip(values["loop"], cpu["input"], strict=True)]
            print(
                f"reading, compared with loop plus the CPU time of input: {name}"
                f" {change(values['reading'], parts)}"
            )
    share = 1 - 1 / float(np.median(np.array(seconds["loop"]) / seconds["bare"]))
    print(f"share of a step of loop that bare does not need: {share:.1%}")


def change(values: list[float], others: list[float]) -> str:
    """Median of the ratios less 1, with its 95 % bootstrap interval, in percent."""
    ratios = np.array(values) / np.array(others) - 1
    rng = np.random.default_rng(1)
    draws = rng.choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return f"{np.median(ratios):+.1%} [{low:+.1%}, {high:+.1%}]"


def batches(batch: int, size: int) -> tf.data.Dataset:
    """Endless batches from memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, batch, size, size, 3)).astype(np.uint8)
    labels = {
        "age": rng.uniform(15, 60, (4, batch)).astype(np.float32),
        "gender": rng.integers(0, 2, (4, batch)).astype(np.int32),
    }
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, labels))
    return dataset.cache().repeat().prefetch(2)


def build(arguments: argparse.Namespace):
    """The network and its loss, the same for all."""
    keras.utils.set_random_seed(1)
    config = models.ModelConfig(
        backbone=arguments.backbone,
        weights="none",
        image_size=arguments.size,
        mean=MEAN,
    )
    model = models.build_model(config)
    return models.training_model(model), losses.build(losses.LossConfig())


def bare(arguments: argparse.Namespace, dataset: tf.data.Dataset):
    """Only the model: forward pass, backward pass and update for a batch."""
    network, loss_fn = build(arguments)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)
    iterator = iter(dataset)

    @tf.function
    def one(iterator):
        features, labels = next(iterator)
        with tf.GradientTape() as tape:
            outputs = network(
                tensor_preprocessing.normalize(features["image"], MEAN), training=True
            )
            loss = tf.reduce_mean(loss_fn(outputs, labels)["loss"])
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, network.trainable_variables, strict=True)
        )
        return loss

    def run(steps: int) -> None:
        for _ in range(steps):
            loss = one(iterator)
        loss.numpy()

    return run


def loop(arguments: argparse.Namespace, dataset: tf.data.Dataset):
    """This package's loop."""
    network, loss_fn = build(arguments)
    strategy = tf.distribute.get_strategy()
    trainer = step.TrainStep(
        strategy,
        network,
        optimizers.build("adam", momentum=0.9),
        loss_fn,
        lambda images, step, offset: tensor_preprocessing.normalize(images, MEAN),
        step.StepConfig(global_batch_size=arguments.batch),
    )
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: dataset))
    done = [0]

    def run(steps: int) -> None:
        rows, _ = trainer.run(iterator, done[0], [1e-3] * steps)
        rows.numpy()
        done[0] += steps

    return run


def input_alone(dataset: tf.data.Dataset):
    """Reads batches without a model."""
    iterator = iter(dataset)

    def run(steps: int) -> None:
        for _ in range(steps):
            next(iterator)

    return run


def fit(arguments: argparse.Namespace, dataset: tf.data.Dataset):
    """Keras' loop, with the same losses."""
    network, _ = build(arguments)
    images = network.inputs[0]
    model = keras.Model(
        images,
        {
            "age_output": network.output["age_output"],
            "gender_output": network.output["gender_output"],
        },
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss={"age_output": "mae", "gender_output": "binary_crossentropy"},
        loss_weights={"age_output": 1.0, "gender_output": 500.0},
        metrics={"age_output": "mae", "gender_output": "accuracy"},
    )
    ready = dataset.map(
        lambda features, labels: (
            tensor_preprocessing.normalize(features["image"], MEAN),
            {"age_output": labels["age"], "gender_output": labels["gender"]},
        )
    ).prefetch(2)

    def run(steps: int) -> None:
        model.fit(ready, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)

    return run


if __name__ == "__main__":
    main()
