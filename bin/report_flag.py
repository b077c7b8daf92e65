"""What ``--report`` of a command shows: fields of a `report.ReportConfig`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afad_tfdata.common import errors, files

# Imported for types only, so that --help of a command does not load the others.
if TYPE_CHECKING:
    from afad_tfdata import evaluation, records
    from afad_tfdata.training import config as train_config


def of_training(config: train_config.TrainConfig) -> dict[str, str]:
    """What ``afad-train --report`` shows: the run and its data set.

    Raises:
      UsageError: The command makes no run, or several.
    """
    for flag in ("find_learning_rate", "folds"):
        if getattr(config, flag):
            raise errors.UsageError(f"--report shows one run: leave out --{flag}")
    return {"records_dir": config.input.records_dir, "run_dir": config.run_dir}


def of_evaluation(config: evaluation.EvaluateConfig) -> dict[str, str]:
    """What ``afad-evaluate --report`` shows, and where: next to its result.

    Raises:
      UsageError: The run or its data set is not there.
    """
    from afad_tfdata import evaluation, report

    records_dir, directory = evaluation.places(config)[1:]
    return {
        "records_dir": records_dir,
        "run_dir": config.run_dir,
        "evaluation_dir": directory,
        "output": files.join(directory, report.PAGE_NAME),
    }


def of_records(config: records.WriteConfig) -> dict[str, str]:
    """What ``afad-write-records --report`` shows: the data set.

    Raises:
      UsageError: The command writes a part of it.
    """
    if config.shard_range:
        raise errors.UsageError(
            "--report shows a whole data set: leave it out with --shard_range"
        )
    return {"records_dir": config.output_dir}
