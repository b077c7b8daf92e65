"""Configuration of the site that ``make docs`` builds with Sphinx.

The sources are the Markdown pages as they are, which is why the source directory is
the root of the project, and the pages in ``docs/reference/``, which take their text
from docstrings.  Nothing here needs Sphinx, so that a test can read this file without
it.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

# The pages in the order of the navigation, by the heading that they are under.
PAGES = {
    "Data": ["docs/format", "docs/labels", "docs/faces", "docs/input", "docs/cards"],
    "Models": [
        *("docs/training", "docs/evaluation", "docs/freezing"),
        *("docs/report", "docs/scaling", "docs/gpu"),
    ],
    "Promises": ["docs/determinism", "docs/robustness"],
    "Help": ["docs/troubleshooting", "docs/from-the-original"],
    "Reference": [
        *("docs/reference/records", "docs/reference/input_fn"),
        *("docs/reference/trainer", "docs/reference/evaluation"),
        *("docs/reference/freeze", "docs/reference/prediction"),
        *("docs/reference/report", "docs/reference/models"),
        *("docs/reference/schema", "docs/reference/preprocess"),
        *("docs/reference/augment", "docs/reference/faces"),
        "docs/reference/errors",
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}

project = "afad_tfdata"
author = "the authors of afad_tfdata"
release = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "afad_tfdata/__init__.py").read_text(), re.M
)[1]  # type: ignore[index]
version = release
language = "en"
root_doc = "README"
include_patterns = ["README.md", *(f"{n}.*" for names in PAGES.values() for n in names)]
# Sphinx walks through all folders that are not excluded.
exclude_patterns = [".*", "site", "build", "dist", "demo", "gpu_check", "tests"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "navigation",
]
myst_heading_anchors = 6  # The anchors that GitHub makes, which the pages' links use.
# A single backtick in a docstring names code; where it is a public name, it is a link.
default_role = "py:obj"
smartquotes = False  # It would turn the dashes of flags into typographic ones.
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"afad_tfdata {release}"
html_extra_path = ["index.html"]
html_copy_source = False
# A page that is opened as a file may not fetch the pages that it would quote.
html_show_search_summary = False
html_show_sphinx = False
html_show_copyright = False
