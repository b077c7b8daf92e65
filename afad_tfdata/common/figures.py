"""Matplotlib figures without a display: created for a file, written as PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from afad_tfdata.common import files, lazy_imports

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110  # A figure of 8 inches is as wide as a page of text on a screen.


def new(width: float, height: float) -> Figure:
    """An empty matplotlib figure.

    Args:
      width: Inches.
      height: Inches.

    Raises:
      UsageError: matplotlib refuses one of its settings.
    """
    # pyplot is not used: it chooses a backend for the whole process, looks for a
    # display, and keeps every figure in memory.
    lazy_imports.import_matplotlib()
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    backend_agg.FigureCanvasAgg(figure)
    return figure


def save(path: str, figure: Figure) -> None:
    """Writes a matplotlib figure as PNG, whole or not at all.

    Raises:
      UsageError: The file cannot be written.
    """
    picture = io.BytesIO()
    # The file does not contain matplotlib's version, so that equal figures give equal
    # files.
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    files.write_atomic(path, picture.getvalue(), durable=False)
