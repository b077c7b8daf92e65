#!/usr/bin/env python3
"""Shows what a data set holds; with --verify, reads and checks every record."""

from afad_tfdata.bin import command
from afad_tfdata.writing import inspection

EXAMPLE = """
afad-inspect-records --records_dir=records
afad-inspect-records --records_dir=records --verify
"""


def main(config: inspection.InspectConfig, arguments: list[str]) -> command.Output:
    """Looks at the data set; exit status 2 if a check found something bad."""
    del arguments
    report = inspection.inspect_records(config)
    return command.Output(report.text, report.value, 2 if report.faults else 0)


def run() -> None:
    """Entry point of ``afad-inspect-records``."""
    command.run(main, inspection.InspectConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
