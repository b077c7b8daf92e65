"""The files that a model card is made of: those of a run, and those of a graph."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from afad_tfdata import evaluation
from afad_tfdata.common import errors, files
from afad_tfdata.freezing import graph_description
from afad_tfdata.storage import schema
from afad_tfdata.training import history, run_dir


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """What the files of a model say; each part is empty if its file is missing.

    Attributes:
      name: Of the run or the graph, for people.
      run: ``config.json``.
      history: ``history.json``.
      metrics: Of the model file itself, from ``NAME.json`` or ``metrics.json``.
      graph: ``NAME.json``.
    """

    name: str
    run: dict[str, Any]
    history: dict[str, Any]
    metrics: dict[str, Any]
    graph: dict[str, Any]

    @property
    def network(self) -> dict[str, Any]:
        """Backbone, heads and the rest of the network, as the model's files name it."""
        return self.graph.get("model") or self.run.get("model") or {}

    @property
    def labels(self) -> list[str]:
        """What the model predicts by its files: ``age``, ``gender`` or both."""
        if self.graph:
            labels = [fetch["label"] for fetch in self.graph["fetches"]]
            return [label for label in labels if label in ("age", "gender")]
        task = self.run.get("train", {}).get("task", "")
        return list(schema.labels_of(task))


def read(run: str, graph: str) -> ModelFiles:
    """Reads the files of a run and of a graph that a model card is made of.

    Args:
      run: The run's directory; empty for none.
      graph: NAME.pb, which has NAME.json next to it; empty for none.

    Raises:
      UsageError: There is no such run or graph, or the graph is of another run.
      DataError: A file is damaged.
    """
    config: dict[str, Any] = {}
    past: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    description: dict[str, Any] = {}
    if run:
        run = os.path.normpath(files.local_path(run))
        config = run_dir.read_config(run)
        past = _object_or_empty(os.path.join(run, history.JSON_NAME), "the history")
        metrics = _object_or_empty(
            os.path.join(run, evaluation.METRICS_NAME), "the metrics"
        )
    if graph:
        description = graph_description.load_description(graph)
        if run:
            _check_graph_of_run(description, run, graph)
        # The metrics of the frozen file are used, even if the run was evaluated again
        # later.
        metrics = description.get("metrics") or metrics
    path = graph or run
    return ModelFiles(
        os.path.splitext(os.path.basename(path.rstrip("/")))[0],
        *(config, past, metrics, description),
    )


def _object_or_empty(path: str, what: str) -> dict[str, Any]:
    """The content of one of the model's JSON files; empty without such a file."""
    if not files.exists(path):
        return {}
    value = files.read_json(path, what=what, advice="name another --run_dir")
    if not isinstance(value, dict):
        raise errors.DataError(f"{path} is damaged: it contains no object")
    return value


def _check_graph_of_run(description: dict[str, Any], run: str, graph: str) -> None:
    """Refuses a card for a graph that was not frozen from a file of the run."""
    source = description.get("source") or {}
    digest, name = source.get("sha256"), source.get("file", "")
    if not digest:
        return  # It was frozen from a directory or an object: nothing to compare.
    candidates = [
        os.path.join(run, run_dir.BEST_NAME),
        os.path.join(run, run_dir.FINAL_NAME),
        os.path.join(run, run_dir.CHECKPOINTS_NAME, name),
    ]
    found = [path for path in candidates if os.path.isfile(path)]
    if not any(files.sha256(path) == digest for path in found):
        raise errors.UsageError(
            f"--graph={graph} was frozen from a file {name!r} that --run_dir={run} does"
            " not have any more: name the run that it is from, or leave one of them out"
        )
