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
from afad_tfdata.training import history, metrics_log, run_dir

# Metrics with a curve, their titles and their units.
CURVES = {
    "loss": ("Loss", ""),
    "mae": ("Age: mean absolute error", "years"),
    "accuracy": ("Gender: accuracy", ""),
}
_EVENT_COLORS = {"stage": 3, "restart": 4, "recovery": 5}


def build(path: str) -> list[html_elements.Element]:
    """The report's section on one run.

    Args:
      path: The run directory.

    Raises:
      UsageError: The directory contains no run.
      DataError: Its configuration is damaged.
    """
    stored = run_config(path)
    found = [_run_facts(path, stored)]
    try:
        epochs = run_history(path)
    except errors.AfadError as error:
        found.append(html_elements.note(f"There are no curves: {error}"))
    else:
        found += _run_curves(epochs)
        found.append(_event_table(epochs))
    found += _speed_charts(path)
    found.append(html_elements.new("h3", "Checkpoints and models"))
    found.append(_stored_weights(path))
    found.append(html_elements.folded("Configuration", _option_table(stored)))
    found.append(html_elements.folded("What was derived", _derived_values(stored)))
    return found


def run_config(path: str) -> json_values.Json:
    """A run's ``config.json`` for the report, checked as `run_dir.read_config` does."""
    value = run_dir.read_config(path)
    return json_values.Json(value, os.path.join(path, run_dir.CONFIG_NAME))


def run_history(path: str) -> json_values.Json:
    """A run's ``history.json`` for the report."""
    return json_values.read(
        os.path.join(path, history.JSON_NAME),
        what="the history",
        advice="afad-train writes it after each epoch",
    )


def curve_points(
    epochs: json_values.Json, *names: str
) -> list[tuple[float, json_values.Json]]:
    """The points of a run's curve for the report, such as ``"validation", "mae"``."""
    rows = epochs.at("epochs").elements()
    return [
        (row.at("epoch").number or i + 1, row.at(*names)) for i, row in enumerate(rows)
    ]


def _run_facts(path: str, stored: json_values.Json) -> html_elements.Element:
    """The report's list of what the run is."""
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


def _run_curves(epochs: json_values.Json) -> list[html_elements.Element]:
    """The report's charts of a run's loss and metrics by epoch."""
    rows = epochs.at("epochs").elements()
    if not rows:
        return [html_elements.note("No epoch is finished yet.")]
    drawn = []
    for name, (title, unit) in CURVES.items():
        if not any(row.at("train", name).number is not None for row in rows):
            continue
        chart = charts.Chart(f"curve-{name}", xlabel="epoch", ylabel=unit)
        for color, part in enumerate(("train", "validation")):
            line = curve_points(epochs, part, name)
            if any(value.number is not None for _, value in line):
                chart.line(part, line, color=color, xname="epoch")
        chart.whole_numbers()
        for place, event in _event_places(epochs):
            kind = event.at("kind").text
            chart.moment(
                place,
                _short_event(event.at("text").text),
                color=_EVENT_COLORS.get(kind, 3),
            )
        drawn.append(chart.figure(title))
    rates = charts.Chart("curve-rate", xlabel="epoch", ylabel="learning rate")
    rates.line(
        "", curve_points(epochs, "learning_rate"), color=2, xname="epoch", digits=8
    )
    rates.whole_numbers()
    drawn.append(rates.figure("Learning rate at the end of each epoch"))
    return [
        html_elements.new("div", *drawn, class_="charts"),
        html_elements.folded("Numbers by epoch", _epoch_table(rows)),
    ]


def _short_event(text: str) -> str:
    """The text of a run's event, cut so that it fits in the report's chart."""
    return text if len(text) <= 34 else text[:32] + "..."


def _event_places(epochs: json_values.Json) -> list[tuple[float, json_values.Json]]:
    """Where the report's charts show a run's events: after their last epoch."""
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


def _epoch_table(rows: Sequence[json_values.Json]) -> html_elements.Element:
    """The report's table of a run's metrics by epoch."""
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


def _event_table(epochs: json_values.Json) -> html_elements.Element:
    """The report's table of a run's stages, restarts and recoveries."""
    rows: list[list[Any]] = [
        [html_elements.number(e.at("step")), e.at("kind").text, e.at("text").text]
        for e in epochs.at("events").elements()
    ]
    if not rows:
        return html_elements.note("No stage, restart or recovery is recorded.")
    return html_elements.table(
        ["after step", "what", "details"], rows, caption="Stages, restarts, recoveries"
    )


def _speed_charts(path: str) -> list[html_elements.Element]:
    """The report's charts of a run's speed and of its waiting for input."""
    name = os.path.join(path, metrics_log.LINES_NAME)
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


def _stored_weights(path: str) -> html_elements.Element:
    """The report's table of a run's models and checkpoints."""
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


def _option_table(stored: json_values.Json) -> html_elements.Element:
    """The report's table of a run's options, first those that were changed."""
    usual = options.defaults(train_config.TrainConfig)
    rows: list[list[Any]] = []
    for name, value in stored.at("train").items():
        default = usual.get(name)
        changed = name not in usual or value.value != default
        shown = html_elements.new("code", html_elements.option_text(value.value))
        rows.append(
            [
                html_elements.new("strong", name) if changed else name,
                shown,
                "" if not changed else html_elements.option_text(default),
            ]
        )
    rows.sort(key=lambda row: isinstance(row[0], str))
    return html_elements.table(
        ["option", "value", "the default, if the value differs"],
        rows,
        caption="Options of the training, first those that differ from the default",
    )


def _derived_values(stored: json_values.Json) -> html_elements.Element:
    """The report's table of what a run's ``config.json`` records besides options."""
    rows: list[list[Any]] = []
    for name, value in stored.items():
        if name in ("train", "checksum"):
            continue
        inner = value.items() or [("", value)]
        for key, item in inner:
            title = f"{name}.{key}" if key else name
            text = html_elements.option_text(item.value)
            rows.append([title, html_elements.new("code", text)])
    return html_elements.table(
        ["name", "value"], rows, caption="What follows from flags, records and devices"
    )
