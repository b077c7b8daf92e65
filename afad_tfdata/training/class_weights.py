"""Weights of classes: by number, by name, or balanced; by age, from effective numbers.

::

    class_weights.parse("male:1.0,female:1.6", manifest)       # (1.0, 1.6)
    class_weights.parse("balanced", manifest)                  # from the training split
    class_weights.parse_ages("effective", manifest, 15, 72)    # one weight an age

In the original project a list was passed where a dict was expected, and was ignored.
Here an unknown value is an error, and `describe` says which weights will be used.
"""

from __future__ import annotations

import logging
import math

from afad_tfdata.common import errors
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config

_log = logging.getLogger(__name__)
# Rare ages count at most 1 / (1 - 0.99) = 100 times as much as frequent ones.
DEFAULT_BETA = 0.99


def of_config(
    config: train_config.TrainConfig,
    manifest: schema.Manifest | None,
    ages: tuple[int, int],
) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Weights of the classes and of the ages, as the options of a training say.

    Args:
      config: The options.
      manifest: Of the records, or None.
      ages: First and last age that the network knows.

    Raises:
      UsageError: There are no records to count, or the task does not learn the label.
    """
    if config.class_weight == "none" and config.age_class_weight == "none":
        return (1.0, 1.0), ()
    if manifest is None:
        raise errors.UsageError(
            "class weights are taken from the records: name --records_dir, or bring a"
            " loss of your own that has them"
        )
    task = config.input.task
    for flag, value, label in (
        ("class_weight", config.class_weight, "gender"),
        ("age_class_weight", config.age_class_weight, "age"),
    ):
        if value != "none" and label not in schema.labels_of(task):
            raise errors.UsageError(
                f"--{flag} weighs the examples by {label}, which --task={task}"
                " does not learn: leave it out"
            )
    weights = parse(config.class_weight, manifest)
    age_weights = parse_ages(config.age_class_weight, manifest, *ages)
    _log.info("%s", describe(weights, manifest, age_weights))
    return weights, age_weights


def parse(text: str, manifest: schema.Manifest) -> tuple[float, float]:
    """Weights of classes 0 and 1, from ``--class_weight``.

    Args:
      text: ``none``, ``balanced`` (``n / (2 n_class)`` in the training split, so that
        the mean over its examples is 1) or ``class:weight`` for both classes, where a
        class is 0, 1 or one of the manifest's class names.
      manifest: Of the data set.

    Raises:
      UsageError: The text is something else, or ``balanced`` is asked for and a class
        has no training examples.
    """
    if text == "none":
        return 1.0, 1.0
    if text == "balanced":
        return _balanced_weights(manifest)
    names = [name.lower() for name in manifest.class_names]
    weights: dict[int, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        label = _class_position(names, name, text)
        if label in weights:
            raise errors.UsageError(
                f"--class_weight={text} names class {name} twice: name each class once"
            )
        weights[label] = _parsed_weight(value, text)
    if len(weights) != 2:
        raise errors.UsageError(
            f"--class_weight={text} leaves a class out: name both"
            f" {manifest.class_names[0]} (0) and {manifest.class_names[1]} (1)"
        )
    return weights[0], weights[1]


def parse_ages(
    text: str, manifest: schema.Manifest, min_age: int, max_age: int
) -> tuple[float, ...]:
    """Weights of ages by their effective number, from ``--age_class_weight``.

    ``(1 - beta) / (1 - beta^n)`` for an age with n training examples (Cui, Jia, Lin,
    Song and Belongie, "Class-balanced loss based on effective number of samples",
    CVPR 2019), scaled so that the mean over the training examples is 1.  An age
    without examples has the weight of an age with one.

    Args:
      text: ``none``, ``effective`` or ``effective:BETA`` with beta in [0, 1).  The
        nearer to 1, the more weight rare ages have: at most ``1 / (1 - beta)`` times
        that of frequent ones.
      manifest: Of the data set.
      min_age: Years of the first weight.
      max_age: Years of the last.

    Returns:
      ``max_age - min_age + 1`` weights; an empty tuple for ``none``.
    """
    if text == "none":
        return ()
    kind, _, value = text.partition(":")
    try:
        beta = float(value) if value else DEFAULT_BETA
    except ValueError:
        beta = -1.0
    if kind != "effective" or not 0 <= beta < 1:
        raise errors.UsageError(
            "--age_class_weight takes none, effective or effective:BETA with BETA from"
            f" 0 to below 1; got {text!r}"
        )
    counts = [0] * (max_age - min_age + 1)
    for age, number in manifest.split("train").ages.items():
        counts[min(max(age - min_age, 0), len(counts) - 1)] += number
    weights = [(1 - beta) / (1 - beta ** max(1, number)) for number in counts]
    pairs = zip(weights, counts, strict=True)
    mean = sum(weight * number for weight, number in pairs) / sum(counts)
    return tuple(weight / mean for weight in weights)


def describe(
    weights: tuple[float, float],
    manifest: schema.Manifest,
    age_weights: tuple[float, ...] = (),
) -> str:
    """One line for the log: which weights of classes and ages will be used."""
    text = ", ".join(
        f"{name} {weight:.4g}"
        for name, weight in zip(manifest.class_names, weights, strict=True)
    )
    line = f"class weights: {text}" if weights != (1.0, 1.0) else "class weights: none"
    if age_weights:
        line += f"; age weights from {min(age_weights):.3g} to {max(age_weights):.3g}"
    return line


def _balanced_weights(manifest: schema.Manifest) -> tuple[float, float]:
    """Weights under which both classes count the same."""
    by_class = manifest.split("train").counts
    counts = [sum(by_class.get(name, {}).values()) for name in manifest.class_names]
    if not all(counts):
        found = ", ".join(
            f"{name} {count}"
            for name, count in zip(manifest.class_names, counts, strict=True)
        )
        raise errors.UsageError(
            f"--class_weight=balanced needs both classes in the training split, which"
            f" has {found}: take --class_weight=none"
        )
    return sum(counts) / (2 * counts[0]), sum(counts) / (2 * counts[1])


def _class_position(names: list[str], name: str, text: str) -> int:
    """Which class a name of ``--class_weight`` is."""
    if name in ("0", "1"):
        return int(name)
    if name.lower() not in names:
        raise errors.UsageError(
            f"--class_weight takes none, balanced or weights such as 0:1.0,1:1.6 or"
            f" {names[0]}:1.0,{names[1]}:1.6; got {text!r}"
        )
    return names.index(name.lower())


def _parsed_weight(value: str, text: str) -> float:
    """A weight of ``--class_weight`` as a number."""
    try:
        weight = float(value)
    except ValueError:
        weight = -1.0
    if not (weight >= 0 and math.isfinite(weight)):
        raise errors.UsageError(
            f"--class_weight={text}: a weight is a number from 0 up; got {value!r}"
        )
    return weight
