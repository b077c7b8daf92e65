#!/usr/bin/env python3
"""Predicts the age and gender of images with a frozen graph.

IMAGE is a file, a folder or a pattern, or - for names on standard input.  A bad image
gives an error line and exit status 2.  The probability is that of the second class.
"""

import sys

from afad_tfdata import prediction
from afad_tfdata.bin import command
from afad_tfdata.common import errors

EXAMPLE = """
afad-predict --graph=frozen/face.pb photo.jpg faces/ 'more/*.png'
find faces -name '*.jpg' | afad-predict --graph=frozen/face.pb --output_format=csv -
"""


def main(config: prediction.PredictConfig, arguments: list[str]) -> command.Output:
    """Predicts; the exit status is 2 if an image could not be used."""

    def on_error(path: str, reason: str) -> None:
        text = errors.printable(f"{path}: {reason}")
        print(f"afad-predict: error: {text}", file=sys.stderr)

    result = prediction.predict(config, arguments, on_error=on_error)
    bad = [{"image": path, "error": reason} for path, reason in result.bad]
    value = {"images": result.rows, "bad": bad, "images_per_sec": result.images_per_sec}
    return command.Output(result.text(config.output_format), value, 2 if bad else 0)


def run() -> None:
    """Entry point of ``afad-predict``."""
    texts = {"about": __doc__, "example": EXAMPLE, "arguments": "IMAGE ..."}
    command.run(main, prediction.PredictConfig, **texts)


if __name__ == "__main__":
    run()
