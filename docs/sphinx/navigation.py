"""Adds the navigation to the first page, which is README.md as it is."""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this once."""
    app.connect("source-read", _add_navigation)
    return {"parallel_read_safe": True}


def _add_navigation(app: Any, name: str, source: list[str]) -> None:
    if name == app.config.root_doc:
        # The file's settings are not values of Sphinx' configuration.
        source[0] += contents(app.config._raw_config["PAGES"])


def contents(pages: dict[str, list[str]]) -> str:
    """The hidden tables of contents that the theme shows as navigation, in MyST."""
    parts = [
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names)
        for caption, names in pages.items()
    ]
    return "\n" + "\n```\n".join(parts) + "\n```\n"
