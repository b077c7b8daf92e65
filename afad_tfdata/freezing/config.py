"""The options of freezing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from afad_tfdata.common import errors, options
from afad_tfdata.freezing import graphdef
from afad_tfdata.models import facts, input_range

# Names that programs of the original project look up; they must not change.
DEFAULT_NODES = {"age": "age_output/BiasAdd", "gender": "gender_output/Sigmoid"}
# Name of the output that --age_spread adds.
SPREAD_NODE = "age_spread/Sqrt"
OUTPUT_LABELS = ("age", "gender", "gender_logits")
# Help texts of the options with which a model is described, here and in evaluation.
OUTPUTS_HELP = (
    "Labels of the model's outputs in the model's order, such as age,gender. They"
    " are needed if the names of the output layers contain neither age nor gender."
    " gender_logits is a gender output before its sigmoid; the sigmoid is then"
    " added."
)
CLASS_NAMES_HELP = (
    "Names of the model's gender labels 0 and 1, such as male,female if its"
    " gender output is the probability of female. They are needed if neither the"
    " model file nor its run says them, as for models of other programs."
)


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """What to freeze, and what to write."""

    model: str = options.option(
        "",
        "Model to freeze: a .keras file, an .h5 file of Keras 3 or 2, a checkpoint"
        " step-*.ckpt, a SavedModel, or a run directory.",
    )
    run_dir: str = options.option(
        "", "Run directory whose model to freeze, instead of --model."
    )
    which: str = options.option(
        "best",
        "Which model of a run directory to freeze: best.keras or final.keras.",
        choices=("best", "final"),
    )
    epoch: int = options.option(
        0,
        "Freeze the checkpoint after this epoch of a run directory, instead of the"
        " model that --which names; 0 means the model that --which names.",
    )
    records_dir: str = options.option(
        "",
        "Data set whose images the graph is verified on, and whose mean is used if"
        " the model file does not contain one. Without this flag, it is the data set"
        " that the run was trained on, if that still exists; otherwise faces are"
        " drawn.",
    )
    output_dir: str = options.option(
        "", "Directory to write NAME.pb, NAME.json and mean.json to."
    )
    output_name: str = options.option(
        "",
        "NAME of the files, without folders. Without this flag, it is the name of the"
        " model file or of the run directory.",
    )
    input_node: str = options.option("root_input", "Name of the input in the graph.")
    output_nodes: tuple[str, ...] = options.option(
        (),
        "Names of the outputs in the graph, age before gender, and then that of"
        " --age_spread. Without this flag, they are age_output/BiasAdd,"
        " gender_output/Sigmoid and age_spread/Sqrt, of which a graph has those that"
        " its model has.",
    )
    outputs: tuple[str, ...] = options.option((), OUTPUTS_HELP)
    input_range: str = options.option(
        "auto", input_range.HELP, choices=input_range.CHOICES
    )
    class_names: tuple[str, ...] = options.option((), CLASS_NAMES_HELP)
    image_size: int = options.option(
        0,
        "Side of the input in pixels, for a model that takes images of any size; 0 for"
        " the model's own size.",
    )
    mean_json: str = options.option(
        "",
        "mean.json with the channel means that the model was trained with. Without"
        " this flag, they come from the model file, its run, --records_dir, or a"
        " mean.json next to the model file.",
    )
    tf1_compatible: bool = options.option(
        True,
        "Write a graph that TensorFlow 1.15 loads: remove newer attributes that have"
        " their default value, and refuse everything else that 1.15 does not know.",
    )
    fold: bool = options.option(
        True,
        "Fold constants: compute the constant parts of the graph once, and move batch"
        " normalisation into the weights before it.",
    )
    with_preprocessing: bool = options.option(
        False,
        "Also write NAME_bytes.pb, which takes JPEG and PNG files, and NAME_pixels.pb,"
        " which takes uint8 pixels of any size.",
    )
    saved_model: bool = options.option(
        False, "Also write a SavedModel, NAME_saved_model."
    )
    tflite: bool = options.option(False, "Also write a TFLite file, NAME.tflite.")
    tflite_float16: bool = options.option(
        False,
        "Also write a TFLite file whose weights have 16 bits, NAME_float16.tflite: half"
        " the size.",
    )
    tflite_int8: bool = options.option(
        False,
        "Also write a TFLite file whose weights and activations are whole numbers of 8"
        " bits, NAME_int8.tflite: a quarter of the size. It is calibrated on the"
        " validation split of the data set.",
    )
    int8_inputs: bool = options.option(
        False,
        "With --tflite_int8: inputs and outputs are int8, too, as some chips need them;"
        " NAME.json has their scales. Otherwise they are float32.",
    )
    calibration_images: int = options.option(
        128, "How many faces --tflite_int8 is calibrated on."
    )
    max_age_loss: float = options.option(
        0.5,
        "Largest mean difference in years from the model with which a TFLite file of"
        " 16 or 8 bits passes.",
    )
    max_gender_loss: float = options.option(
        0.02,
        "Largest mean difference from the model, in the probability of the gender, with"
        " which a TFLite file of 16 or 8 bits passes.",
    )
    onnx: bool = options.option(
        False, "Also write an ONNX file, NAME.onnx; this needs the extra: export."
    )
    flip_average: bool = options.option(
        False,
        "The graph averages each output over the image and its mirror image, which"
        " takes twice the time.",
    )
    gender_temperature: bool = options.option(
        False,
        "The graph divides the logit of the gender by the temperature that"
        " afad-evaluate --gender_temperature measured for this model.",
    )
    age_correction: bool = options.option(
        False,
        "The graph corrects the age by the slope and offset that afad-evaluate"
        " --age_correction measured for this model.",
    )
    age_spread: bool = options.option(
        False,
        "The graph has one more output: the standard deviation in years of the"
        " distribution that the age head predicts. afad-predict then prints age"
        " intervals that are wide where the model is unsure.",
    )
    tolerance: float = options.option(
        1.0,
        "Factor on the largest difference between graph and model that is accepted."
        " With 1, that is 1e-5 for a probability, and 1e-5 times the largest age for"
        " an age.",
    )
    verify_only: bool = options.option(
        False, "Compare an existing NAME.pb with the model, and write nothing."
    )
    unsafe_load: bool = options.option(
        False,
        "Load a model file that contains program code (Lambda layers), and run that"
        " code with all your rights.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.output_dir:
            raise errors.UsageError(
                "--output_dir is missing: name the directory to fill"
            )
        if self.model and self.run_dir:
            raise errors.UsageError(
                "--model and --run_dir cannot be used together: name one of them"
            )
        # "not >" and not "<=": NaN must be refused too.
        if not self.tolerance > 0:
            raise errors.UsageError(
                f"--tolerance takes a factor above 0; got {self.tolerance}"
            )
        for name in ("max_age_loss", "max_gender_loss"):
            if not getattr(self, name) >= 0:
                raise errors.UsageError(
                    f"--{name} takes a number from 0 up; got {getattr(self, name)}"
                )
        if self.calibration_images < 1:
            raise errors.UsageError(
                "--calibration_images takes a number from 1 up; got"
                f" {self.calibration_images}"
            )
        if self.int8_inputs and not self.tflite_int8:
            raise errors.UsageError(
                "--int8_inputs needs --tflite_int8: add it, or leave --int8_inputs out"
            )
        for name in ("epoch", "image_size"):
            if getattr(self, name) < 0:
                raise errors.UsageError(
                    f"--{name} takes a number from 0 up; got {getattr(self, name)}"
                )
        # The original project's flag took the name with its ending.
        object.__setattr__(self, "output_name", self.output_name.removesuffix(".pb"))
        if os.path.basename(self.output_name) != self.output_name:
            raise errors.UsageError(
                f"--output_name takes a name without folders; got {self.output_name!r}"
            )
        graphdef.check_node_name(self.input_node, "--input_node")
        for name in self.output_nodes:
            graphdef.check_node_name(name, "--output_nodes")
        every = (self.input_node, *self.output_nodes)
        if len(set(every)) != len(every):
            raise errors.UsageError(
                f"--input_node and --output_nodes must differ; got {', '.join(every)}"
            )
        facts.check_class_names(self.class_names, "--class_names")
        check_outputs(self.outputs)


def check_outputs(outputs: Sequence[str]) -> None:
    """Raises `UsageError` for a label that the option ``--outputs`` does not take."""
    for name in outputs:
        if name not in OUTPUT_LABELS:
            raise errors.UsageError(
                f"--outputs takes {', '.join(OUTPUT_LABELS)}; got {name!r}"
            )
