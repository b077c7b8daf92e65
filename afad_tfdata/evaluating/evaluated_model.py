"""Models to be evaluated, whatever they are loaded from.

::

    model = evaluated_model.load("run/best.keras", strategy, which="best")
    model.network(images)["age_output"]
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import (
    corrected_source,
    graph_description,
    loaded_graph,
    model_source,
)
from afad_tfdata.models import corrections_file, facts, input_range
from afad_tfdata.training import run_dir


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A model to be evaluated, whatever it was loaded from.

    Attributes:
      network: Maps a batch of its input to ``age_output`` and ``gender_output``, with
        ``gender_logit_output`` and ``age_spread_output`` where it knows them.
      labels: ``age``, ``gender`` or both.
      image_size: Side of its input in pixels.
      facts: What the model's file and its run say about the model.
      owner: The object that owns the weights; it must live as long as the network.
      calibration: What an earlier evaluation measured for it; None for nothing.
      path: Its file, or the directory of a SavedModel.
    """

    network: Callable[..., dict[str, tf.Tensor]]
    labels: tuple[str, ...]
    image_size: int
    facts: facts.Facts
    owner: Any
    calibration: Mapping[str, Any] | None
    path: str


def load(
    path: str,
    strategy: tf.distribute.Strategy,
    *,
    which: str = "best",
    epoch: int = 0,
    outputs: Sequence[str] = (),
    given_range: str = "auto",
    unsafe_load: bool = False,
    flip_average: bool = False,
) -> EvaluatedModel:
    """Loads a model to be evaluated, on the strategy's devices.

    Args:
      path: What ``--model`` takes.
      strategy: Whose devices it runs on.
      which: Which model of a run directory: ``best`` or ``final``.
      epoch: Epoch of the checkpoint of a run directory; 0 for the model `which`.
      outputs: Labels of the outputs.
      given_range: The flag ``--input_range``.
      unsafe_load: Run code that the file contains.
      flip_average: Whether outputs are means over an image and its mirror image.

    Raises:
      UsageError: There is no such model, or a flag does not fit it.
      DataError: A file is damaged.
    """
    if path.endswith(".pb"):
        given = {"outputs": outputs, "epoch": epoch, "flip_average": flip_average}
        for flag, value in given.items():
            if value:
                raise errors.UsageError(
                    f"--{flag} does not apply to the frozen graph {path}: leave the"
                    " flag out"
                )
        return _load_graph(path, given_range)
    with strategy.scope():
        source = model_source.open_source(
            path,
            which=which,
            # A run directory's checkpoint was found already.
            epoch=epoch if os.path.isdir(path) else 0,
            outputs=outputs,
            unsafe_load=unsafe_load,
            advice="evaluate another model",
        )
    known = run_dir.known_facts(
        source.facts, source.run, path=source.path, model=source.owner
    )
    chosen = input_range.choose(
        known.input_range or source.input_range, given_range, what=path
    )

    def network(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The outputs of the evaluated model, by the names of its outputs."""
        del training  # A source computes in inference only.
        found = corrected_source.outputs(source, images, flip_average=flip_average)
        return {f"{k}_output": v for k, v in found.items()}

    return EvaluatedModel(
        network,
        source.labels,
        source.image_size,
        dataclasses.replace(known, input_range=chosen),
        source.owner,
        corrections_file.load_entry(
            corrected_source.directory_of_corrections(source.path), source.path
        ),
        source.path,
    )


def _load_graph(path: str, given_range: str) -> EvaluatedModel:
    """Loads a frozen graph to be evaluated, as a function that strategies can run."""
    if not files.exists(path):
        raise errors.UsageError(
            f"--model: {path} does not exist; name a model or graph"
        )
    description = graph_description.load_description(path)
    if os.path.basename(path) != description["graph"]["file"]:
        raise errors.UsageError(
            f"{path} takes image files or pixels; evaluate"
            f" {description['graph']['file']}, which contains the same network"
        )
    known = facts.from_dict(
        {
            "class_names": description["class_names"],
            "mean": description["mean"],
            "age_range": description["age_range"],
            # Graphs of version 0.1.0 take normalised images and do not say so.
            "input_range": description.get("input_range", "normalized"),
            "decode": graph_description.decode_of_training(description, where=path),
        },
        where=path,
    )
    input_range.choose(known.input_range, given_range, what=path)
    fetches = {f["label"]: f["name"] for f in description["fetches"]}
    function = loaded_graph.load_as_function(
        path, description["feeds"][0]["name"], fetches
    )

    def network(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The outputs of the evaluated graph, by the names of a model's outputs."""
        del training  # A graph has inference only.
        return {f"{k}_output": v for k, v in function(images).items()}

    # Its outputs are corrected already, and so is its interval.
    interval = {"age_interval": description.get("age_interval")}
    stored = {"flip_average": False, "age_correction": None, **interval}
    return EvaluatedModel(
        network,
        tuple(label for label in fetches if label != corrected_source.SPREAD),
        description["image_size"],
        known,
        function,
        stored,
        path,
    )
