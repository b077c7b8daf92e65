"""Charts for the page: SVG by matplotlib, in which bars and points show their numbers.

::

    chart = charts.Chart("mae", xlabel="epoch", ylabel="years")
    chart.line("validation", [(1, value), (2, value)], color=1)
    chart.figure("Age: mean absolute error")

matplotlib draws with placeholder colours.  They are then replaced by variables of the
page's style, so that the same picture can be read on a light and on a dark background.
Each bar and each point gets a title, which browsers show, its number, and the place of
the number in its file.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, figures, lazy_imports
from afad_tfdata.reporting import html_elements, json_values

# Inches.  A screen of 390 pixels is a little narrower than one chart; on 1280 pixels,
# two fit side by side.
_WIDTH, _HEIGHT = 4.7, 3.0
_MARGINS = {"left": 0.155, "right": 0.985, "top": 0.97, "bottom": 0.165}
NUM_COLORS = 6
# Placeholder colours, which no chart uses for anything else.
_SERIES = tuple(f"#{i + 1:02x}fe{i + 1:02x}" for i in range(NUM_COLORS))
_INK, _GRID = "#01fd02", "#01fd03"
_VARIABLES = {
    **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES)},
    _INK: "var(--ink-2)",
    _GRID: "var(--grid)",
}
_STYLE: Any = {
    "svg.fonttype": "none",  # Text stays text, which is small and can be searched.
    "svg.hashsalt": "afad_tfdata",  # Equal charts get equal identifiers.
    "font.size": 9.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    # Names of classes and stages may contain dollar signs, which start a formula.
    "text.parse_math": False,
}
_LARGEST_MARKED = 240  # Marks on a line; more would overlap.

Point = tuple[float, json_values.Json]


class Chart:
    """One chart of the page.

    Args:
      name: Unique on the page.
      xlabel: Text below it.
      ylabel: Text at its left.
      wide: Whether it is as wide as the page.
    """

    def __init__(
        self, name: str, *, xlabel: str, ylabel: str, wide: bool = False
    ) -> None:
        matplotlib = lazy_imports.import_matplotlib()
        self._name, self._wide = name, wide
        # Texts and ticks take their colours at the moment they are created.
        with matplotlib.rc_context(_STYLE):
            self._figure = figures.new(_WIDTH * (2 if wide else 1), _HEIGHT)
            # The layout engine, which fits the margins, takes as long as all drawing.
            self._figure.set_layout_engine(None)
            self._figure.subplots_adjust(**_MARGINS)
            self.axes = self._figure.subplots()
            self.axes.set(xlabel=xlabel, ylabel=ylabel)
            self.axes.grid(axis="y")
            self.axes.set_axisbelow(True)
        # Title and number of each mark, by the identifier of its group.
        self._marks: dict[str, list[tuple[str, json_values.Json]]] = {}
        self._has_labels = False

    def bars(
        self,
        label: str,
        places: Sequence[float],
        values: Sequence[json_values.Json],
        titles: Sequence[str],
        *,
        color: int,
        bottom: np.ndarray | None = None,
        width: float = 0.86,
    ) -> None:
        """Draws bars, one for each value; `bottom` stacks them on others."""
        heights = [value.number or 0 for value in values]
        drawn = self.axes.bar(
            places,
            heights,
            width,
            bottom,
            label=_legend_text(label),
            color=_SERIES[color],
        )
        self._has_labels |= bool(label)
        for bar, title, value in zip(drawn, titles, values, strict=True):
            bar.set_gid(self._add_group([(title, value)]))

    def line(
        self,
        label: str,
        points: Sequence[Point],
        *,
        color: int,
        dashed: bool = False,
        digits: int = 4,
        percent: bool = False,
        xname: str = "",
        marks: bool = True,
    ) -> None:
        """Draws a line through points; a value that is no number leaves a gap.

        Args:
          label: Its name in the legend and in the titles.
          points: Place and value of each.
          color: From 0.
          dashed: Whether the line is dashed.
          digits: Digits of the numbers in the titles.
          percent: Whether the values are shares, to be shown in per cent.
          xname: Name of the x axis for the titles, such as ``epoch``.
          marks: Whether the points show their numbers.
        """
        places = [place for place, _ in points]
        heights = [np.nan if v.number is None else v.number for _, v in points]
        scaled = np.array(heights) * (100 if percent else 1)
        self.axes.plot(
            places,
            scaled,
            color=_SERIES[color],
            ls="--" if dashed else "-",
            lw=1.6,
            label=_legend_text(label) or None,
        )
        self._has_labels |= bool(label)
        every = -(-len(points) // _LARGEST_MARKED)
        known = [(p, v) for p, v in points[::every] if v.number is not None]
        if not marks or not known:
            return
        titles = [
            (
                f"{label}{', ' if label else ''}{xname} {place:g}:"
                f" {html_elements.number_text(v, digits, percent=percent)}",
                v,
            )
            for place, v in known
        ]
        self.axes.plot(
            [place for place, _ in known],
            [(v.number or 0) * (100 if percent else 1) for _, v in known],
            color=_SERIES[color],
            ls="",
            marker="o",
            ms=3.2,
            gid=self._add_group(titles),
        )

    def whole_numbers(self) -> None:
        """Labels the x axis with whole numbers only, such as epochs."""
        from matplotlib import ticker

        self.axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))

    def moment(self, place: float, text: str, *, color: int) -> None:
        """Draws a vertical line with a text, such as the start of a stage."""
        self.axes.axvline(place, color=_SERIES[color], ls=":", lw=1.2)
        self.axes.annotate(
            errors.printable(text),
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            textcoords="offset points",
            rotation=90,
            va="top",
            ha="left",
            fontsize=7.5,
            color=_INK,
        )

    def figure(
        self, title: str, *more: html_elements.Element | None
    ) -> html_elements.Element:
        """The chart with its title, as an element of the page.

        Args:
          title: Text above it.
          *more: What follows the chart, such as its numbers as a table.
        """
        return html_elements.new(
            "figure",
            html_elements.new("figcaption", title),
            self._svg(title),
            *more,
            class_="wide" if self._wide else None,
        )

    def _add_group(self, marks: list[tuple[str, json_values.Json]]) -> str:
        """Names a group of marks in the SVG, with their numbers."""
        name = f"mark-{len(self._marks)}"
        self._marks[name] = marks
        return name

    def _svg(self, title: str) -> html_elements.Element:
        """The chart as an SVG element."""
        import matplotlib

        content = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            if self._has_labels:
                self.axes.legend(loc="best", fontsize=8.5)
            empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            with warnings.catch_warnings():
                # matplotlib's font may lack letters, but the browser has them.
                warnings.filterwarnings("ignore", "Glyph", UserWarning)
                self._figure.savefig(
                    content, format="svg", transparent=True, metadata=empty
                )
        svg = _without_namespaces(ET.fromstring(content.getvalue()))
        for parent in svg.iter():
            # The indentation that matplotlib writes is a third of all characters.
            parent.text = parent.text if parent.tag == "text" else None
            parent.tail = None
            for child in list(parent):
                # The style would apply to the whole page.
                if child.tag in ("metadata", "style"):
                    parent.remove(child)
        self._add_marks(svg)
        self._adapt_to_page(svg)
        for name in ("width", "height", "version"):
            svg.attrib.pop(name, None)
        svg.set("role", "img")
        svg.set("aria-label", errors.printable(title))
        return svg

    def _add_marks(self, svg: html_elements.Element) -> None:
        """Adds the numbers to the marks of the chart's SVG."""
        groups = {g.get("id"): g for g in svg.iter("g")}
        for name, marks in self._marks.items():
            group = groups.get(name)
            if group is None:
                continue  # matplotlib leaves out shapes without an area.
            points = list(group.iter("use"))
            for mark, (title, value) in zip(points or [group], marks, strict=True):
                mark.set("class", "mark")
                if value.file:
                    mark.set("data-file", errors.printable(value.file))
                    mark.set("data-pointer", errors.printable(value.pointer))
                    mark.set("data-value", repr(value.number))
                mark.insert(0, html_elements.new("title", title))

    def _adapt_to_page(self, svg: html_elements.Element) -> None:
        """Makes identifiers unique on the page; replaces colours by variables."""
        wanted = {
            name
            for element in svg.iter()
            for value in element.attrib.values()
            for name in re.findall(r"#([\w-]+)\)?$", value)
        }
        for element in svg.iter():
            if "href" in element.attrib:
                element.set("href", f"#{self._name}-{element.get('href', '')[1:]}")
            if clip := element.get("clip-path"):
                element.set("clip-path", clip.replace("#", f"#{self._name}-"))
            if own := element.attrib.pop("id", None):
                if own in wanted:
                    element.set("id", f"{self._name}-{own}")
            if style := element.get("style"):
                for color, variable in _VARIABLES.items():
                    style = style.replace(color, variable)
                element.set("style", style)


def _legend_text(label: str) -> str:
    """A text for a chart's legend, which would leave out one that begins with "_"."""
    text = errors.printable(label)
    return f" {text}" if text.startswith("_") else text


def _without_namespaces(svg: html_elements.Element) -> html_elements.Element:
    """A chart's SVG as HTML expects it: plain names, ``href`` without ``xlink:``."""
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes: dict[str, Any] = {
            name.rpartition("}")[2]: value for name, value in element.attrib.items()
        }
        element.attrib.clear()
        element.attrib.update(attributes)
    return svg
