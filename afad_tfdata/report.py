"""A report: one HTML page of a data set, a run, its evaluation and its graph.

::

    result = report.write_report(report.ReportConfig(
        records_dir="records", run_dir="run", graph="graph/faces.pb"))
    print(result["report"])

The page is one file that needs no network.  Nothing of what it reads is changed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors, files, options
from afad_tfdata.reporting import data_set_section, page, run_section
from afad_tfdata.storage import joined

PAGE_NAME = "report.html"


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the page shows, and where it is written."""

    records_dir: str = options.option(
        "", "Directory of the data set to show, or several, separated by commas."
    )
    run_dir: str = options.option(
        "",
        "Run directory to show.  Two, separated by a comma, are compared with each"
        " other.",
    )
    output: str = options.option(
        "",
        f"The HTML file to write; without this flag it is {PAGE_NAME} in --run_dir, or"
        " else in --records_dir.",
    )
    images: bool = options.option(
        True, "Show faces. With --noimages the page contains none."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not (self.records_dir or self.run_dir):
            raise errors.UsageError(
                "a report shows a data set or a run: name them with --records_dir or"
                " --run_dir"
            )


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Writes the page.

    Args:
      config: What it shows.

    Returns:
      JSON values: ``report``, the path of the page; ``bytes``, its size; ``sections``,
      the names of its sections; ``missing``, a sentence for each part that could not be
      shown.

    Raises:
      UsageError: A directory or file that does not exist, or the page cannot be
        written.
      DataError: What was named is damaged as a whole.
    """
    runs = run_dirs(config.run_dir)
    about = [config.records_dir, *runs]
    shown = page.Page(_title(config, runs), [text for text in about if text])
    if config.records_dir:
        content = data_set_section.build(config.records_dir, images=config.images)
        shown.add("data", "Data set", content)
    for number, path in enumerate(runs):
        name = f"run-{number + 1}" if len(runs) > 1 else "run"
        title = f"Run: {os.path.basename(os.path.abspath(path))}"
        shown.add(name, title, run_section.build(path))
    output = config.output or _usual_output(config, runs)
    content_bytes = shown.html().encode()
    files.write_atomic(output, content_bytes, durable=False)
    return {"report": output, "bytes": len(content_bytes)}


def run_dirs(run_dir: str) -> tuple[str, ...]:
    """The run directories that a flag names: none, one or two.

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


def _title(config: ReportConfig, runs: Sequence[str]) -> str:
    names = [os.path.basename(os.path.abspath(path)) for path in runs]
    if len(names) > 1:
        return f"Report: {names[0]} and {names[1]}"
    places = joined.directories(config.records_dir) if config.records_dir else ()
    names += [os.path.basename(os.path.abspath(place)) for place in places]
    return f"Report: {', '.join(names)}"


def _usual_output(config: ReportConfig, runs: Sequence[str]) -> str:
    places = runs or joined.directories(config.records_dir)
    return files.join(places[0], PAGE_NAME)
