"""Two runs side by side: their curves, their metrics and their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.evaluating import stored_predictions
from afad_tfdata.metrics import bootstrap
from afad_tfdata.reporting import (
    charts,
    evaluation_section,
    html_elements,
    json_values,
    run_section,
)

# For these metrics more is better, and for the bias neither more nor less is.  For all
# others less is better.
_MORE_IS_BETTER = {"accuracy", "balanced_accuracy", "auc", "cs5"}
_NOT_RANKED = {"bias"}
_SAMPLES = 1000
# Options that differ between any two runs.
_PLACES = {"run_dir", "report"}


def build(
    paths: Sequence[str],
    names: Sequence[str],
    metrics: Sequence[json_values.Json | None],
) -> list[html_elements.Element]:
    """The report's section that compares two runs.

    Args:
      paths: Two run directories.
      names: What they are called on the page.
      metrics: The content of their ``metrics.json``; None where there is none.

    Raises:
      UsageError: A directory contains no run.
      DataError: A configuration is damaged.
    """
    return [
        html_elements.new("h3", "Curves"),
        *_both_curves(paths, names),
        html_elements.new("h3", "Metrics"),
        *_both_metrics(paths, names, metrics),
        html_elements.new("h3", "Options that differ"),
        *_differing_options(paths, names),
    ]


def _both_curves(
    paths: Sequence[str], names: Sequence[str]
) -> list[html_elements.Element]:
    """The report's charts in which both of two runs have a curve."""
    histories, notes = [], []
    for path in paths:
        try:
            histories.append(run_section.run_history(path))
        except errors.AfadError as error:
            histories.append(json_values.Json(None))
            notes.append(html_elements.note(f"There are no curves of {path}: {error}"))
    drawn = []
    for metric, (title, unit) in run_section.CURVES.items():
        chart = charts.Chart(f"both-{metric}", xlabel="epoch", ylabel=unit)
        has_any = False
        for color, (name, found) in enumerate(zip(names, histories, strict=True)):
            for part in ("train", "validation"):
                line = run_section.curve_points(found, part, metric)
                if any(value.number is not None for _, value in line):
                    has_any = True
                    chart.line(
                        f"{name}, {part}",
                        line,
                        color=color,
                        dashed=part == "train",
                        xname="epoch",
                    )
        chart.whole_numbers()
        if has_any:
            drawn.append(chart.figure(title))
    rates = charts.Chart("both-rate", xlabel="epoch", ylabel="learning rate")
    for color, (name, found) in enumerate(zip(names, histories, strict=True)):
        line = run_section.curve_points(found, "learning_rate")
        rates.line(name, line, color=color, xname="epoch", digits=8)
    rates.whole_numbers()
    drawn.append(rates.figure("Learning rate"))
    return [*notes, html_elements.new("div", *drawn, class_="charts")]


def _both_metrics(
    paths: Sequence[str],
    names: Sequence[str],
    metrics: Sequence[json_values.Json | None],
) -> list[html_elements.Element]:
    """The report's table that compares the metrics of two runs."""
    known = [found for found in metrics if found is not None]
    if len(known) < 2:
        lacking = [p for p, found in zip(paths, metrics, strict=True) if found is None]
        return [
            html_elements.note(
                f"Metrics are not compared, because {' and '.join(lacking)}"
                f" {'have' if len(lacking) > 1 else 'has'} no evaluation: evaluate both"
                " runs with afad-evaluate --run_dir."
            )
        ]
    try:
        differences: Mapping[str, list[float]] = _paired_intervals(paths, known)
        why = ""
    except errors.AfadError as error:
        differences, why = {}, str(error)
    rows: list[list[Any]] = []
    for metric, title in evaluation_section.TITLES.items():
        values = [found.at(metric) for found in known]
        if all(value.number is None for value in values):
            continue
        difference = json_values.Json(None)
        if None not in [value.number for value in values]:
            first, second = (value.number or 0 for value in values)
            difference = json_values.Json(float(second - first))
        ends = json_values.Json(differences.get(metric))
        rows.append(
            [
                title,
                *(html_elements.number(value) for value in values),
                html_elements.number(difference, sign="+"),
                evaluation_section.interval_text(ends, sign="+"),
                _better_run(metric, differences.get(metric), names),
            ]
        )
    notes = []
    if why:
        notes.append(
            html_elements.note(f"There are no intervals of the differences: {why}")
        )
    splits = [found.at("split").text for found in known]
    head = ["metric", *names, "difference", "95 % interval", "better"]
    caption = f"Metrics on the {' and '.join(dict.fromkeys(splits))} split"
    return [
        *notes,
        html_elements.table(head, rows, caption=caption),
        html_elements.new(
            "p",
            "A difference is the second run's value minus the first one's. Its interval"
            " is a paired bootstrap: both runs are measured on the same resampled"
            " faces. An interval that contains 0 does not tell the runs apart.",
            class_="muted",
        ),
    ]


