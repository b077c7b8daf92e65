"""A model whose outputs are averaged over mirror images and corrected.

::

    corrections = corrected_source.find_corrections(source, flip_average=True, ...)
    source = corrected_source.with_corrections(source, corrections)
    source.call(images)             # as before, with the corrections in it

Only operations that TensorFlow 1.15 has are used, because frozen graphs run there.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import model_source
from afad_tfdata.models import age_heads, corrections_file
from afad_tfdata.training import run_dir

_log = logging.getLogger(__name__)

# Label of the output that `Corrections.age_spread` adds.
SPREAD = "age_spread"
# A smaller probability is replaced by this before its logarithm is taken.
_SMALLEST = 1e-7


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What a graph does to the outputs of its model.

    Attributes:
      flip_average: Whether each output is the mean over the image and its mirror image.
      gender_temperature: The measured temperature; None if there is none.
      age_correction: The measured correction; None if there is none.
      age_interval: The interval that was measured for outputs with these corrections;
        None if there is none.
      age_spread: Whether `SPREAD` is one more output, which is no correction.
    """

    flip_average: bool = False
    gender_temperature: dict[str, Any] | None = None
    age_correction: dict[str, Any] | None = None
    age_interval: dict[str, Any] | None = None
    age_spread: bool = False

    @property
    def in_graph(self) -> dict[str, Any]:
        """The corrections that are in the graph, as JSON values."""
        return {
            "flip_average": self.flip_average,
            "gender_temperature": self.gender_temperature,
            "age_correction": self.age_correction,
        }


def from_description(description: Mapping[str, Any]) -> Corrections:
    """The corrections that are in a frozen graph, by its NAME.json."""
    return Corrections(
        # Graphs of earlier versions have no corrections.
        **description.get("corrections", {}),
        age_spread=any(fetch["label"] == SPREAD for fetch in description["fetches"]),
    )


def directory_of_corrections(path: str) -> str:
    """The directory with the corrections of a source: its run, or its own folder."""
    folder = os.path.dirname(path.rstrip("/")) or "."
    # A checkpoint is in a folder of its run.
    above = os.path.normpath(os.path.join(folder, os.pardir))
    directory = run_dir.config_of(path).get("directory", "")
    return above if directory == os.path.abspath(above) else folder


def find_corrections(
    source: model_source.Source,
    *,
    flip_average: bool,
    gender_temperature: bool,
    age_correction: bool,
    age_spread: bool = False,
) -> Corrections:
    """The corrections that are asked for, as an evaluation of the source measured them.

    Args:
      source: The model.
      flip_average: Whether outputs are averaged.
      gender_temperature: Whether the gender is scaled.
      age_correction: Whether the age is corrected.
      age_spread: Whether the spread is an output.

    Raises:
      UsageError: A correction that is asked for was not measured for this model file,
        or not with the same averaging; or the model has no spread.
      DataError: ``calibration.json`` is damaged.
    """
    entry: dict[str, Any] = {}
    if source.path:
        entry = (
            corrections_file.load_entry(
                directory_of_corrections(source.path), source.path
            )
            or {}
        )
    asked = {
        "gender_temperature": gender_temperature,
        "age_correction": age_correction,
    }
    with_flip = " --flip_average" if flip_average else ""
    for name, wanted in asked.items():
        if wanted and not entry.get(name):
            raise errors.UsageError(
                f"--{name}: nothing was measured for {source.path or 'this model'}: run"
                f" afad-evaluate --{name}{with_flip} on it first"
            )
        if wanted and entry["flip_average"] != flip_average:
            raise errors.UsageError(
                f"--{name} was measured {'without' if flip_average else 'with'}"
                " --flip_average: freeze in the same way, or run afad-evaluate"
                f" --{name}{with_flip} again"
            )
    if age_spread and not _has_age_spread(source):
        head = source.facts.network.get("age_head", "")
        raise errors.UsageError(
            f"--age_spread: {source.path or 'this model'} predicts no distribution of"
            f" ages{f' (its age head is {head})' if head else ''}; leave the flag out"
        )
    interval = entry.get("age_interval")
    same = (
        interval is not None
        and entry["flip_average"] == flip_average
        and bool(entry["age_correction"]) == age_correction
    )
    if interval and not same:
        _log.warning(
            "the age interval of %s was measured with other corrections and is left"
            " out: run afad-evaluate --interval_coverage=%g%s%s again",
            source.path,
            interval["coverage"],
            with_flip,
            " --age_correction" if age_correction else "",
        )
    return Corrections(
        flip_average,
        entry["gender_temperature"] if gender_temperature else None,
        entry["age_correction"] if age_correction else None,
        interval if same else None,
        age_spread,
    )


