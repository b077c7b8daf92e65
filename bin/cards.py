#!/usr/bin/env python3
"""Describes a data set or a model: Croissant metadata, a table of labels, and cards."""

from afad_tfdata import cards
from afad_tfdata.bin import command

EXAMPLE = """
afad-cards --records_dir=records
afad-cards --run_dir=runs/first --graph=frozen/first.pb
afad-cards --records_dir=records --with_images --license=CC-BY-4.0
"""


def main(config: cards.CardsConfig, arguments: list[str]) -> command.Output:
    """Writes the cards next to the records, or to --output_dir."""
    del arguments
    result = cards.write_cards(config)
    return command.Output(result.summary(), result.to_dict())


def run() -> None:
    """Entry point of ``afad-cards``."""
    command.run(main, cards.CardsConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
