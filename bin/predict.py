#!/usr/bin/env python3
"""Predicts the age and gender of images with a frozen graph.

IMAGE is a file, a folder or a pattern, or - for names on standard input.  Results are
printed as they come, with --json as one line of JSON each.  An image that cannot be
used gives an error line, and exit status 1.  Probabilities are of the second class.
With --find_faces an image is a photo: each of its faces gets a line, and a photo
without a face is named on standard error.
"""

import sys

from afad_tfdata import prediction
from afad_tfdata.bin import command
from afad_tfdata.common import errors

EXAMPLE = """
afad-predict --graph=frozen/face.pb photo.jpg faces/ 'more/*.png'
afad-predict --graph=frozen/face.pb --find_faces --draw_dir=drawn holiday.jpg
find faces -name '*.jpg' | afad-predict --graph=frozen/face.pb --output_format=csv -
"""


def main(config: prediction.PredictConfig, arguments: list[str]) -> command.Output:
    """Predicts; the exit status is 1 if an image could not be used."""

    def on_error(path: str, reason: str) -> None:
        text = errors.printable(f"{path}: {reason}")
        print(f"afad-predict: error: {text}", file=sys.stderr, flush=True)
        command.emit("", {"image": path, "error": reason})

    def on_no_face(path: str) -> None:
        print(f"afad-predict: no face in {errors.printable(path)}", file=sys.stderr)
        command.emit("", {"image": path, "faces": 0})

    result = prediction.predict(
        config, arguments, on_error, command.emit, on_no_face=on_no_face
    )
    if config.find_faces:
        photos = len({row["image"] for row in result.rows})
        print(
            f"afad-predict: {len(result.rows)} faces in {photos} photos,"
            f" {len(result.no_face)} photos without a face",
            file=sys.stderr,
        )
    return command.Output(None, None, 1 if result.bad else 0)


def run() -> None:
    """Entry point of ``afad-predict``."""
    texts = {"about": __doc__, "example": EXAMPLE, "arguments": "IMAGE ..."}
    command.run(main, prediction.PredictConfig, **texts)


if __name__ == "__main__":
    run()
