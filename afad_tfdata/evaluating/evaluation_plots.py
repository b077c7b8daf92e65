"""Pictures of an evaluation: the confusion of the classes, and the errors by age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import figures


def draw_confusion(
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


def draw_error_by_age(path: str, by_age: Mapping[str, Mapping[str, Any]]) -> None:
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
