#!/usr/bin/env python3
"""Writes one HTML page to look at: a data set, a run, its evaluation and its graph."""

from afad_tfdata import report
from afad_tfdata.bin import command

EXAMPLE = """
afad-report --records_dir=records --run_dir=run
afad-report --run_dir=first,second --output=both.html
"""


def main(config: report.ReportConfig, arguments: list[str]) -> command.Output:
    """Writes the report."""
    del arguments
    result = report.write_report(config)
    return command.Output(f"report: {result['report']}", result)


def run() -> None:
    """Entry point of ``afad-report``."""
    command.run(main, report.ReportConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
