"""Checks the built site for dead links, and for what pages load from elsewhere.

::

    python docs/sphinx/check_links.py site

Sphinx checks the links of the Markdown pages.  This looks at the pages as they were
built, with what the theme and the docstrings added.  Links to other sites are for the
reader to follow, and are not requested here.
"""

from __future__ import annotations

import html.parser
import pathlib
import re
import sys
import urllib.parse

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""")


class _Page(html.parser.HTMLParser):
    """The anchors of a page, the links in it, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = _IN_STYLE.findall(text)
        self.feed(text)

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:  # The base class' name.
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[n] for n in ("id", "name") if n in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif tag in _LOADED and values.get(_LOADED[tag]):
            self.loaded.append(values[_LOADED[tag]])


def faults(site: pathlib.Path) -> list[str]:
    """What is wrong with a built site, one line for each fault.

    Args:
      site: The folder with the pages.
    """
    pages = {
        path.resolve(): _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    if not pages:
        return [f"{site} contains no pages"]
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for target in page.loaded:
            if _is_elsewhere(target):
                found.append(f"{name} loads {target}")
            elif _is_local(target) and not _file(path, target).is_file():
                found.append(f"{name} loads {target}, which does not exist")
        for target in page.links:
            if not _is_local(target):
                continue
            there = _file(path, target)
            anchor = urllib.parse.unquote(urllib.parse.urlsplit(target).fragment)
            if not there.is_file():
                found.append(f"{name} links to {target}, which does not exist")
            elif anchor and there in pages and anchor not in pages[there].anchors:
                found.append(f"{name} links to {target}, which has no such anchor")
    for path in sorted(site.rglob("*.css")):
        for target in _IN_STYLE.findall(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site)} loads {target}")
    return found


def _is_elsewhere(target: str) -> bool:
    return target.startswith("//") or urllib.parse.urlsplit(target).scheme in (
        "http",
        "https",
    )


def _is_local(target: str) -> bool:
    return not target.startswith("//") and not urllib.parse.urlsplit(target).scheme


def _file(page: pathlib.Path, target: str) -> pathlib.Path:
    """The file that a link of a page leads to."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
    return (page.parent / path).resolve() if path else page


def main(arguments: list[str]) -> int:
    """Prints the faults; the exit status is 1 if there are any."""
    (folder,) = arguments
    found = faults(pathlib.Path(folder))
    for line in found:
        print(line)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
