"""Pictures of decisions about age, each of which explains itself.

::

    age_decision_pictures.draw_decisions("age_decisions.png", result, title="test")
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afad_tfdata.common import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RATES = {
    "false_positive_rate": ("tab:red", "younger, but accepted (false positives)"),
    "false_negative_rate": ("tab:blue", "old enough, but refused (false negatives)"),
}
_COLORS = ("tab:red", "tab:purple", "tab:brown", "tab:orange", "tab:green", "tab:cyan")
_NOT_DEFINED = "no data"


def draw_decisions(path: str, result: Mapping[str, Any], *, title: str) -> None:
    """Draws age decisions: error rates, and share of minors at each challenge age.

    Args:
      path: Where to; PNG.
      result: From `age_decisions.measure`, with at least one threshold.
      title: What was evaluated, such as ``run/best.keras on the test split``.
    """
    figure = figures.new(9, 10)
    upper, lower = figure.subplots(2, 1)
    figure.suptitle(
        f"Decisions about age from {result['examples']:,} faces\n{title}", fontsize=12
    )
    _draw_rates(upper, result["thresholds"])
    _draw_curves(lower, result["challenge"])
    figure.supxlabel(
        "False positive rate: share of the people younger than the legal age whose"
        " estimated age is at or above the threshold.\nFalse negative rate: share of"
        " the people at or above the legal age whose estimated age is below it.\n"
        f"Definitions: {result['source']}.",
        fontsize=8,
    )
    figures.save(path, figure)


def draw_groups(path: str, result: Mapping[str, Any], *, title: str) -> None:
    """Draws the gaps behind age decisions: MAE and bias of each group.

    Args:
      path: Where to; PNG.
      result: From `age_decisions.measure`.
      title: What was evaluated.
    """
    rows = [
        (f"{name}\nn = {row['examples']:,}", row)
        for by_name in result["groups"].values()
        for name, row in by_name.items()
    ]
    figure = figures.new(max(6, 1.1 * len(rows) + 2), 6)
    axes = figure.subplots()
    figure.suptitle(
        f"Error of the estimated age by group, {result['examples']:,} faces\n{title}",
        fontsize=12,
    )
    names = (("mae", -0.15, "o", "mean absolute error"), ("bias", 0.15, "s", "bias"))
    for metric, shift, marker, label in names:
        middle = [row[metric] for _, row in rows]
        ends = [_ends_of_rate(row, metric) for _, row in rows]
        axes.errorbar(
            np.arange(len(rows)) + shift,
            middle,
            yerr=_error_bar_lengths(middle, ends),
            fmt=marker,
            capsize=4,
            label=f"{label}, with 95 % interval" if rows and ends[0] else label,
        )
    axes.axhline(0, color="gray", lw=0.8)
    sizes = [len(by_name) for by_name in result["groups"].values()]
    for place in itertools.accumulate(sizes[:-1]):
        axes.axvline(place - 0.5, color="gray", lw=0.8, ls=":")
    axes.set(ylabel="years", xlabel="group of the true labels")
    axes.set_xticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    figure.supxlabel(
        "Bias: mean of estimated age minus age; above 0, people are estimated too"
        " old.\n" + _gap_text(result["largest_gap"]),
        fontsize=8,
    )
    figures.save(path, figure)


def _draw_rates(axes: Axes, thresholds: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws bars of both error rates by age threshold."""
    for place, row in enumerate(thresholds.values()):
        for shift, (name, (color, _)) in zip((-0.2, 0.2), _RATES.items(), strict=True):
            value, ends = row[name], row["intervals"][name]
            if value is None:
                axes.text(place + shift, 0, _NOT_DEFINED, color=color, ha="center")
                continue
            bar = 100 * value
            axes.bar(place + shift, bar, 0.38, color=color, alpha=0.7)
            lengths = _error_bar_lengths([bar], [[100 * end for end in ends]])
            axes.errorbar(place + shift, bar, yerr=lengths, color="black", capsize=4)
            axes.annotate(
                f"{bar:.1f} %",
                (place + shift, 100 * ends[1]),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    # Empty bars, so that the legend is complete where nothing is defined.
    for color, label in _RATES.values():
        axes.bar([0], [0], color=color, alpha=0.7, label=label)
    labels = [
        f"{years} years\n{row['younger']:,} younger, {row['older']:,} not"
        for years, row in thresholds.items()
    ]
    axes.set_xticks(range(len(labels)), labels)
    axes.set(
        title="Error rates where the estimated age decides, with 95 % intervals",
        xlabel="threshold, with the number of faces on each side by their true age",
        ylabel="share of that side, %",
        ylim=(0, 118),
        yticks=range(0, 101, 20),
    )
    axes.legend(loc="upper right", fontsize=8)
    axes.grid(axis="y", alpha=0.3)


def _draw_curves(axes: Axes, challenges: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws the false positive rate by challenge age, a line for each legal age."""
    limit, smallest = 1.0, 0.1
    for (years, row), color in zip(
        challenges.items(), itertools.cycle(_COLORS), strict=False
    ):
        limit = 100 * row["limit"]
        if row["challenge_age"] is None:
            label = f"under {years}: {_NOT_DEFINED}"
            axes.plot([], [], color=color, label=label)
            continue
        shares = 100 * np.array(row["curve"]["false_positive_rate"], np.float64)
        # A logarithm has no 0: the line ends where nobody is accepted any more.
        shares[shares <= 0] = np.nan
        smallest = min(smallest, 50 / row["younger"])
        label = (
            f"under {years} (n = {row['younger']:,}): below {limit:g} % from"
            f" {_challenge_text(row)}"
        )
        axes.plot(row["curve"]["challenge_age"], shares, color=color, label=label)
        axes.axvline(row["challenge_age"], color=color, ls=":", lw=1)
    axes.axhline(limit, color="black", ls="--", lw=1, label=f"limit: {limit:g} %")
    axes.set(
        title="Which challenge age accepts few enough people under the legal age",
        xlabel="challenge age: estimated age from which on a person is accepted, years",
        ylabel="people under the legal age\nwho are accepted, %",
        yscale="log",
        ylim=(smallest, 150),
    )
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick >= smallest]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.legend(loc="upper right", fontsize=8)
    axes.grid(alpha=0.3)


def _challenge_text(row: Mapping[str, Any]) -> str:
    """The challenge age with its interval, as text in a picture."""
    low, high = row["interval"]
    end = "no upper limit" if high is None else f"{high:.1f}"
    return f"{row['challenge_age']:.1f} years [{low:.1f}, {end}] on"


def _gap_text(gaps: Mapping[str, Mapping[str, Any]]) -> str:
    """The largest gaps between groups, as a line of text in a picture."""
    parts = []
    for grouping, gap in gaps.items():
        if gap["mae"] is None:
            continue
        mae = gap["mae"]
        ends = mae.get("interval")
        shown = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
        parts.append(
            f"{grouping.replace('_', ' ')}: {mae['high']} {mae['years']:.2f}{shown}"
            f" years above {mae['low']}"
        )
    if not parts:
        return "No two groups are large enough to compare."
    return f"Largest gap in mean absolute error, by {'; by '.join(parts)}."


def _ends_of_rate(row: Mapping[str, Any], metric: str) -> Sequence[float] | None:
    """The ends of the drawn interval of an error rate, if it was measured."""
    return row.get("intervals", {}).get(metric)


def _error_bar_lengths(
    middle: Sequence[float], ends: Sequence[Sequence[float] | None]
) -> np.ndarray | None:
    """Lengths of drawn error bars, ``[2, n]``; None if there are no intervals."""
    if not ends or not all(ends):
        return None
    low, high = np.transpose(np.array(ends, np.float64))
    return np.maximum([middle - low, high - middle], 0)
