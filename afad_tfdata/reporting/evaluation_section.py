"""An evaluation: metrics, errors by age and group, decisions, and the worst faces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.evaluating import stored_predictions
from afad_tfdata.reporting import (
    charts,
    html_elements,
    json_values,
    page_faces,
)

# Titles of the metrics, with their units.
TITLES = {
    "accuracy": "Gender: accuracy",
    "balanced_accuracy": "Gender: balanced accuracy",
    "auc": "Gender: area under the ROC curve",
    "mae": "Age: mean absolute error, years",
    "rmse": "Age: root of the mean squared error, years",
    "cs5": "Age: share of errors up to 5 years",
    "bias": "Age: mean of prediction minus label, years",
}
_GROUPINGS = {"by_gender": "gender", "by_age_group": "age group"}
_RATES = {
    "false_positive_rate": "younger people accepted",
    "false_negative_rate": "others refused",
}


def build(
    metrics: json_values.Json, *, records_dir: str, images: bool
) -> list[html_elements.Element]:
    """The report's section on one evaluation.

    Args:
      metrics: The content of ``metrics.json``.
      records_dir: The data set whose faces are shown; empty if it is not known.
      images: Whether faces are shown.
    """
    return [
        _evaluation_facts(metrics),
        _metric_table(metrics),
        *_confusion_table(metrics),
        *_errors_by_age(metrics),
        *_metrics_by_group(metrics),
        *_age_decisions(metrics.at("age_decisions")),
        *_interval_coverage(metrics.at("age_interval")),
        *_applied_corrections(metrics),
        html_elements.new("h3", "The worst faces"),
        *_worst_faces(metrics, records_dir, images=images),
    ]


def interval_text(
    pair: json_values.Json, digits: int = 4, *, sign: str = ""
) -> html_elements.Element | str:
    """Both ends of a metric's interval, for the report; empty if there is none."""
    ends = pair.elements()
    if len(ends) != 2:
        return ""
    low, high = (html_elements.number(end, digits, sign=sign) for end in ends)
    if ends[1].value is None:
        high = "no upper end"
    return html_elements.new("span", "[", low, ", ", high, "]")


def _evaluation_facts(metrics: json_values.Json) -> html_elements.Element:
    """The report's list of what was evaluated."""
    return html_elements.facts(
        {
            "Model": html_elements.new("code", metrics.at("model").text),
            "Data set": html_elements.new("code", metrics.at("records_dir").text),
            "Split": metrics.at("split").text,
            "Examples": html_elements.number(metrics.at("examples")),
            "With an age": _number_or_none(metrics.at("examples_age")),
            "With a gender": _number_or_none(metrics.at("examples_gender")),
        }
    )


def _number_or_none(value: json_values.Json) -> html_elements.Element | str | None:
    """The number of an evaluation's metric for the report; None without one."""
    return None if value.number is None else html_elements.number(value)


def _metric_table(metrics: json_values.Json) -> html_elements.Element:
    """The report's table of an evaluation's metrics with their intervals."""
    rows = [
        [
            title,
            html_elements.number(metrics.at(name)),
            interval_text(metrics.at("intervals", name)),
            html_elements.number(metrics.at("constant", name)),
        ]
        for name, title in TITLES.items()
        if metrics.at(name).number is not None
    ]
    if not rows:
        return html_elements.note(
            "The file of metrics has no number that this page shows."
        )
    predicts = metrics.at("constant", "predicts")
    age = predicts.at("age").number
    said = ["" if age is None else f"{age:g} years", predicts.at("gender").text]
    said = [text for text in said if text]
    constant = f"always {' and '.join(said)}" if said else "constant"
    return html_elements.table(
        ["metric", "value", "95 % interval", constant],
        rows,
        caption="Metrics, next to those of a predictor that ignores the image",
    )


def _confusion_table(metrics: json_values.Json) -> list[html_elements.Element]:
    """The report's table of labels by predicted gender."""
    counts = metrics.at("confusion")
    cells = [row.elements() for row in counts.elements()]
    numbers = [[cell.number for cell in row] for row in cells]
    if len(cells) != 2 or any(len(r) != 2 or None in r for r in numbers):
        return []
    names = class_names(metrics)
    rows: list[list[Any]] = []
    for name, row in zip(names, cells, strict=True):
        total = sum(cell.number or 0 for cell in row)
        shares = [(cell.number or 0) / max(total, 1) for cell in row]
        rows.append(
            [
                name,
                *(
                    html_elements.new(
                        "div",
                        html_elements.number(cell),
                        f" ({share:.1%})",
                        class_="heat",
                        style=f"--share: {share:.3f}",
                    )
                    for cell, share in zip(row, shares, strict=True)
                ),
            ]
        )
    head = ["label", *(f"predicted {name}" for name in names)]
    return [html_elements.table(head, rows, caption="Confusion of the genders")]


