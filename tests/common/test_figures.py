"""Figures are drawn without a display, whatever the environment says of one."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("backend", "printed"),
    [("qtagg", "drawn"), ("nonsense", "UsageError matplotlib does not load")],
)
def test_the_backend_of_the_environment(backend, printed):
    code = (
        "from afad_tfdata.common import errors, figures\n"
        "try:\n"
        "    figures.new(1, 1)\n"
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
