#!/usr/bin/env python3
"""Writes a folder of faces as sharded TFRecord or HDF5; continues a killed run."""

import dataclasses

from afad_tfdata import records
from afad_tfdata.bin import command, report_flag
from afad_tfdata.writing import data_set_files, data_set_summary, rejections

EXAMPLE = """
afad-write-records --data_dir=AFAD-Full --output_dir=records
afad-write-records --data_dir=AFAD-Full --output_dir=pixels --format=hdf5
"""


def main(config: records.WriteConfig, arguments: list[str]) -> command.Output:
    """Writes the data set."""
    del arguments
    manifest = records.write_records(config)
    if manifest is None:
        text = f"shards {config.shard_range} are written in {config.output_dir}"
        return command.Output(text, {"shard_range": config.shard_range})
    text = (
        f"{data_set_summary.table(manifest)}\nwritten to {config.output_dir}: shards,"
        f" indexes, {', '.join(data_set_files.companion_names(manifest))}"
    )
    if missing := rejections.summary(config.output_dir, manifest):
        text += f"\n{missing}"
    return command.Output(text, dataclasses.asdict(manifest))


def run() -> None:
    """Entry point of ``afad-write-records``."""
    show = report_flag.of_records
    command.run(main, records.WriteConfig, about=__doc__, example=EXAMPLE, reports=show)


if __name__ == "__main__":
    run()
