"""The process in which a part of the check runs, or several parts one after another.

It appends each row to a file as soon as it is known, so that an abort loses only what
was not measured yet.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
from collections.abc import Iterator

from afad_tfdata.common import errors, lazy_imports
from afad_tfdata.measuring import check_settings, part_list, row_verdicts
from afad_tfdata.training.distributed import strategies

# The supervisor ends a process that takes too long.  If the supervisor itself is gone,
# the process ends this many seconds later.
_GRACE_SECS = 10


def main(arguments: list[str]) -> int:
    """Runs parts.

    Args:
      arguments: Names of the parts with commas, their settings as JSON, the file for
        the rows, and the number of seconds that they may take.
    """
    names, text, path, limit = arguments
    signal.alarm(int(float(limit)) + _GRACE_SECS)
    lazy_imports.hide_start_lines()
    with open(path, "a", encoding="utf-8") as file:
        for name in names.split(","):
            for row in _measured(part_list.find(name), check_settings.from_json(text)):
                value = dataclasses.asdict(dataclasses.replace(row, part=name))
                file.write(json.dumps(value) + "\n")
                file.flush()
    # The clean-up of CUDA and NCCL can abort or hang after everything is measured.
    os._exit(0)


def _measured(
    part: part_list.Part, settings: check_settings.CheckSettings
) -> Iterator[row_verdicts.Row]:
    """The rows of one part of the check; a row of the error if it fails."""
    module, _, function = part.function.partition(":")
    try:
        if not settings.gpus and settings.all:
            # Logical devices can be created only before TensorFlow starts.
            strategies.device_names(settings.all)
        measure = getattr(
            importlib.import_module(f"afad_tfdata.measuring.{module}"), function
        )
        if part.argument:
            yield from measure(settings, part.argument)
        else:
            yield from measure(settings)
    except Exception as error:  # Whatever goes wrong is a row of the table.
        yield row_verdicts.failed(errors.one_line(error) or type(error).__name__)
