#!/usr/bin/env python3
"""Shows what is in a data set; with --verify, reads and checks every record."""

from afad_tfdata.bin import command
from afad_tfdata.writing import inspection

EXAMPLE = """
afad-inspect-records --records_dir=records
afad-inspect-records --records_dir=records --verify
"""


def main(config: inspection.InspectConfig, arguments: list[str]) -> command.Output:
    """Inspects the data set; the exit status is 2 if --verify found a fault."""
    del arguments
    result = inspection.inspect_records(config)
    return command.Output(result.summary, result.values, 2 if result.faults else 0)


def run() -> None:
    """Entry point of ``afad-inspect-records``."""
    command.run(main, inspection.InspectConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
