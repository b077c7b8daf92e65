"""The page: one HTML file that needs no other file and requests nothing.

::

    page = page.Page("Faces", ["records", "run"])
    page.add_section("data", "Data set", [elements.new("p", "...")])
    files.write_atomic("report.html", page.html())

The file contains its style and its program.  Its content security policy forbids every
request, and allows only the program with a given digest, so that no text of a data set
can run as a program.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from afad_tfdata import __version__
from afad_tfdata.reporting import html_elements

_HERE = pathlib.Path(__file__).parent


class Page:
    """A page of sections.

    Args:
      title: Text of the heading and of the browser's title.
      about: What the page was made from, one text for each.
    """

    def __init__(self, title: str, about: Sequence[str]) -> None:
        self._title, self._about = title, about
        self._sections: list[tuple[str, str, list[html_elements.Element]]] = []

    def add_section(
        self,
        name: str,
        title: str,
        content: Sequence[html_elements.Element],
        *,
        before: str = "",
    ) -> None:
        """Adds a section to the page.

        Args:
          name: Its identifier on the page.
          title: Its heading.
          content: Its elements.
          before: Name of the section that it is put before; empty for the end.
        """
        names = [name for name, _, _ in self._sections]
        place = names.index(before) if before else len(names)
        for element in content:
            for svg in element.iter("svg"):
                _prefix_identifiers(svg, name)
        self._sections.insert(place, (name, title, list(content)))

    def html(self) -> str:
        """The whole page as HTML."""
        style, program = _read_asset("page.css"), _read_asset("page.js")
        digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
        policy = (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
            f" script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        )
        new = html_elements.new
        head = new(
            "head",
            new("meta", charset="utf-8"),
            new("meta", http_equiv="Content-Security-Policy", content=policy),
            new("meta", name="viewport", content="width=device-width, initial-scale=1"),
            new("meta", name="generator", content=f"afad_tfdata {__version__}"),
            new("title", self._title),
            _raw_element("style", style),
        )
        links = [new("li", new("a", t, href=f"#{n}")) for n, t, _ in self._sections]
        body = new(
            "body",
            new(
                "header",
                new("h1", self._title),
                new("p", ", ".join(self._about)),
            ),
            new("nav", new("ul", *links), aria_label="Sections"),
            new(
                "main",
                *(
                    new(
                        "section",
                        new("h2", title, id=f"{name}-title"),
                        *content,
                        id=name,
                        aria_labelledby=f"{name}-title",
                    )
                    for name, title, content in self._sections
                ),
            ),
            new("footer", new("p", f"Written by afad_tfdata {__version__}.")),
            _raw_element("script", program),
        )
        root = new("html", head, body, lang="en")
        text = ET.tostring(root, encoding="unicode", method="html")
        return f"<!DOCTYPE html>\n{text}\n"


def json_data(name: str, value: Any) -> html_elements.Element:
    """JSON values that the page's program reads.

    Args:
      name: Identifier of the element.
      value: JSON values, whose texts must be printable.
    """
    # "<" is escaped, so that no text ends the element.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return _raw_element("script", text, id=name, type="application/json")


def _prefix_identifiers(svg: html_elements.Element, name: str) -> None:
    """Makes a chart's identifiers unique on the page: two runs have the same charts."""
    for element in svg.iter():
        for attribute in ("id", "href", "clip-path"):
            if value := element.get(attribute):
                hash_at = value.find("#") + 1
                value = f"{value[:hash_at]}{name}-{value[hash_at:]}"
                element.set(attribute, value)


def _raw_element(tag: str, text: str, **attributes: str) -> html_elements.Element:
    """The page's style or program, whose text is not escaped in HTML."""
    if f"</{tag}" in text.lower() or "<!--" in text:
        raise ValueError(f"the text ends the element {tag}")
    element = html_elements.new(tag, **attributes)
    element.text = text
    return element


def _read_asset(name: str) -> str:
    """Reads the style or the program of the page."""
    return (_HERE / name).read_text(encoding="utf-8")
