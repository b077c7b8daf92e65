"""Elements of the page, in which every text is escaped.

Names of files, labels and models may contain ``<``, quotes, control characters, or
bytes that are no text.  Therefore the page is built as a tree, which the standard
library writes as HTML, and no string is ever taken as markup::

    html_elements.new("p", "see ", html_elements.new("code", path), class_="note")
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.reporting import json_values

Element = ET.Element


def new(tag: str, *children: Element | str | None, **attributes: Any) -> Element:
    """An HTML element of the report.

    Args:
      tag: Its name.
      *children: Elements and texts, of which None is left out.  Control characters in
        texts are shown by their codes.
      **attributes: Attributes by name.  An underscore stands for a hyphen, and one at
        the end is dropped (``class_``).  None and False are left out, and True means an
        attribute without a value.
    """
    element = ET.Element(tag)
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        text = "" if value is True else errors.printable(str(value))
        element.set(name.rstrip("_").replace("_", "-"), text)
    extend(element, children)
    return element


def extend(element: Element, children: Iterable[Element | str | None]) -> Element:
    """Appends elements and texts to an HTML element, and returns it."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, ET.Element):
            element.append(child)
            continue
        text = errors.printable(child)
        if len(element):
            element[-1].tail = (element[-1].tail or "") + text
        else:
            element.text = (element.text or "") + text
    return element


def number(
    value: json_values.Json,
    digits: int = 4,
    *,
    percent: bool = False,
    sign: str = "",
    form: str = "f",
) -> Element | str:
    """A number in HTML, with where it comes from; a dash if there is no number.

    The element contains the exact value, and its place in a file as ``data-file`` and
    ``data-pointer``.

    Args:
      value: The number.
      digits: Digits after the decimal point; whole numbers have none.
      percent: Whether the number is a share, to be shown in per cent.
      sign: ``+`` to show the sign of positive numbers, too.
      form: ``f``, or ``e`` for a power of ten.
    """
    text = number_text(value, digits, percent=percent, sign=sign, form=form)
    if value.number is None:
        return text
    return new("data", text, value=repr(value.number), **origin(value))


def origin(value: json_values.Json) -> dict[str, str]:
    """HTML attributes that say where a value comes from; empty if it was computed."""
    if not value.file:
        return {}
    return {"data_file": value.file, "data_pointer": value.pointer}


def number_text(
    value: json_values.Json,
    digits: int = 4,
    *,
    percent: bool = False,
    sign: str = "",
    form: str = "f",
) -> str:
    """The text of `number`, such as ``12,345`` or ``93.1 %``."""
    plain = value.number
    if plain is None:
        return "\N{EN DASH}"
    if percent:
        return f"{100 * plain:{sign},.{digits}f} %"
    if isinstance(plain, int):
        return f"{plain:{sign},}"
    if form == "e":
        return f"{plain:{sign}.{digits}e}"
    return f"{plain:{sign},.{digits}f}"


def option_text(value: Any) -> str:
    """A JSON value in one line, for the page's tables of options."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def table(
    head: Sequence[Element | str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
) -> Element:
    """An HTML table whose first column names the rows.

    Args:
      head: Texts of the columns.
      rows: Cells, which are elements or texts, as many in each row as in the head.
      caption: What the table shows.
    """
    body = [
        new(
            "tr",
            new("th", first, scope="row"),
            *(new("td", cell) for cell in rest),
        )
        for first, *rest in rows
    ]
    return scrollable(
        new(
            "table",
            new("caption", caption),
            new("thead", new("tr", *(new("th", text, scope="col") for text in head))),
            new("tbody", *body),
        ),
        caption,
    )


def scrollable(content: Element, label: str) -> Element:
    """An HTML box that scrolls sideways on a narrow screen, also by keyboard."""
    return new(
        "div", content, class_="scroll", tabindex="0", role="group", aria_label=label
    )


def facts(rows: Mapping[str, Element | str | None]) -> Element:
    """An HTML list of names and values; values that are None or empty are left out."""
    listed = new("dl", class_="facts")
    for name, value in rows.items():
        if value is not None and value != "":
            is_path = isinstance(value, ET.Element) and value.tag == "code"
            row = new("div", new("dt", name), new("dd", value))
            if is_path:
                row.set("class", "long")
            listed.append(row)
    return listed


def note(text: str) -> Element:
    """A sentence on the page that says what is missing, and why."""
    return new("p", text, class_="note")


def folded(title: str, *children: Element | str | None) -> Element:
    """HTML that is shown after a click on its title."""
    return new("details", new("summary", title), *children)


def code(lines: Sequence[str], label: str) -> Element:
    """An HTML block of program text."""
    block = new("code")
    # Lines are made printable one by one, because `printable` would turn the line
    # breaks into codes.
    block.text = "\n".join(errors.printable(line) for line in lines)
    return new("pre", block, class_="scroll", tabindex="0", aria_label=label)
