#!/usr/bin/env python3
"""Serves batches over the network: runs a dispatcher, or one of its data servers."""

from afad_tfdata.bin import command
from afad_tfdata.reading import data_service

EXAMPLE = """
afad-data-service --host=a --port=5000
afad-data-service --host=b --port=5001 --dispatcher=grpc://a:5000
"""


def main(
    config: data_service.DataServiceConfig, arguments: list[str]
) -> command.Output:
    """Runs a server of the data service until a signal comes."""
    del arguments
    text = data_service.serve(config)
    return command.Output(text, {"served": text})


def run() -> None:
    """Entry point of ``afad-data-service``."""
    command.run(
        main,
        data_service.DataServiceConfig,
        about=__doc__,
        example=EXAMPLE,
        stops_on_signal=True,
    )


if __name__ == "__main__":
    run()
