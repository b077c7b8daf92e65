"""The pictures of an evaluation: confusion, errors, decisions, and the worst faces.

::

    paths = evaluation_pictures.draw(columns, result, names, data, "test", "out")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata import input_fn
from afad_tfdata.common import figures, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.images import contact_sheet
from afad_tfdata.metrics import age_decision_pictures
from afad_tfdata.reading import config as input_config
from afad_tfdata.reading import engine_choice

_WORST = 32  # Four rows of eight faces, which a screen shows in full.
CONFUSION_NAME = "confusion.png"
ERROR_NAME = "error_by_age.png"
WORST_NAME = "worst.png"
DECISIONS_NAME = "age_decisions.png"
GROUPS_NAME = "age_groups.png"


def draw(
    columns: dict[str, np.ndarray],
    result: dict[str, Any],
    names: Sequence[str],
    data: input_config.InputConfig,
    split: str,
    output_dir: str,
) -> dict[str, str]:
    """Draws the pictures of an evaluation; returns their paths by name."""
    paths = {
        name: files.join(output_dir, name)
        for name in (
            *(CONFUSION_NAME, ERROR_NAME),
            *(DECISIONS_NAME, GROUPS_NAME, WORST_NAME),
        )
    }
    if "gender" in columns:
        _draw_confusion(paths[CONFUSION_NAME], result["confusion"], names)
    else:
        del paths[CONFUSION_NAME]
    if "age" in columns:
        _draw_error_by_age(paths[ERROR_NAME], result["by_age"])
        decisions = result["age_decisions"]
        title = f"{os.path.basename(result['model'])} on the {split} split"
        age_decision_pictures.draw_decisions(
            paths[DECISIONS_NAME], decisions, title=title
        )
        age_decision_pictures.draw_groups(paths[GROUPS_NAME], decisions, title=title)
    else:
        for name in (ERROR_NAME, DECISIONS_NAME, GROUPS_NAME):
            del paths[name]
    worst = worst_rows(columns)
    faces = _images_of_rows(data, split, {row for row, _ in worst})
    contact_sheet.draw(
        paths[WORST_NAME],
        [faces[row] for row, _ in worst],
        [_caption_of_face(columns, row, name, names) for row, name in worst],
        columns=8,
    )
    return paths


def _draw_confusion(
    path: str, confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> None:
    """A table of label by prediction, with counts and the share of each label.

    Args:
      path: The PNG file to write.
      confusion: ``[label][prediction]``.
      class_names: Of labels 0 and 1.
    """
    counts = np.asarray(confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = figures.new(4.6, 4)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(class_names))
    for label in places:
        for said in places:
            axes.text(
                said,
                label,
                f"{counts[label, said]:,.0f}\n{shares[label, said]:.1%}",
                ha="center",
                va="center",
                color="white" if shares[label, said] > 0.5 else "black",
            )
    axes.set(
        xticks=places,
        yticks=places,
        xticklabels=class_names,
        yticklabels=class_names,
        xlabel="predicted",
        ylabel="label",
        title="gender",
    )
    figures.save(path, figure)


def _draw_error_by_age(path: str, by_age: Mapping[str, Mapping[str, Any]]) -> None:
    """Mean absolute error and bias by age, over the number of examples.

    Args:
      path: The PNG file to write.
      by_age: ``examples``, ``mae`` and ``bias`` by age in years.
    """
    ages = sorted(int(age) for age in by_age)
    rows = [by_age[str(age)] for age in ages]
    figure = figures.new(8, 5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.plot(ages, [row["mae"] for row in rows], marker=".", label="absolute error")
    upper.plot(ages, [row["bias"] for row in rows], marker=".", label="bias")
    upper.axhline(0, color="gray", lw=0.8)
    upper.set(ylabel="years", title="error by age")
    upper.legend()
    upper.grid(alpha=0.3)
    lower.bar(ages, [row["examples"] for row in rows], color="tab:gray")
    lower.set(xlabel="age, years", ylabel="examples")
    figures.save(path, figure)


def worst_rows(columns: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """Rows with the largest errors, to be drawn, and the label that is wrong."""
    errors_by_name = {
        name: np.where(
            columns[f"label_{name}"] < 0,  # Records may lack a label.
            -1.0,
            np.abs(columns[name] - columns[f"label_{name}"]),
        )
        for name in ("age", "gender")
        if name in columns
    }
    each = _WORST // len(errors_by_name)
    return [
        (int(row), name)
        for name, error in errors_by_name.items()
        for row in np.argsort(-error, kind="stable")[:each]
        if error[row] >= 0
    ]


def _images_of_rows(
    data: input_config.InputConfig, split: str, rows: set[int]
) -> dict[int, np.ndarray]:
    """The images of some rows, to be drawn, from a second pass over the split.

    Only these are kept: all images of a split may not fit into memory.
    """
    found: dict[int, np.ndarray] = {}
    start = 0
    with engine_choice.reading_again():
        dataset = input_fn.eval_input_fn(data, split)
    for features, _ in dataset:
        # The columns have no rows for padding and for skipped records.
        positions = np.flatnonzero(features["mask"].numpy())
        here = sorted(row for row in rows if start <= row < start + len(positions))
        if here:
            chosen = positions[[row - start for row in here]]
            images = tf.gather(features["image"], chosen).numpy()
            found.update(zip(here, images, strict=True))
        start += len(positions)
        if len(found) == len(rows):
            break
    return found


def _caption_of_face(
    columns: dict[str, np.ndarray], row: int, name: str, names: Sequence[str]
) -> str:
    """Label and prediction of a face, as the caption of its picture."""
    label, value = columns[f"label_{name}"][row], columns[name][row]
    if name == "age":
        return f"{label:.0f}, said {value:.1f}"
    said = names[int(value >= 0.5)]
    return f"{names[int(label)]}, {said} {max(value, 1 - value):.2f}"
