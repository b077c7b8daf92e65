"""The site of the docs lists every page and public name, and has no dead link.

``make docs`` builds it, in CI, too; nothing here needs Sphinx.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from unittest import mock

import pytest

from tests import test_imports

_ROOT = pathlib.Path(__file__).parents[2]
_SPHINX = _ROOT / "docs" / "sphinx"


def _load(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", _SPHINX / name)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [*sys.path]):  # conf.py adds to it.
        spec.loader.exec_module(module)
    return module


def _names(pages: dict[str, list[str]]) -> list[str]:
    return [name for names in pages.values() for name in names]


def test_navigation_lists_every_page_once():
    listed = _names(_load("conf.py").PAGES)
    wanted = [
        *(p for p in _ROOT.glob("*.md") if p.name != "README.md"),
        *(_ROOT / "docs").glob("*.md"),
        *(_ROOT / "docs/reference").glob("*.rst"),
    ]
    assert sorted(listed) == sorted(
        str(path.relative_to(_ROOT).with_suffix("")) for path in wanted
    )


def test_navigation_is_added_to_the_first_page_only():
    navigation = _load("navigation.py")
    text = navigation.contents({"Data": ["docs/a", "docs/b"], "Help": ["docs/c"]})
    assert re.findall(r":caption: (\w+)\n\n((?:docs/\w\n)+)```", text) == [
        ("Data", "docs/a\ndocs/b\n"),
        ("Help", "docs/c\n"),
    ]


def test_reference_lists_every_public_name():
    found = {}
    for path in (_ROOT / "docs/reference").glob("*.rst"):
        text = path.read_text()
        (module,) = re.findall(r"^\.\. automodule:: (\S+)$", text, re.M)
        assert text.startswith(f"{module}\n{'=' * len(module)}\n")
        names = re.findall(r"^\.\. auto(?!module)\w+:: (\w+)$", text, re.M)
        assert len(names) == len(set(names))
        found[module] = set(names)
    public = {
        m: names for m, names in test_imports._PUBLIC.items() if m != "afad_tfdata"
    }
    assert found == public


def test_pages_load_nothing_from_elsewhere():
    """Neither a font nor a script of a network, whatever the theme's defaults are."""
    conf = _load("conf.py")
    assert not {"sphinx.ext.mathjax", "sphinx.ext.intersphinx"} & set(conf.extensions)
    for path in [*_SPHINX.iterdir(), *(_ROOT / "docs/reference").iterdir()]:
        if path.is_file():
            assert "://" not in path.read_text().replace("(?:https?:)?//", ""), path


@pytest.fixture
def site(tmp_path):
    """A site of two pages in which everything is right."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "style.css").write_text("p { background: url(a.png) }")
    (tmp_path / "README.html").write_text(
        '<link rel="stylesheet" href="style.css"><h1 id="top">A</h1>'
        '<a href="docs/a.html#there">a</a> <a href="#top">b</a> <a href="#">c</a>'
        '<a href="https://example.org/x">d</a> <a href="mailto:a@example.org">e</a>'
    )
    (tmp_path / "docs/a.html").write_text(
        '<section id="there"><a href="../README.html#top">A</a></section>'
    )
    return tmp_path


def test_a_right_site_has_no_faults(site):
    assert _load("check_links.py").faults(site) == []


@pytest.mark.parametrize(
    ("file", "added", "fault"),
    [
        ("docs/a.html", '<a href="b.html">', "links to b.html, which does not exist"),
        ("docs/a.html", '<a href="../README.html#no">', "which has no such anchor"),
        ("README.html", '<a href="#no">', "links to #no, which has no such anchor"),
        ("README.html", '<img src="no.png">', "loads no.png, which does not exist"),
        ("README.html", '<script src="//a.example/a.js">', "loads //a.example/a.js"),
        ("README.html", '<link href="https://a.example/f">', "loads https://a.ex"),
        ("README.html", "<style>@import 'http://a.example/f';", "loads http://a.ex"),
        ("style.css", "b { src: url(https://a.example/f) }", "loads https://a.exam"),
    ],
)
def test_a_fault_of_a_site_is_named(site, file, added, fault):
    path = site / file
    path.write_text(path.read_text() + added)
    (line,) = _load("check_links.py").faults(site)
    assert line.startswith(file) and fault in line


def test_an_empty_folder_is_a_fault(tmp_path):
    assert _load("check_links.py").faults(tmp_path)
