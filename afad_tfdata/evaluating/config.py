"""The options of an evaluation."""

from __future__ import annotations

import dataclasses

from afad_tfdata.common import errors, options
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.models import facts, input_range
from afad_tfdata.reading import config as input_config
from afad_tfdata.storage import sharding


@dataclasses.dataclass(frozen=True, init=False)
class EvaluateConfig(options.Config):
    """Which model to evaluate, on which split, and where the result goes.

    Its part `input` (`InputConfig`) can be given as a whole, or field by field.
    """

    model: str = options.option(
        "",
        "Model to evaluate: a .keras file, an .h5 file of Keras 3 or 2, a checkpoint"
        " step-*.ckpt, a SavedModel, a run directory, or the NAME.pb that afad-freeze"
        " wrote, with its NAME.json.",
    )
    run_dir: str = options.option(
        "", "Run directory whose model is evaluated, instead of --model."
    )
    which: str = options.option(
        "best",
        "Which model of a run directory to evaluate: best.keras or final.keras.",
        choices=("best", "final"),
    )
    epoch: int = options.option(
        0,
        "Evaluate the checkpoint after this epoch of a run directory, instead of the"
        " model that --which names; 0 means the model that --which names.",
    )
    outputs: tuple[str, ...] = options.option((), freeze_config.OUTPUTS_HELP)
    input_range: str = options.option(
        "auto", input_range.HELP, choices=input_range.CHOICES
    )
    input: input_config.InputConfig = options.part(
        input_config.InputConfig,
        leave_out=(
            *("task", "image_size", "decode"),  # The model decides them.
            "global_batch_size",  # It is --batch_size here.
            # An evaluation reads a split once, in order, and needs its manifest.
            *("seed", "balance", "cache", "shuffle_window", "data_service"),
            *("as_supervised", "files", "features", "mean_file"),
        ),
        help={
            "records_dir": "Directory of the data set, or several, separated by commas."
            " Without this flag, it is what --run_dir was trained on.",
            "memory_budget_mib": "Largest amount of memory, in MiB, that the graph"
            " engine uses for images that it has to keep; 0 means half of the free"
            " memory.",
            "prefetch": "Number of finished batches that wait for the model.",
        },
    )
    class_names: tuple[str, ...] = options.option((), freeze_config.CLASS_NAMES_HELP)
    split: str = options.option(
        "test", "Which split of the data set is evaluated.", choices=sharding.SPLITS
    )
    output_dir: str = options.option(
        "",
        "Directory for the results. Without this flag, it is --run_dir, or the"
        " directory of --model.",
    )
    batch_size: int = options.option(
        128, "Number of images in one step, over all devices."
    )
    bootstrap_samples: int = options.option(
        1000,
        "Number of resampled data sets for the 95 % intervals; 0 means no intervals.",
    )
    age_thresholds: tuple[int, ...] = options.option(
        (),
        "Ages in years, such as 18,21. For each of them, the command measures the"
        " false positive and false negative rates of the decision whether a person has"
        " reached this age, and the challenge age. Without this flag, the ages are"
        " 18,21,25 if the model predicts ages.",
    )
    interval_coverage: float = options.option(
        0.0,
        "Share of all faces whose age interval should contain their true age, such as"
        " 0.9. The width of the intervals is measured on the validation split and"
        " stored in calibration.json next to the model, for afad-freeze and"
        " afad-predict. 0 measures no width; the coverage of stored intervals is still"
        " reported.",
    )
    gender_temperature: bool = options.option(
        False,
        "Divide the logit of the gender by a temperature, so that, for example, about"
        " 80 % of the faces with a probability of 0.8 have that gender. The temperature"
        " is measured on the validation split and stored in calibration.json.",
    )
    age_correction: bool = options.option(
        False,
        "Correct the age to slope * age + offset. Slope and offset are measured on"
        " the validation split and stored in calibration.json.",
    )
    flip_average: bool = options.option(
        False,
        "Average each output over the image and its mirror image, which takes twice the"
        " time.",
    )
    pictures: bool = options.option(
        True,
        "Draw the confusion matrix, the error by age and by group, the decisions about"
        " age and the worst faces.",
    )
    devices: str = options.option(
        "",
        "Devices to evaluate on, such as gpu:0,gpu:1 or cpu, or cpu:2 for two logical"
        " ones. Without this flag, all GPUs are used, or the CPU if there are none.",
    )
    unsafe_load: bool = options.option(
        False,
        "Load a model that contains Python code (Lambda layers), and run that code.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if bool(self.model) == bool(self.run_dir):
            raise errors.UsageError(
                "evaluation takes one of --model and --run_dir; got"
                f" {'both' if self.model else 'neither'}"
            )
        if self.model and not self.input.records_dir:
            raise errors.UsageError(
                "--model needs --records_dir: the data set to evaluate it on"
            )
        facts.check_class_names(self.class_names, "--class_names")
        freeze_config.check_outputs(self.outputs)
        wrong = [years for years in self.age_thresholds if not 1 <= years <= 150]
        if wrong or len(set(self.age_thresholds)) != len(self.age_thresholds):
            raise errors.UsageError(
                "--age_thresholds takes different ages from 1 to 150 years, such as"
                f" 18,21,25; got {','.join(map(str, self.age_thresholds))}"
            )
        if not 0 <= self.interval_coverage < 1:
            raise errors.UsageError(
                "--interval_coverage takes a share from 0 to below 1, such as 0.9; got"
                f" {self.interval_coverage:g}"
            )
        if self.epoch < 0:
            raise errors.UsageError(
                f"--epoch takes a number from 0 up; got {self.epoch}"
            )
        if self.batch_size < 1 or self.bootstrap_samples < 0:
            raise errors.UsageError(
                "--batch_size is at least 1 and --bootstrap_samples at least 0; got"
                f" {self.batch_size} and {self.bootstrap_samples}"
            )
