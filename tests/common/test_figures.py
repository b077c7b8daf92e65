"""Figures are drawn without a display, whatever MPLBACKEND says."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("backend", "printed"),
    [("qtagg", "drawn"), ("nonsense", "UsageError matplotlib does not load")],
)
@pytest.mark.parametrize(
    "draw", ["figures.new(1, 1)", "charts.Chart('a', xlabel='', ylabel='')"]
)
def test_the_backend_of_the_environment(draw, backend, printed):
    code = (
        "from afad_tfdata.common import errors, figures\n"
        "from afad_tfdata.reporting import charts\n"
        "try:\n"
        f"    {draw}\n"
        "    print('drawn')\n"
        "except errors.UsageError as error:\n"
        "    print('UsageError', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(printed)
