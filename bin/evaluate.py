#!/usr/bin/env python3
"""Evaluates a model on a split, and compares it with a constant prediction."""

from afad_tfdata import evaluation
from afad_tfdata.bin import command, report_flag

EXAMPLE = """
afad-evaluate --run_dir=run
afad-evaluate --model=mine.keras --records_dir=records --split=validation
"""


def main(config: evaluation.EvaluateConfig, arguments: list[str]) -> command.Output:
    """Evaluates the model."""
    del arguments
    result = evaluation.evaluate(config)
    return command.Output(evaluation.summary_text(result), result)


def run() -> None:
    """Entry point of ``afad-evaluate``."""
    command.run(
        main,
        evaluation.EvaluateConfig,
        about=__doc__,
        example=EXAMPLE,
        reports=report_flag.of_evaluation,
    )


if __name__ == "__main__":
    run()
