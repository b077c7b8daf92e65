#!/usr/bin/env python3
"""Trains on records, or continues what was stopped: the same command, at any step."""

from afad_tfdata import train_config
from afad_tfdata.bin import command

EXAMPLE = """
afad-train --records_dir=records --run_dir=run --task=gender --backbone=VGG19
afad-train --records_dir=records --run_dir=try --backbone=small_cnn --epochs=10
"""


def main(config: train_config.TrainConfig, arguments: list[str]) -> command.Output:
    """Trains."""
    del arguments
    from afad_tfdata import trainer

    result = trainer.train(config)
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