def class_names(metrics: json_values.Json) -> list[str]:
    """Names of the labels 0 and 1 in the metrics of an evaluation, for the report."""
    found = [name.text for name in metrics.at("class_names").elements()]
    # Earlier versions did not record them, but their groups are in the order of labels.
    found = found or [name for name, _ in metrics.at("by_gender").items()]
    return found if len(found) == 2 else ["class 0", "class 1"]


def _errors_by_age(metrics: json_values.Json) -> list[html_elements.Element]:
    """The report's charts and table of an evaluation's errors by age."""
    by_age = [
        (int(age), row)
        for age, row in metrics.at("by_age").items()
        if age.isascii() and age.isdigit()
    ]
    by_age.sort(key=lambda pair: pair[0])
    if not by_age:
        return []
    drawn = []
    if any(row.at("mae").number is not None for _, row in by_age):
        chart = charts.Chart("error-by-age", xlabel="age, years", ylabel="years")
        for color, (key, name) in enumerate(
            (("mae", "absolute error"), ("bias", "prediction minus label"))
        ):
            line = [(age, row.at(key)) for age, row in by_age]
            chart.line(name, line, color=color, xname="age", digits=2)
        chart.axes.axhline(0, color="gray", lw=0.6)
        drawn.append(chart.figure("Age: mean error by age"))
    if any(row.at("accuracy").number is not None for _, row in by_age):
        chart = charts.Chart("accuracy-by-age", xlabel="age, years", ylabel="accuracy")
        line = [(age, row.at("accuracy")) for age, row in by_age]
        chart.line("", line, color=2, xname="age")
        drawn.append(chart.figure("Gender: accuracy by age"))
    chart = charts.Chart("examples-by-age", xlabel="age, years", ylabel="faces")
    found = [row.at("examples") for _, row in by_age]
    titles = [
        f"{age} years: {html_elements.number_text(value)}"
        for (age, _), value in zip(by_age, found, strict=True)
    ]
    chart.bars("", [age for age, _ in by_age], found, titles, color=3)
    drawn.append(chart.figure("Faces that were evaluated, by age"))
    names = [n for n in ("examples", "accuracy", "mae", "bias") if by_age[0][1].at(n)]
    rows = [
        [str(age), *(html_elements.number(row.at(name)) for name in names)]
        for age, row in by_age
    ]
    return [
        html_elements.new("div", *drawn, class_="charts"),
        html_elements.folded(
            "Numbers by age",
            html_elements.table(["age", *names], rows, caption="Metrics by age"),
        ),
    ]


def _metrics_by_group(metrics: json_values.Json) -> list[html_elements.Element]:
    """The report's tables of an evaluation's metrics by group."""
    found = []
    for key, name in _GROUPINGS.items():
        groups = metrics.at(key).items()
        names = [
            metric
            for metric in ("examples", *TITLES)
            if any(row.at(metric).number is not None for _, row in groups)
        ]
        if groups and names:
            rows = [
                [group, *(html_elements.number(row.at(metric)) for metric in names)]
                for group, row in groups
            ]
            head = [name, *names]
            found.append(html_elements.table(head, rows, caption=f"Metrics by {name}"))
    gaps = metrics.at("age_decisions", "largest_gap").items()
    rows = [
        [
            grouping.replace("_", " "),
            gap.at("mae", "high").text,
            gap.at("mae", "low").text,
            html_elements.number(gap.at("mae", "years"), 2),
            interval_text(gap.at("mae", "interval"), 2),
        ]
        for grouping, gap in gaps
        if gap.at("mae").items()
    ]
    if rows:
        head = ["between", "larger error", "smaller error", "years", "95 % interval"]
        found.append(
            html_elements.table(
                head, rows, caption="Largest gaps in mean absolute error"
            )
        )
    return found