def with_corrections(
    source: model_source.Source,
    corrections: Corrections,
) -> model_source.Source:
    """The source with corrections in its outputs; itself if there are none.

    Args:
      source: The model.
      corrections: From `find_corrections`.
    """
    temperature, line = corrections.gender_temperature, corrections.age_correction
    labels = (*source.labels, *([SPREAD] if corrections.age_spread else []))
    if not (corrections.flip_average or temperature or line or corrections.age_spread):
        return source

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The corrected outputs of the source."""
        found = outputs(source, images, flip_average=corrections.flip_average)
        if temperature:
            logit = found["gender_logit"] / temperature["temperature"]
            found["gender"] = tf.sigmoid(logit)
        if line:
            found["age"] = found["age"] * line["slope"] + line["offset"]
        return {label: found[label] for label in labels}

    # The model's own function has no corrections: its speed is not comparable.
    return dataclasses.replace(source, call=call, predict=None, labels=labels)


def outputs(
    source: model_source.Source, images: tf.Tensor, *, flip_average: bool
) -> dict[str, tf.Tensor]:
    """A model source's outputs, and what corrections and intervals are made from.

    Args:
      source: The model.
      images: float32 ``[n, size, size, 3]``.
      flip_average: Whether each value is the mean over the image and its mirror image.

    Returns:
      ``age`` and/or ``gender`` as the model returns them; with gender also
      ``gender_logit``, the logit of that (mean) probability; ``age_spread``, the
      standard deviation of the age head's distribution in years ``[n, 1]``, if the age
      head has one.
    """
    if flip_average:
        # The batch gets twice the size, because two calls would put the network into
        # the graph twice.
        images = tf.concat([images, tf.reverse(images, [2])], axis=0)
    parts = source.call(images) if source.parts is None else source.parts(images)
    found = {label: parts[label] for label in source.labels}
    if "gender" in found:
        found["gender_logit"] = _gender_logit(parts, flip_average)
    spread = _age_spread(source, parts)
    if spread is not None:
        found[SPREAD] = spread
    if not flip_average:
        return found
    return {
        name: value if name == "gender_logit" else _mean_over_mirror_images(value)
        for name, value in found.items()
    }


def _mean_over_mirror_images(value: tf.Tensor) -> tf.Tensor:
    """The mean of a source's outputs for images and for their mirror images."""
    return tf.reduce_mean(tf.reshape(value, [2, -1, *value.shape[1:]]), axis=0)


def _gender_logit(parts: dict[str, tf.Tensor], flip_average: bool) -> tf.Tensor:
    """The logit of the (mean) probability of class 1, which a correction scales."""
    logits = parts.get("gender_logits")
    if logits is not None and not flip_average:
        return tf.reshape(logits, tf.shape(parts["gender"]))
    if logits is not None:
        # The probability of class 0 also comes from the logit, because 1 - p loses its
        # digits where p is near 1.
        one = _mean_over_mirror_images(tf.sigmoid(logits))
        zero = _mean_over_mirror_images(tf.sigmoid(-logits))
    else:
        one = parts["gender"]
        one = _mean_over_mirror_images(one) if flip_average else one
        zero = 1.0 - one
    one, zero = tf.maximum(one, _SMALLEST), tf.maximum(zero, _SMALLEST)
    return tf.math.log(one) - tf.math.log(zero)


def _has_age_spread(source: model_source.Source) -> bool:
    """Whether the source can have the spread of its ages as one more output."""
    head = source.facts.network.get("age_head")
    has_logits = head in (*age_heads.DISTRIBUTIONS, *age_heads.RANKS)
    return has_logits and source.parts is not None and "age" in source.labels


def _age_spread(
    source: model_source.Source, parts: dict[str, tf.Tensor]
) -> tf.Tensor | None:
    """The spread of the source's ages: the standard deviation, in years."""
    network = source.facts.network
    if "age_logits" not in parts or not _has_age_spread(source):
        return None
    return age_heads.spread(
        parts["age_logits"], network["age_head"], network["min_age"], network["max_age"]
    )
