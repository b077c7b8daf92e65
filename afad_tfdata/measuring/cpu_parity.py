"""Whether the devices compute what the CPU computes.

Without a GPU, the second of two logical CPU devices takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from afad_tfdata import freeze, models
from afad_tfdata.common import xla
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import loaded_graph
from afad_tfdata.images import augmentation
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    trial_networks,
)
from afad_tfdata.training.distributed import strategies

# Levels of 255: what a thousandth of a pixel changes at the sharpest edge.
_AUGMENTATION_LIMIT = 0.255
# The same limits hold for k replicas compared with one.
_GRADIENT_LIMIT = {"float32": 1e-6, "float64": 1e-9}
_WEIGHTS_LIMIT = {"float32": 1e-4, "float64": 1e-9}
_STEPS = 20
# The same limit holds for a frozen graph compared with its model.
_GRAPH_LIMIT = 1e-5


def measure(
    settings: check_settings.CheckSettings, what: str
) -> Iterator[check_table.Row]:
    """Compares what a device computes with what the CPU computes.

    Args:
      settings: Devices and sizes.
      what: ``augmentation``, ``step`` or ``graph``.
    """
    # TF32 rounds on purpose.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    device = strategies.device_names(settings.all_devices)[-1]
    yield from _PARTS[what](settings, device)


def _compare_augmentation(
    settings: check_settings.CheckSettings, device: str
) -> Iterator[check_table.Row]:
    """Compares augmented images on the device with those on the CPU."""
    config = augmentation.AugmentConfig(
        brightness=0.2, contrast=0.2, color=0.2, erasing=0.5
    )
    size = settings.image_size
    images = trial_networks.random_batches(32, size, 1)[0][0]

    def parameters() -> dict[str, np.ndarray]:
        """The parameters of the augmentation on the current device."""
        found = augmentation.parameters(64, size, size, seed=1, step=7, config=config)
        return {name: value.numpy() for name, value in found.items()}

    one, two = _call_on("CPU:0", parameters), _call_on(device, parameters)
    differing = [name for name in one if not np.array_equal(one[name], two[name])]
    yield check_table.holds(
        "parameters of the augmentation",
        not differing,
        target="equal, bit for bit",
        measured=f"{len(differing)} of {len(one)} differ" if differing else "equal",
        why=", ".join(differing),
    )
    for form in augmentation.FORMS:
        if form == "gather" and (reason := xla.why_not()):
            yield check_table.not_applicable(form, reason)
            continue
        settled = augmentation.AugmentConfig(form=form)

        def augmented(settled: augmentation.AugmentConfig = settled) -> np.ndarray:
            """The augmented images on the current device."""
            return augmentation.augment_images(
                images, seed=1, step=7, config=settled
            ).numpy()

        difference = np.abs(_call_on("CPU:0", augmented) - _call_on(device, augmented))
        yield check_table.at_most(
            f"{form}, largest difference in levels of 255",
            float(difference.max()),
            _AUGMENTATION_LIMIT,
            "{:.2g}",
            measured=f"{difference.mean():.1g} on average",
        )


def _compare_step(
    settings: check_settings.CheckSettings, device: str
) -> Iterator[check_table.Row]:
    """Compares a step on the device with the same step on the CPU."""
    del settings
    places = {
        name: tf.distribute.OneDeviceStrategy(f"/{name}") for name in ("CPU:0", device)
    }
    for dtype in ("float64", "float32"):
        gradients, weights = [], []
        for strategy in places.values():
            model = trial_networks.exact_network(strategy, dtype)
            gradients.append(trial_networks.exact_gradient(strategy, model, dtype))
            trainer = trial_networks.exact_train_step(strategy, model, dtype)
            batches = trial_networks.exact_batches(strategy)
            trainer.run(batches, 0, [1e-3] * _STEPS)
            parts = [w.astype(np.float64).ravel() for w in model.get_weights()]
            weights.append(np.concatenate(parts))
        for name, (one, two), limits in (
            ("gradient of a step", gradients, _GRADIENT_LIMIT),
            (f"weights after {_STEPS} steps", weights, _WEIGHTS_LIMIT),
        ):
            yield check_table.at_most(
                f"{name}, {dtype}, relative to the norm",
                float(np.linalg.norm(one - two) / np.linalg.norm(one)),
                limits[dtype],
                "{:.2g}",
                why="rounding, if the rows of float64 meet their targets"
                if dtype == "float32"
                else "",
            )


def _compare_graph(
    settings: check_settings.CheckSettings, device: str
) -> Iterator[check_table.Row]:
    """Compares a frozen graph on the device with the same graph on the CPU."""
    keras.utils.set_random_seed(1)
    size = settings.image_size
    config = models.ModelConfig(
        backbone="small_cnn", weights="none", image_size=size, mean=trial_networks.MEAN
    )
    model = models.build_model(config)
    directory = os.path.join(settings.work_dir, "frozen")
    frozen = freeze.freeze(
        freeze.FreezeConfig(
            output_dir=directory,
            output_name="graph",
            records_dir=settings.records_dir,
            class_names=("male", "female"),
        ),
        model,
    )
    pixels = trial_networks.random_batches(32, size, 1)[0][0]
    images = trial_networks.normalized(pixels, 0, 0).numpy()
    fetches = {
        "age": "age_output/BiasAdd",
        "gender": "gender_output/Sigmoid",
    }
    function = tf.function(
        loaded_graph.load_as_function(frozen.path, "root_input", fetches),
        autograph=False,
    )

    def outputs() -> dict[str, np.ndarray]:
        """The outputs of the graph on the current device."""
        found = function(tf.constant(images))
        return {name: value.numpy() for name, value in found.items()}

    one, two = _call_on("CPU:0", outputs), _call_on(device, outputs)
    by_model = model(images, training=False)
    for label, output in zip(("age", "gender"), by_model, strict=True):
        largest = max(1.0, float(np.abs(one[label]).max()))
        to_cpu = float(np.abs(one[label] - two[label]).max()) / largest
        to_model = float(np.abs(two[label] - np.asarray(output)).max()) / largest
        yield check_table.at_most(
            f"{label} of the frozen graph, relative to max(1, largest value)",
            max(to_cpu, to_model),
            _GRAPH_LIMIT,
            "{:.2g}",
            measured=f"{to_cpu:.1g} from the graph on the CPU, {to_model:.1g} from the"
            " model",
        )


def _call_on(device: str, function: Callable[[], Any]) -> Any:
    """Calls a function on the CPU or another device, to compare the results."""
    with tf.device(f"/{device}"):
        return function()


_PARTS: dict[str, Callable[..., Iterator[check_table.Row]]] = {
    "augmentation": _compare_augmentation,
    "step": _compare_step,
    "graph": _compare_graph,
}
