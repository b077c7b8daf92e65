#!/usr/bin/env python3
"""Draws faces and files them in the layout of AFAD: AGE/GENDER/PHOTO-FACE.jpg."""

from afad_tfdata.bin import command
from afad_tfdata.images import drawn_faces

EXAMPLE = "afad-make-sample --output_dir=faces --num_images=2000"


def main(config: drawn_faces.SampleConfig, arguments: list[str]) -> command.Output:
    """Draws the sample."""
    del arguments
    paths = drawn_faces.make_sample(config)
    return command.Output(
        f"{len(paths)} faces in {config.output_dir}, the first {paths[0]}",
        {"output_dir": config.output_dir, "num_images": len(paths)},
    )


def run() -> None:
    """Entry point of ``afad-make-sample``."""
    command.run(main, drawn_faces.SampleConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
