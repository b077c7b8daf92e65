"""A strict HTML reader: open tags, misplaced elements and repeated ids are faults."""

from __future__ import annotations

import html.parser
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from afad_tfdata.common import errors

_VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}
# Elements that may only be found within these.
_PARENTS = {
    "li": {"ul", "ol"},
    "dt": {"div", "dl"},
    "dd": {"div", "dl"},
    "tr": {"thead", "tbody"},
    "td": {"tr"},
    "th": {"tr"},
    "caption": {"table"},
    "figcaption": {"figure"},
    "summary": {"details"},
    "option": {"select"},
}
_NO_BLOCKS_IN = {"p", "span", "h1", "h2", "h3", "h4", "button", "code", "data"}
_BLOCKS = {"p", "div", "table", "ul", "dl", "figure", "section", "h2", "h3", "h4"}


class Node:
    """An element: its tag, attributes, parent, and children (elements and texts)."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Node | None):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, tag: str = "") -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if tag in ("", child.tag):
                    yield child
                yield from child.all(tag)

    def by_id(self, name: str) -> Node:
        (found,) = [n for n in self.all() if n.attributes.get("id") == name]
        return found


class _Parser(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        node = Node(tag, {n: v or "" for n, v in attrs}, self.here)
        if tag in _PARENTS:
            assert self.here.tag in _PARENTS[tag], f"<{tag}> in <{self.here.tag}>"
        if tag in _BLOCKS:
            assert self.here.tag not in _NO_BLOCKS_IN, f"<{tag}> in <{self.here.tag}>"
        self.here.children.append(node)
        if tag not in _VOID:
            self.here = node

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        raise AssertionError(f"<{tag}/>: HTML has no such form")

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.here.tag, f"</{tag}> within <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def parse(text: str) -> Node:
    """The page as a tree; an assertion fails if it is not sound."""
    assert text.startswith("<!DOCTYPE html>\n<html")
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.here is parser.root, f"<{parser.here.tag}> is not closed"
    names = [n.attributes["id"] for n in parser.root.all() if "id" in n.attributes]
    assert len(set(names)) == len(names), "an id is there twice"
    for node in parser.root.all():
        for name in ("href", "clip-path"):
            target = node.attributes.get(name, "").removeprefix("url(").rstrip(")")
            if target:
                assert target.startswith("#") and target[1:] in names, target
        if "src" in node.attributes:
            assert node.attributes["src"].startswith("data:image/jpeg;base64,")
        events = [name for name in node.attributes if name.startswith("on")]
        assert not events, events
    return parser.root


def load(path: Any) -> Node:
    """`parse` of a file."""
    return parse(pathlib.Path(path).read_text(encoding="utf-8"))


def check_numbers(page: Node) -> dict[str, int]:
    """Compares all numbers of the page that come from files with those files.

    Returns:
      How many there were, by the base name of the file.
    """
    found: dict[str, int] = {}
    contents: dict[str, Any] = {}
    for node in page.all():
        file = node.attributes.get("data-file")
        if file is None:
            continue
        if file not in contents:
            contents[file] = json.loads(pathlib.Path(file).read_bytes())
        value = _at(contents[file], node.attributes["data-pointer"])
        is_mark = node.attributes.get("class") == "mark"
        stored = node.attributes["data-value" if is_mark else "value"]
        assert float(stored) == value, node.attributes
        text = node.text
        if is_mark:
            text = text.rpartition(": ")[2].strip()
        assert text == _as_shown(value, text), (text, value, node.attributes)
        name = pathlib.Path(file).name
        found[name] = found.get(name, 0) + 1
    return found


def _at(value: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            value = value[int(name)]
        else:  # The page shows control characters by their codes.
            value = {errors.printable(k): v for k, v in value.items()}[name]
    return value


def _as_shown(value: float, text: str) -> str:
    """The number in the form of a text: with as many digits, and in per cent."""
    plain = text.removesuffix(" %")
    digits = len(plain.partition(".")[2])
    sign = "+" if plain.startswith("+") else ""
    if "e" in plain:
        digits = len(plain.partition("e")[0].partition(".")[2])
        return f"{value:{sign}.{digits}e}"
    scaled = 100 * value if plain != text else value
    return f"{scaled:{sign},.{digits}f}" + (" %" if plain != text else "")
