#!/usr/bin/env python3
"""Measures how fast this machine can feed a data set to a model.

With --analyze, it also says what to change.
"""

from afad_tfdata import input_benchmark
from afad_tfdata.bin import command

EXAMPLE = "afad-benchmark-input --records_dir=records --analyze"


def main(
    config: input_benchmark.BenchmarkConfig, arguments: list[str]
) -> command.Output:
    """Runs the input benchmark."""
    del arguments
    result = input_benchmark.run(config)
    return command.Output(result.table(), result.to_dict())


def run() -> None:
    """Entry point of ``afad-benchmark-input``."""
    command.run(main, input_benchmark.BenchmarkConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
