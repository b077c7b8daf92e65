#!/usr/bin/env python3
"""Writes a trained model as a frozen graph and verifies it in a fresh process.

NAME.pb loads in TensorFlow 1.15 and in newer ones; NAME.json says how to feed it.
"""

from afad_tfdata import freeze
from afad_tfdata.bin import command

EXAMPLE = """
afad-freeze --run_dir=runs/first --output_dir=frozen
afad-freeze --model=face.h5 --mean_json=mean.json --class_names=male,female \
  --output_dir=frozen --onnx
"""


def main(config: freeze.FreezeConfig, arguments: list[str]) -> command.Output:
    """Freezes a model; exit status 2 if the graph does not equal the model."""
    del arguments
    result = freeze.freeze(config)
    return command.Output(result.summary(), result.description)


def run() -> None:
    """Entry point of ``afad-freeze``."""
    command.run(main, freeze.FreezeConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
