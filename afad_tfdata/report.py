"""A report: one HTML page of a data set, a run, its evaluation and its graph.

::

    result = report.write_report(report.ReportConfig(
        records_dir="records", run_dir="run", graph="graph/faces.pb"))
    print(result["report"])

The page is one file that needs no network.  No file that it is made from is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from afad_tfdata import evaluation
from afad_tfdata.common import errors, files, options
from afad_tfdata.reporting import (
    comparison_section,
    data_set_section,
    evaluation_section,
    graph_section,
    html_elements,
    json_values,
    page,
    run_section,
    viewer_predictions,
    viewer_section,
)
from afad_tfdata.storage import joined_data_sets
from afad_tfdata.training import run_dir

PAGE_NAME = "report.html"
SORTS = ("stored", "suspicious")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the page shows, and where it is written."""

    records_dir: str = options.option(
        "", "Directory of the data set to show, or several, separated by commas."
    )
    run_dir: str = options.option(
        "",
        "Run directory to show. Two, separated by a comma, are compared with each"
        " other.",
    )
    evaluation_dir: str = options.option(
        "",
        "Directory with the metrics.json that afad-evaluate wrote; without this flag it"
        " is --run_dir.",
    )
    graph: str = options.option(
        "", "Graph to show: the NAME.pb that afad-freeze wrote, with its NAME.json."
    )
    output: str = options.option(
        "",
        f"The HTML file to write; without this flag it is {PAGE_NAME} in the first of"
        " --run_dir, --evaluation_dir, --records_dir and the directory of --graph that"
        " is given.",
    )
    images: bool = options.option(
        True, "Show faces. With --noimages the page contains none."
    )
    thumbnails: int = options.option(
        2000,
        "Largest number of faces in the viewer of the data set; 0 for no viewer. 2,000"
        " faces take about 3 MB.",
    )
    sort: str = options.option(
        "stored",
        "Which faces the viewer has, and in which order: stored takes them evenly from"
        " all records; suspicious starts with those whose labels differ most from what"
        " the model of --run_dir predicts.",
        choices=SORTS,
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        given = (self.records_dir, self.run_dir, self.evaluation_dir, self.graph)
        if not any(given):
            raise errors.UsageError(
                "a report shows a data set, a run, an evaluation or a graph: name at"
                " least one with --records_dir, --run_dir, --evaluation_dir or --graph"
            )
        if self.thumbnails < 0:
            raise errors.UsageError(
                f"--thumbnails takes a number from 0 up; got {self.thumbnails}"
            )
        if self.sort == "suspicious" and not (
            self.records_dir and (self.evaluation_dir or self.run_dir)
        ):
            raise errors.UsageError(
                "--sort=suspicious compares the labels of --records_dir with what the"
                " model of --run_dir says: name both"
            )
        if self.sort == "suspicious" and len(run_dirs(self.run_dir)) > 1:
            raise errors.UsageError(
                "--sort=suspicious takes one run, and --run_dir names two: name one"
            )
        if self.evaluation_dir and len(run_dirs(self.run_dir)) > 1:
            raise errors.UsageError(
                "--evaluation_dir belongs to one run, and --run_dir names two: leave it"
                " out, and each run is shown with the evaluation in its directory"
            )


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Writes the report of a data set, a run, an evaluation or a graph.

    Args:
      config: What it shows.

    Returns:
      JSON values: ``report``, the path of the page; ``bytes``, its size; ``missing``, a
      sentence for each section that could not be shown.

    Raises:
      UsageError: A directory or file does not exist, or the page cannot be written.
      DataError: The manifest of the data set, the configuration of a run, or a file
        that ``--sort=suspicious`` needs is damaged.
    """
    runs = run_dirs(config.run_dir)
    about = [config.records_dir, *runs, config.evaluation_dir, config.graph]
    shown = _ReportBuilder(
        config, page.Page(_report_title(config, runs), [a for a in about if a])
    )
    if config.records_dir:
        content = data_set_section.build(config.records_dir, images=config.images)
        shown.page.add_section("data", "Data set", content)
    for number, path in enumerate(runs, 1):
        ending = f"-{number}" if len(runs) > 1 else ""
        shown.page.add_section(
            f"run{ending}", f"Run: {_base_name(path)}", run_section.build(path)
        )
        if not config.evaluation_dir:
            shown.add_evaluation(path, ending)
    if config.evaluation_dir:
        shown.add_evaluation(config.evaluation_dir, "")
    if len(runs) > 1:
        shown.add_comparison(runs)
    if config.graph:
        shown.add_graph(config.graph)
    if config.records_dir and config.images and config.thumbnails:
        shown.add_viewer()
    output = config.output or _usual_report_path(config, runs)
    html = shown.page.html().encode()
    files.write_atomic(output, html, durable=False)
    return {"report": output, "bytes": len(html), "missing": shown.missing}


def run_dirs(run_dir: str) -> tuple[str, ...]:
    """The run directories that the report's ``--run_dir`` names: none, one or two.

    Raises:
      UsageError: There are more, or one is empty or named twice.
    """
    if not run_dir:
        return ()
    if "," not in run_dir or os.path.exists(run_dir):
        return (run_dir,)
    parts = tuple(part.strip() for part in run_dir.split(","))
    if len(parts) != 2 or not all(parts):
        raise errors.UsageError(
            f"--run_dir={run_dir}: one run is shown, or two are compared: separate two"
            " directories by one comma"
        )
    if os.path.realpath(parts[0]) == os.path.realpath(parts[1]):
        raise errors.UsageError(f"--run_dir names {parts[0]} twice: name two runs")
    return parts


class _ReportBuilder:
    """The report so far, and what could not be shown."""

    def __init__(self, config: ReportConfig, shown: page.Page) -> None:
        self.page = shown
        self.missing: list[str] = []
        self._config = config
        # By directory; only of those that have an evaluation.
        self._metrics: dict[str, json_values.Json] = {}

    def add_evaluation(self, path: str, ending: str) -> None:
        """Adds the report's section on the evaluation in a directory.

        Raises:
          UsageError: ``--evaluation_dir`` names a directory without one.
        """
        name = f"evaluation{ending}"
        title = f"Evaluation: {_base_name(path)}" if ending else "Evaluation"
        where = files.join(path, evaluation.METRICS_NAME)
        if not self._config.evaluation_dir and not files.exists(where):
            text = f"{path} has no evaluation: afad-evaluate --run_dir={path} makes one"
            self._add_note(name, title, text)
            return
        advice = "evaluate again with afad-evaluate"
        try:
            metrics = json_values.read(where, what="the metrics", advice=advice)
        except errors.DataError as error:
            self._add_note(name, title, str(error))
            return
        self._metrics[path] = metrics
        content = evaluation_section.build(
            metrics,
            records_dir=self._config.records_dir or _evaluated_data_set(path, metrics),
            images=self._config.images,
        )
        self.page.add_section(name, title, content)

    def add_graph(self, path: str) -> None:
        """Adds the report's section on a graph.

        Raises:
          UsageError: The graph does not exist.
        """
        try:
            content = graph_section.build(path)
        except errors.AfadError as error:
            if not files.exists(path):
                raise
            self._add_note("graph", "Graph", str(error))
            return
        self.page.add_section("graph", "Graph", content)

    def add_comparison(self, runs: Sequence[str]) -> None:
        """Adds the comparison of two runs, before the sections of the runs."""
        names = [_base_name(path) for path in runs]
        if names[0] == names[1]:
            names = list(runs)
        content = comparison_section.build(
            runs, names, [self._metrics.get(path) for path in runs]
        )
        title = f"Comparison: {names[0]} and {names[1]}"
        self.page.add_section("comparison", title, content, before="run-1")

    def add_viewer(self) -> None:
        """Adds the viewer of faces to the report."""
        config = self._config
        said = None
        if config.sort == "suspicious":
            said = viewer_predictions.predict_splits(
                config.records_dir,
                run_dir=config.run_dir,
                directory=config.evaluation_dir or config.run_dir,
            )
        try:
            content = viewer_section.build(
                config.records_dir, thumbnails=config.thumbnails, said=said
            )
        except errors.DataError as error:
            self._add_note("faces", "Faces", f"No faces are shown: {error}")
            return
        self.page.add_section("faces", "Faces", content)

    def _add_note(self, name: str, title: str, text: str) -> None:
        """Adds a section to the report that says why it is empty."""
        self.page.add_section(name, title, [html_elements.note(text)])
        self.missing.append(errors.one_line(text))


def _evaluated_data_set(path: str, metrics: json_values.Json) -> str:
    """The data set of an evaluation in the report; empty if it is no longer there."""
    with contextlib.suppress(errors.AfadError):
        return run_dir.find_data_set(path, metrics.at("records_dir").text)
    return ""


def _report_title(config: ReportConfig, runs: Sequence[str]) -> str:
    """The title of the report: what it shows."""
    names = [_base_name(path) for path in runs]
    if len(names) > 1:
        return f"Report: {names[0]} and {names[1]}"
    places = (
        joined_data_sets.directories(config.records_dir) if config.records_dir else ()
    )
    others = [*places, config.evaluation_dir, config.graph]
    names += [_base_name(other) for other in others if other]
    return f"Report: {', '.join(names)}"


def _usual_report_path(config: ReportConfig, runs: Sequence[str]) -> str:
    """Where the report is written, if no path is given."""
    if runs or config.evaluation_dir:
        return files.join(runs[0] if runs else config.evaluation_dir, PAGE_NAME)
    if config.records_dir:
        return files.join(
            joined_data_sets.directories(config.records_dir)[0], PAGE_NAME
        )
    return files.join(os.path.dirname(config.graph), PAGE_NAME)


def _base_name(path: str) -> str:
    """The last part of a path, for the titles of the report."""
    return os.path.basename(os.path.abspath(path))
