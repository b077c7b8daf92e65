#!/usr/bin/env python3
"""Predicts the age and gender of images with a frozen graph.

IMAGE is a file, a folder or a pattern; - reads such names from standard input.  Each
result is printed as soon as it is known, with --json as one line of JSON.  An image
that cannot be used gives an error line, and the exit status is then 1.  A probability
is that of the second class.  With --find_faces each face of a photo gets a line, and
standard error names the photos without a face.
"""

from afad_tfdata import prediction
from afad_tfdata.bin import command, streams

EXAMPLE = """
afad-predict --graph=frozen/face.pb photo.jpg faces/ 'more/*.png'
afad-predict --graph=frozen/face.pb --find_faces --draw_dir=drawn holiday.jpg
find faces -name '*.jpg' | afad-predict --graph=frozen/face.pb --output_format=csv -
"""


def main(config: prediction.PredictConfig, arguments: list[str]) -> command.Output:
    """Predicts; the exit status is 1 if an image could not be used."""
    notes = streams.ImageNotes("afad-predict", command.emit)
    result = prediction.predict(
        config, arguments, notes.error, command.emit, on_no_face=notes.no_face
    )
    if config.find_faces:
        notes.say(result.face_counts())
    return command.Output(None, None, 1 if result.bad else 0)


def run() -> None:
    """Entry point of ``afad-predict``."""
    texts = {"about": __doc__, "example": EXAMPLE, "arguments": "IMAGE ..."}
    command.run(main, prediction.PredictConfig, **texts)


if __name__ == "__main__":
    run()