def _age_decisions(decisions: json_values.Json) -> list[html_elements.Element]:
    """The report's tables of error rates of decisions about age."""
    thresholds = decisions.at("thresholds").items()
    if not thresholds:
        return []
    rows: list[list[Any]] = []
    for years, row in thresholds:
        groups = [("all", row), *row.at("by_gender").items()]
        for group, found in groups:
            cells: list[Any] = [f"{years} years, {group}"]
            for rate in _RATES:
                cells.append(html_elements.number(found.at(rate), 1, percent=True))
                cells.append(
                    _percent_interval(found.at("intervals", rate)),
                )
            rows.append([*cells, html_elements.number(found.at("younger"))])
    head = ["threshold"]
    for text in _RATES.values():
        head += [text, "95 % interval"]
    head.append("younger people")
    challenge: list[list[Any]] = [
        [
            f"{years} years",
            html_elements.number(row.at("challenge_age"), 1),
            interval_text(row.at("interval"), 1),
            html_elements.number(row.at("limit"), 1, percent=True),
        ]
        for years, row in decisions.at("challenge").items()
    ]
    notes = [row.at("note").text for _, row in decisions.at("challenge").items()]
    notes = [text for text in notes if text]
    source = f"Definitions: {decisions.at('source').text}."
    return [
        html_elements.new("h3", "Decisions about age"),
        html_elements.table(head, rows, caption="Wrong decisions at a threshold"),
        html_elements.table(
            ["legal age", "challenge age", "95 % interval", "accepts below"],
            challenge,
            caption="Challenge ages",
        ),
        *(html_elements.new("p", f"{text}.", class_="muted") for text in notes),
        *_challenge_curves(decisions),
        html_elements.new("p", source, class_="muted"),
    ]


def _percent_interval(pair: json_values.Json) -> html_elements.Element | str:
    """An interval of an evaluation's error rate in per cent, for the report."""
    ends = pair.elements()
    if len(ends) != 2:
        return ""
    low, high = (html_elements.number(end, 1, percent=True) for end in ends)
    return html_elements.new("span", "[", low, ", ", high, "]")


def _challenge_curves(decisions: json_values.Json) -> list[html_elements.Element]:
    """The report's charts of error rates by challenge age."""
    drawn = []
    for years, row in decisions.at("challenge").items():
        places = row.at("curve", "challenge_age").elements()
        if not places:
            continue
        chart = charts.Chart(
            f"challenge-{_chart_name(years)}",
            xlabel="challenge age, years",
            ylabel="per cent",
        )
        for color, (rate, text) in enumerate(_RATES.items()):
            values = row.at("curve", rate).elements()
            line = [
                (place.number or 0, value)
                for place, value in zip(places, values, strict=False)
            ]
            if any(value.number is not None for _, value in line):
                chart.line(text, line, color=color, percent=True, digits=1, xname="at")
        drawn.append(chart.figure(f"Wrong decisions, legal age {years}"))
    return [html_elements.new("div", *drawn, class_="charts")] if drawn else []


def _chart_name(text: str) -> str:
    """A name for one of the report's charts of an evaluation, from any text."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _interval_coverage(found: json_values.Json) -> list[html_elements.Element]:
    """The report's table of how often age intervals contain the age."""
    measured = found.at("measured")
    if not measured.items():
        return []
    forms = [("", measured)]
    if measured.at("scaled").items():
        forms = [("one width: ", measured), ("by spread: ", measured.at("scaled"))]
    groups: list[tuple[str, tuple[str, ...]]] = [("all", ())]
    for key in _GROUPINGS:
        groups += [(name, (key, name)) for name, _ in measured.at(key).items()]
    rows: list[list[Any]] = []
    for name, keys in groups:
        if not measured.at(*keys, "examples").number:
            continue
        row: list[Any] = [name, html_elements.number(measured.at(*keys, "examples"))]
        for _, values in forms:
            coverage = values.at(*keys, "coverage")
            row.append(html_elements.number(coverage, 1, percent=True))
            row.append(html_elements.number(values.at(*keys, "mean_width"), 2))
        rows.append(row)
    head = ["faces", "examples"]
    for form, _ in forms:
        head += [f"{form}cover the age", "mean width, years"]
    wanted = html_elements.number_text(found.at("coverage"), 0, percent=True)
    caption = f"Intervals that should cover the age of {wanted} of all faces"
    return [
        html_elements.new("h3", "Age intervals"),
        html_elements.table(head, rows, caption=caption),
    ]


