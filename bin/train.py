#!/usr/bin/env python3
"""Trains a model on records. The same command continues a run that was stopped."""

from afad_tfdata.bin import command, report_flag
from afad_tfdata.training import config as train_config

EXAMPLE = """
afad-train --records_dir=records --run_dir=run --task=gender --backbone=VGG19
afad-train --records_dir=records --run_dir=try --stage=tuning --backbone=small_cnn
"""


def main(config: train_config.TrainConfig, arguments: list[str]) -> command.Output:
    """Trains once or fold by fold, or searches a learning rate."""
    del arguments
    # Imported here and not above, so that --help answers in under a second.
    from afad_tfdata import cross_validation, trainer
    from afad_tfdata.training import rate_search

    command.quiet_unless_chief()
    if config.find_learning_rate:
        search = rate_search.search(config)
        return command.Output(search.text(), search.to_dict())
    result = (cross_validation if config.folds else trainer).train(config)
    return command.Output(result.text(), result.to_dict())


def run() -> None:
    """Entry point of ``afad-train``."""
    texts = {"about": __doc__, "example": EXAMPLE}
    show = report_flag.of_training
    command.run(
        main, train_config.TrainConfig, **texts, stops_on_signal=True, reports=show
    )


if __name__ == "__main__":
    run()