def _better_run(metric: str, ends: Sequence[float] | None, names: Sequence[str]) -> str:
    """Which of the two runs that are compared is better, if the interval tells."""
    if ends is None or metric in _NOT_RANKED:
        return ""
    if ends[0] <= 0 <= ends[1]:
        return "not told apart"
    second_is_more = ends[0] > 0
    return names[int(second_is_more == (metric in _MORE_IS_BETTER))]


def _paired_intervals(
    paths: Sequence[str], metrics: Sequence[json_values.Json]
) -> dict[str, list[float]]:
    """Intervals of the differences between two runs, on the same examples.

    Raises:
      UsageError: The runs were not evaluated on the same examples.
      DataError: Predictions are not those of the metrics.
    """
    entries = [found.at("predictions") for found in metrics]
    columns = [
        stored_predictions.load(path, entry.value)
        for path, entry in zip(paths, entries, strict=True)
    ]
    for what in (("split",), ("predictions", "rows"), ("predictions", "max_examples")):
        first, second = (found.at(*what).value for found in metrics)
        if first != second:
            place = "splits" if what == ("split",) else "records of the split"
            raise errors.UsageError(
                f"the runs were evaluated on different {place}: evaluate both on the"
                " same data set and split"
            )
    names = [evaluation_section.class_names(found) for found in metrics]
    if names[0] != names[1]:
        # The models may have the same two classes in the reverse order.
        if names[0] != names[1][::-1]:
            raise errors.UsageError(
                f"the runs have other classes ({', '.join(names[0])} and"
                f" {', '.join(names[1])})"
            )
        columns[1] = _swapped_classes(columns[1])
    found: dict[str, list[float]] = {}
    for label in ("age", "gender"):
        if not all({label, f"label_{label}"} <= set(c) for c in columns):
            continue
        # Records may lack a label.
        has_it = columns[0][f"label_{label}"] >= 0
        both = [
            {name: c[name][has_it] for name in (label, f"label_{label}")}
            for c in columns
        ]
        try:
            found |= bootstrap.paired_intervals(both[1], both[0], samples=_SAMPLES)
        except ValueError as error:
            raise errors.UsageError(f"{error}: evaluate both runs again") from error
    return found


def _swapped_classes(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The predictions of one of two compared runs with its labels exchanged."""
    swapped = dict(columns)
    if "gender" in columns:
        swapped["gender"] = 1 - columns["gender"]
    if "label_gender" in columns:
        labels = columns["label_gender"]
        swapped["label_gender"] = np.where(labels < 0, labels, 1 - labels)
    return swapped


def _differing_options(
    paths: Sequence[str], names: Sequence[str]
) -> list[html_elements.Element]:
    """The report's table of options that differ between two runs."""
    stored = [run_section.run_config(path) for path in paths]
    rows: list[list[Any]] = []
    flat = [dict(_named_options(found)) for found in stored]
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        values = [values.get(name) for values in flat]
        if values[0] != values[1]:
            rows.append(
                [
                    name,
                    *(
                        html_elements.new(
                            "code",
                            "not set" if v is None else html_elements.option_text(v),
                        )
                        for v in values
                    ),
                ]
            )
    if not rows:
        return [html_elements.new("p", "All options are equal.")]
    return [
        html_elements.table(["option", *names], rows, caption="Options of the runs")
    ]


def _named_options(stored: json_values.Json) -> list[tuple[str, Any]]:
    """The options of one of two compared runs, by the names of their flags."""
    found = [(n, v.value) for n, v in stored.at("train").items() if n not in _PLACES]
    derived = ("devices", "precision", "train_examples", "records_digest")
    titles = {"records_digest": "content of the data set (digest)"}
    return found + [
        (titles.get(name, f"{name} (derived)"), stored.at(name).value)
        for name in derived
        if stored.at(name)
    ]
