"""A run: its curves, learning rates, speed and configuration, and its stored files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.reporting import charts, html_elements, json_values
from afad_tfdata.training import config as train_config
from afad_tfdata.training import history, run_dir

# Metrics with a curve, their titles and their units.
CURVES = {
    "loss": ("Loss", ""),
    "mae": ("Age: mean absolute error", "years"),
    "accuracy": ("Gender: accuracy", ""),
}
_EVENT_COLORS = {"stage": 3, "restart": 4, "recovery": 5}


def build(path: str) -> list[html_elements.Element]:
    """The section of one run.

    Args:
      path: The run directory.

    Raises:
      UsageError: The directory contains no run.
      DataError: Its configuration is damaged.
    """
    stored = config_of(path)
    found = [_facts(path, stored)]
    try:
        epochs = history_of(path)
    except errors.AfadError as error:
        found.append(html_elements.note(f"There are no curves: {error}"))
    else:
        found += _curves(epochs)
        found.append(_events(epochs))
    found += _speed(path)
    found.append(html_elements.new("h3", "Checkpoints and models"))
    found.append(_files(path))
    found.append(html_elements.folded("Configuration", _configuration(stored)))
    found.append(html_elements.folded("What was derived", _derived(stored)))
    return found


def config_of(path: str) -> json_values.Json:
    """The content of ``config.json``, checked as `run_dir.read_config` does."""
    value = run_dir.read_config(path)
    return json_values.Json(value, os.path.join(path, run_dir.CONFIG_NAME))


def history_of(path: str) -> json_values.Json:
    """The content of ``history.json``."""
    return json_values.of_file(
        os.path.join(path, history.JSON_NAME),
        what="the history",
        advice="afad-train writes it after each epoch",
    )


def points(
    epochs: json_values.Json, *names: str
) -> list[tuple[float, json_values.Json]]:
    """Epochs and values of a metric, such as ``"validation", "mae"``."""
    rows = epochs.at("epochs").elements()
    return [
        (row.at("epoch").number or i + 1, row.at(*names)) for i, row in enumerate(rows)
    ]


def _facts(path: str, stored: json_values.Json) -> html_elements.Element:
    """The list of what the run is."""
    train = stored.at("train")
    return html_elements.facts(
        {
            "Directory": html_elements.new("code", path),
            "Task": train.at("task").text,
            "Backbone": train.at("backbone").text,
            "Age head": train.at("age_head").text,
            "Stage": train.at("stage").text,
            "Training examples": html_elements.number(stored.at("train_examples")),
            "Global batch": html_elements.number(train.at("global_batch_size")),
            "Steps in an epoch": html_elements.number(stored.at("steps_per_epoch")),
            "Devices": stored.at("devices").text,
            "Precision": stored.at("precision").text,
            "Classes": ", ".join(c.text for c in stored.at("class_names").elements()),
        }
    )


def _curves(epochs: json_values.Json) -> list[html_elements.Element]:
    """Charts of loss and metrics by epoch."""
    rows = epochs.at("epochs").elements()
    if not rows:
        return [html_elements.note("No epoch is finished yet.")]
    drawn = []
    for name, (title, unit) in CURVES.items():
        if not any(row.at("train", name).number is not None for row in rows):
            continue
        chart = charts.Chart(f"curve-{name}", xlabel="epoch", ylabel=unit)
        for color, part in enumerate(("train", "validation")):
            line = points(epochs, part, name)
            if any(value.number is not None for _, value in line):
                chart.line(part, line, color=color, xname="epoch")
        chart.whole_numbers()
        for place, event in _moments(epochs):
            kind = event.at("kind").text
            chart.moment(
                place,
                _short(event.at("text").text),
                color=_EVENT_COLORS.get(kind, 3),
            )
        drawn.append(chart.figure(title))
    rates = charts.Chart("curve-rate", xlabel="epoch", ylabel="learning rate")
    rates.line("", points(epochs, "learning_rate"), color=2, xname="epoch", digits=8)
    rates.whole_numbers()
    drawn.append(rates.figure("Learning rate at the end of each epoch"))
    return [
        html_elements.new("div", *drawn, class_="charts"),
        html_elements.folded("Numbers by epoch", _epochs(rows)),
    ]


def _short(text: str) -> str:
    """A text, cut so that it fits in a table."""
    return text if len(text) <= 34 else text[:32] + "..."


def _moments(epochs: json_values.Json) -> list[tuple[float, json_values.Json]]:
    """Events, each placed half an epoch after the last epoch that ended before it."""
    rows = epochs.at("epochs").elements()
    placed = []
    for event in epochs.at("events").elements():
        step = event.at("step").number
        if step is None:
            continue
        before = [
            row.at("epoch").number or 0
            for row in rows
            if (row.at("step").number or 0) <= step
        ]
        first = rows[0].at("epoch").number or 1
        placed.append(((before[-1] if before else first - 1) + 0.5, event))
    return placed


def _epochs(rows: Sequence[json_values.Json]) -> html_elements.Element:
    """The table of metrics by epoch."""
    columns = [
        (part, name)
        for part in ("train", "validation")
        for name in dict.fromkeys(n for row in rows for n, _ in row.at(part).items())
    ]
    body: list[list[Any]] = [
        [
            str(row.at("epoch").number),
            row.at("stage").text,
            html_elements.number(row.at("step")),
            html_elements.number(row.at("learning_rate"), 8),
            *(html_elements.number(row.at(*column)) for column in columns),
        ]
        for row in rows
    ]
    head = ["epoch", "stage", "step", "learning rate"]
    head += [f"{part} {name}" for part, name in columns]
    return html_elements.table(head, body, caption="The history of the run")


def _events(epochs: json_values.Json) -> html_elements.Element:
    """The table of stages, restarts and recoveries."""
    rows: list[list[Any]] = [
        [html_elements.number(e.at("step")), e.at("kind").text, e.at("text").text]
        for e in epochs.at("events").elements()
    ]
    if not rows:
        return html_elements.note("No stage, restart or recovery is recorded.")
    return html_elements.table(
        ["after step", "what", "details"], rows, caption="Stages, restarts, recoveries"
    )


def _speed(path: str) -> list[html_elements.Element]:
    """Speed and waiting time of each epoch, from the lines of ``metrics.jsonl``."""
    name = os.path.join(path, history.LINES_NAME)
    rows = []
    try:
        with open(name, encoding="utf-8", errors="replace") as file:
            for line in file:
                # A run that was killed may have an incomplete last line.
                with contextlib.suppress(ValueError, RecursionError):
                    row = json_values.Json(json.loads(line))
                    if row.at("epoch").number is not None:
                        rows.append(row)
    except OSError as error:
        reason = error.strerror or errors.one_line(error)
        return [html_elements.note(f"The speed is not known: {name}: {reason}")]
    if not rows:
        return []
    drawn = []
    for key, title, unit, percent in (
        ("images_per_second", "Speed", "images a second", False),
        ("waiting", "Time spent waiting for input", "per cent", True),
    ):
        speeds = [(row.at("epoch").number or 0, row.at(key)) for row in rows]
        chart = charts.Chart(f"speed-{key}", xlabel="epoch", ylabel=unit)
        chart.line("", speeds, color=2, xname="epoch", digits=1, percent=percent)
        chart.axes.set_ylim(bottom=0)
        chart.whole_numbers()
        drawn.append(chart.figure(title))
    return [html_elements.new("div", *drawn, class_="charts")]


def _files(path: str) -> html_elements.Element:
    """The table of the run's models and checkpoints."""
    rows: list[list[Any]] = []
    folder = os.path.join(path, run_dir.CHECKPOINTS_NAME)
    names = [run_dir.BEST_NAME, run_dir.FINAL_NAME]
    with contextlib.suppress(OSError):
        names += [
            os.path.join(run_dir.CHECKPOINTS_NAME, name)
            for name in sorted(os.listdir(folder))
            if name.endswith(".ckpt")
        ]
    for name in names:
        with contextlib.suppress(OSError):
            size = os.path.getsize(os.path.join(path, name))
            rows.append([html_elements.new("code", name), f"{size / 1e6:,.2f} MB"])
    if not rows:
        return html_elements.note("The run has neither a model nor a checkpoint.")
    return html_elements.table(["file", "size"], rows, caption="Stored weights")


def _configuration(stored: json_values.Json) -> html_elements.Element:
    """The table of the run's options."""
    usual = options.defaults(train_config.TrainConfig)
    rows: list[list[Any]] = []
    for name, value in stored.at("train").items():
        default = usual.get(name)
        changed = name not in usual or value.value != default
        shown = html_elements.new("code", html_elements.plain_text(value.value))
        rows.append(
            [
                html_elements.new("strong", name) if changed else name,
                shown,
                "" if not changed else html_elements.plain_text(default),
            ]
        )
    rows.sort(key=lambda row: isinstance(row[0], str))
    return html_elements.table(
        ["option", "value", "the default, if the value differs"],
        rows,
        caption="Options of the training, first those that differ from the default",
    )


def _derived(stored: json_values.Json) -> html_elements.Element:
    """The table of what ``config.json`` records besides the options."""
    rows: list[list[Any]] = []
    for name, value in stored.items():
        if name in ("train", "checksum"):
            continue
        inner = value.items() or [("", value)]
        for key, item in inner:
            title = f"{name}.{key}" if key else name
            text = html_elements.plain_text(item.value)
            rows.append([title, html_elements.new("code", text)])
    return html_elements.table(
        ["name", "value"], rows, caption="What follows from flags, records and devices"
    )
