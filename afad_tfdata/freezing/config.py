"""The options of freezing."""

from __future__ import annotations

import dataclasses
import os

from afad_tfdata.common import errors, options
from afad_tfdata.freezing import graphdef

DEFAULT_NODES = {"age": "age_output/BiasAdd", "gender": "gender_output/Sigmoid"}


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """What to freeze, and how its graph is to look.

    The help text of each field says what it means.
    """

    model: str = options.option(
        "",
        "A .keras file, an .h5 of Keras 3 or 2, a checkpoint step-*.ckpt, a SavedModel"
        " or a run directory.",
    )
    run_dir: str = options.option("", "Run directory, instead of --model.")
    which: str = options.option(
        "best", "Which model of a run directory.", choices=("best", "final")
    )
    epoch: int = options.option(
        0, "Of a run directory, the checkpoint after this epoch instead; 0: --which."
    )
    records_dir: str = options.option(
        "",
        "Data set with images to verify on, and with the mean where the model does"
        " not carry it; default: the one it was trained on if that is there, else"
        " drawn faces.",
    )
    output_dir: str = options.option("", "Directory for NAME.pb, NAME.json, mean.json.")
    output_name: str = options.option("", "NAME; default: that of the model or run.")
    input_node: str = options.option("root_input", "Name of the input in the graph.")
    output_nodes: tuple[str, ...] = options.option(
        (),
        "Names of the outputs in the graph, age before gender; default:"
        " age_output/BiasAdd, gender_output/Sigmoid, or the one of the task.",
    )
    outputs: tuple[str, ...] = options.option(
        (),
        "Which output of the model is what, in its order: age,gender or the like;"
        " needed where the names of its layers do not tell.",
    )
    image_size: int = options.option(
        0, "Side of the input in pixels, for a model that takes any; 0: the model's."
    )
    mean_json: str = options.option(
        "", "mean.json that the model was trained with; default: the model knows it."
    )
    tf1_compatible: bool = options.option(
        True, "Refuse what TensorFlow 1.15 does not know, and strip what it would."
    )
    fold: bool = options.option(
        True, "Fold constants and batch normalisation into the weights."
    )
    with_preprocessing: bool = options.option(
        False,
        "Write NAME_bytes.pb, which takes JPEG and PNG files, and NAME_pixels.pb,"
        " which takes uint8 pixels of any size, too.",
    )
    saved_model: bool = options.option(
        False, "Write a SavedModel NAME_saved_model too."
    )
    tflite: bool = options.option(False, "Write NAME.tflite too.")
    onnx: bool = options.option(False, "Write NAME.onnx too (extra: export).")
    tolerance: float = options.option(
        1.0,
        "Scales the largest difference to the model that passes: 1e-5 of probability,"
        " 1e-5 of the largest age.",
    )
    verify_only: bool = options.option(
        False, "Write nothing: compare the NAME.pb that is there with the model."
    )
    unsafe_load: bool = options.option(
        False, "Run program code that a model file carries (Lambda layers)."
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.output_dir:
            raise errors.UsageError("--output_dir is missing: name the folder to fill")
        if self.model and self.run_dir:
            raise errors.UsageError(
                "--model and --run_dir exclude each other: give one"
            )
        if not self.tolerance > 0:
            raise errors.UsageError(
                f"--tolerance is a factor above 0; got {self.tolerance}"
            )
        for name in ("epoch", "image_size"):
            if getattr(self, name) < 0:
                raise errors.UsageError(
                    f"--{name} is a number from 0; got {getattr(self, name)}"
                )
        # The original project's name had the ending.
        object.__setattr__(self, "output_name", self.output_name.removesuffix(".pb"))
        if os.path.basename(self.output_name) != self.output_name:
            raise errors.UsageError(
                f"--output_name is a name without folders; got {self.output_name!r}"
            )
        graphdef.check_name(self.input_node, "--input_node")
        for name in self.output_nodes:
            graphdef.check_name(name, "--output_nodes")
        every = (self.input_node, *self.output_nodes)
        if len(set(every)) != len(every):
            raise errors.UsageError(
                f"--input_node and --output_nodes must differ; got {', '.join(every)}"
            )
        for name in self.outputs:
            if name not in DEFAULT_NODES:
                raise errors.UsageError(f"--outputs takes age and gender; got {name!r}")
