#!/usr/bin/env python3
"""Trains on records, or continues what was stopped: the same command, at any step."""

from afad_tfdata.bin import command
from afad_tfdata.training import config as train_config

EXAMPLE = """
afad-train --records_dir=records --run_dir=run --task=gender --backbone=VGG19
afad-train --records_dir=records --run_dir=try --stage=tuning --backbone=small_cnn
"""


def main(config: train_config.TrainConfig, arguments: list[str]) -> command.Output:
    """Trains, once or fold by fold, or looks for a learning rate."""
    del arguments
    from afad_tfdata import cross_validation, trainer
    from afad_tfdata.training import rate_search

    command.quiet_unless_chief()
    train = cross_validation.train if config.folds else trainer.train
    if config.find_learning_rate:
        train = rate_search.search
    result = train(config)
    return command.Output(result.text(), result.to_dict())


def run() -> None:
    """Entry point of ``afad-train``."""
    command.run(
        main,
        train_config.TrainConfig,
        about=__doc__,
        example=EXAMPLE,
        stops_on_signal=True,
    )


if __name__ == "__main__":
    run()