def _applied_corrections(metrics: json_values.Json) -> list[html_elements.Element]:
    """The report's list of corrections that the evaluation measured."""
    entry = metrics.at("calibration")
    facts: dict[str, Any] = {}
    if entry.at("gender_temperature").items():
        value = entry.at("gender_temperature", "temperature")
        facts["Temperature of the gender"] = html_elements.number(value, 3)
        before, after = metrics.at("log_loss", 0), metrics.at("log_loss", 1)
        facts["Log loss without and with it"] = _before_and_after(before, after)
    if entry.at("age_correction").items():
        line = entry.at("age_correction")
        facts["Corrected age"] = html_elements.new(
            "span",
            html_elements.number(line.at("slope"), 3),
            " * age ",
            html_elements.number(line.at("offset"), 2, sign="+"),
        )
        before, after = metrics.at("corrected_mae", 0), metrics.at("corrected_mae", 1)
        facts["Mean absolute error without and with it"] = _before_and_after(
            before, after
        )
    if not facts:
        return []
    heading = html_elements.new("h3", "Corrections, measured on the validation split")
    return [heading, html_elements.facts(facts)]


def _before_and_after(
    before: json_values.Json, after: json_values.Json
) -> html_elements.Element:
    """A metric in the report, before and after the evaluation's corrections."""
    return html_elements.new(
        "span", html_elements.number(before), ", ", html_elements.number(after)
    )


def _worst_faces(
    metrics: json_values.Json, records_dir: str, *, images: bool
) -> list[html_elements.Element]:
    """The faces on which the evaluated model was most wrong, for the report."""
    worst = metrics.at("worst").elements()
    if not worst:
        return [
            html_elements.note(
                "The evaluation does not name them, because bad records were skipped or"
                " an earlier version made it."
            )
        ]
    notes, faces = [], {}
    if images:
        try:
            faces = _read_worst_faces(metrics, worst, records_dir)
        except errors.AfadError as error:
            notes.append(html_elements.note(f"Their images are not shown: {error}"))
    names = class_names(metrics)
    found = list(notes)
    for label, title in (("age", "By age"), ("gender", "By gender")):
        rows = [row for row in worst if row.at("label").text == label]
        if not rows:
            continue
        found.append(html_elements.new("h4", title))
        if faces:
            found.append(
                page_faces.sheet(
                    [
                        page_faces.figure(
                            faces[row.at("row").value],
                            *_label_and_prediction(row, names),
                            html_elements.new("br"),
                            html_elements.new("code", row.at("key").text),
                        )
                        for row in rows
                        if row.at("row").value in faces
                    ]
                )
            )
            continue
        found.append(
            html_elements.table(
                ["key", "label and prediction"],
                [
                    [
                        html_elements.new("code", row.at("key").text),
                        html_elements.new("span", *_label_and_prediction(row, names)),
                    ]
                    for row in rows
                ],
                caption=f"{title}, the largest error first",
            )
        )
    return found


def _label_and_prediction(
    row: json_values.Json, names: Sequence[str]
) -> list[html_elements.Element | str]:
    """Label and prediction of one of the report's worst faces of an evaluation."""
    if row.at("label").text == "age":
        value = html_elements.number(row.at("value"), 0)
        return [value, ", predicted ", html_elements.number(row.at("predicted"), 1)]
    label = names[1] if row.at("value").number == 1 else names[0]
    chance = html_elements.number(row.at("predicted"), 3)
    return [f"{label}; {names[1]} with ", chance]


def _read_worst_faces(
    metrics: json_values.Json, worst: Sequence[json_values.Json], records_dir: str
) -> dict[Any, page_faces.Face]:
    """Reads the images of an evaluation's worst faces for the report, by row.

    Raises:
      UsageError: The data set is not there, or is another one.
      DataError: It is damaged.
    """
    entry, split = metrics.at("predictions"), metrics.at("split").text
    if not records_dir:
        raise errors.UsageError("the data set is not found: name it with --records_dir")
    rows = sorted(
        {
            row.at("row").value
            for row in worst
            if isinstance(row.at("row").value, int) and row.at("row").value >= 0
        }
    )
    if entry.at("rows").text != stored_predictions.identity_of_rows(records_dir, split):
        raise errors.UsageError(
            f"{records_dir} is not the data set that was evaluated: its {split} split"
            " differs"
        )
    limit = entry.at("max_examples").number or 0
    found = page_faces.read_rows(records_dir, split, rows, max_examples=int(limit))
    return dict(zip(rows, itertools.chain(found), strict=False))
