"""The options of a training, and which of them may change when it continues."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.models import facts, losses, networks, trainable_layers
from afad_tfdata.reading import config as input_config
from afad_tfdata.training import optimizers
from afad_tfdata.training.distributed import strategies

STAGE_CHOICES = (*trainable_layers.STAGES, "recipe")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
RECIPES = ("default", "original")
SCHEDULES = ("auto", *optimizers.SCHEDULES, "plateau")
OPTIMIZERS = ("auto", *optimizers.NAMES)

# Options that may differ when a run continues.  Except for rounding, they change no
# result (another machine, number of replicas or input engine).  Two exceptions:
# under --jit dropout draws other masks, and a run that met a damaged record could never
# go on without --max_bad_records.  --balance, --shuffle_window and --memory_budget_mib
# are not here, because they decide the order of the examples.
FREE_FIELDS = frozenset(
    {
        "records_dir",  # The data set's checksum is compared instead.
        "run_dir",
        "devices",
        "all_reduce",
        "threads",
        "engine",
        "cache",
        "cache_dir",
        "cache_dir_gib",
        "data_service",
        "max_bad_records",
        "verify",
        "num_parallel_calls",
        "prefetch",
        "steps_per_loop",
        "jit",
        "checkpoint_every",
        "checkpoint_steps",
        "keep_checkpoints",
        "max_recoveries",
        "start_epoch",
        "augment_preview",
        "interval_coverage",
        "tensorboard",
        "profile",
    }
)
# For runs that were begun before an option existed: the value that describes what they
# did, if this is not the option's default.
EARLIER = {"recipe": "original", "cosine_floor": 0.0}
# Options that a restart from an earlier epoch may also change.
RESTART_FIELDS = frozenset(
    {
        "learning_rate",
        "schedule",
        "warmup_steps",
        "cosine_floor",
        "decay_epochs",
        "decay_factor",
        "epochs",
        "patience",
        "clip_norm",
        "augment",
        "class_weight",
        "spike_factor",
    }
)


@dataclasses.dataclass(frozen=True, init=False)
class TrainConfig(options.Config):
    """The model, the data, the method and the run directory of a training.

    Its parts `input` (`InputConfig`) and `model` (`ModelConfig`) can be given as a
    whole, or field by field.  Fields that are left open (None, 0 or ``auto``) are
    decided when the training begins, and logged.
    """

    run_dir: str = options.option(
        "",
        "Directory of the run: checkpoints, history and models. If it already contains"
        " a run, the same command continues this run.",
    )
    input: input_config.InputConfig = options.part(
        input_config.InputConfig,
        # Training needs a manifest, because it uses its counts, means and ages.
        leave_out=("as_supervised", "files", "features", "mean_file"),
        help={
            "seed": "Seed of the first weights, the order of the examples, the"
            " augmentation and the dropout masks.",
            "image_size": "Side in pixels of the square images and of the network's"
            " input; 0 means the size of the data set.",
        },
    )
    model: networks.ModelConfig = options.part(
        networks.ModelConfig,
        # Task and image size are options of the input; the other values come from the
        # data.
        leave_out=(
            *("task", "image_size", "min_age", "max_age", "mean", "initial_age"),
        ),
    )
    stage: str = options.option(
        "recipe",
        "What is trained: warmup trains only the heads, on a frozen backbone; tuning"
        " trains the heads and the top layers of the backbone; recipe does both, one"
        " after the other, and then continues from the best epoch at lower rates, until"
        " a lower rate brings no improvement. If nothing is pre-trained, every stage"
        " trains all layers, and recipe is the same as tuning.",
        choices=STAGE_CHOICES,
    )
    recipe: str = options.option(
        "default",
        "Which values are chosen for flags that are left out: default chooses those"
        " that were best in this package's trials, which the help of the other flags"
        " describes; original chooses those of the original project (constant rates,"
        " age regression, strong augmentation). With original, --stage=recipe lowers"
        " the rate in phases even if nothing is pre-trained.",
        choices=RECIPES,
    )
    init_from: str = options.option(
        "",
        "Model whose weights the training begins with: a .keras file, a run directory"
        " or a checkpoint.",
    )
    init_class_names: tuple[str, ...] = options.option(
        (),
        "Names of the gender labels 0 and 1 of the model that --init_from names, such"
        " as male,female; needed if its file does not contain them. If the data set has"
        " the other order, the gender head is inverted.",
    )
    trainable_layers: int | None = options.option(
        None,
        "Number of layers of the backbone that tuning trains, counted from the top; -1"
        " means all. Without this flag it is 4, or all if nothing is pre-trained.",
    )
    epochs: int = options.option(
        0,
        "Number of epochs of the stage; in the recipe, the largest number of epochs of"
        " tuning at each rate. 0 means 24 for warmup and 50 for tuning.",
    )
    warmup_epochs: int = options.option(
        24, "Largest number of epochs of the warm-up in --stage=recipe."
    )
    patience: int = options.option(
        6,
        "Number of epochs without an improvement on the validation split after which"
        " the recipe begins its next phase, or --schedule=plateau lowers the rate.",
    )
    start_epoch: int = options.option(
        0,
        "Go back to the end of this epoch of the run, and continue from there with the"
        " flags given now. This happens once, even if the command is repeated; 0 means"
        " not at all.",
    )
    learning_rate: float = options.option(
        0.0,
        "Highest learning rate; in the recipe, that of tuning. 0 means 6e-3 for the"
        " small networks without pre-trained weights (proportionally less for batches"
        " below 128); 5e-4 for tuning a pre-trained network with --task=gender; and"
        " 1e-3 otherwise.",
    )
    optimizer: str = options.option(
        "auto",
        "Optimizer that updates the weights; auto means adamw if nothing is"
        " pre-trained, and otherwise rmsprop for warmup and adam for tuning.",
        choices=OPTIMIZERS,
    )
    momentum: float = options.option(0.9, "Momentum of --optimizer=sgd.")
    weight_decay: float | None = options.option(
        None,
        "Weight decay of --optimizer=adamw. Without this flag it is 0.05 if nothing is"
        " pre-trained, and otherwise 1e-4.",
    )
    schedule: str = options.option(
        "auto",
        "How the learning rate changes within a stage; auto means constant if"
        " --stage=recipe trains a pre-trained network, and otherwise cosine.",
        choices=SCHEDULES,
    )
    warmup_steps: int = options.option(
        0, "Number of steps over which the rate rises from 0 to --learning_rate."
    )
    cosine_floor: float | None = options.option(
        None,
        "Where --schedule=cosine ends, as a share of its highest rate. Without this"
        " flag it ends at 0, and with --ema_decay at 0.1: an average gains nothing from"
        " weights that hardly move.",
    )
    decay_epochs: int = options.option(
        10, "Number of epochs between two decays with --schedule=step."
    )
    decay_factor: float = options.option(
        0.1, "Factor of each decay with --schedule=step or plateau."
    )
    class_weight: str = options.option(
        "none",
        "Weights of the genders in the loss: none, balanced, or a list such as"
        " 0:1.0,1:1.6 or male:1.0,female:1.6.",
    )
    age_class_weight: str = options.option(
        "none",
        "Weights of the ages in the loss: none for equal weights; effective or"
        " effective:BETA for higher weights of rare ages.",
    )
    age_loss: str = options.option(
        "auto",
        "Loss of --age_head=regression. auto means mae for --task=age, and mse for"
        " --task=age_gender, because the default --gender_weight suits squared years.",
        choices=("auto", *losses.AGE_LOSSES),
    )
    age_weight: float = options.option(
        1.0, "Weight of the age loss with --task=age_gender."
    )
    gender_weight: float | None = options.option(
        None,
        "Weight of the gender loss with --task=age_gender. Without this flag it is 500"
        " for a squared error of the age, and 10 for other age losses.",
    )
    accumulation: int = options.option(
        1,
        "Number of parts into which each device's batch is divided, for batches that do"
        " not fit into its memory.",
    )
    clip_norm: float = options.option(
        0.0,
        "Largest norm of the gradient of all weights together; a larger gradient is"
        " scaled down to it. 0 means no limit.",
    )
    ema_decay: float = options.option(
        0.0,
        "Decay of a running average of the weights. The average is then evaluated and"
        " saved in place of the weights. A decay of 0.998 averages over about the last"
        " 500 steps; in the first 9,500 steps of a phase, it averages over about the"
        " last twentieth of the steps so far. 0 means no average.",
    )
    precision: str = options.option(
        "auto",
        "Number format of the network's computations; auto means mixed_float16 on GPUs"
        " that gain from it, and float32 otherwise.",
        choices=PRECISIONS,
    )
    jit: bool = options.option(
        False, "Compile the forward and backward passes with XLA."
    )
    tf32: bool = options.option(
        True, "Let GPUs round the factors of float32 products to TF32, which is faster."
    )
    devices: str = options.option(
        "",
        "Devices to train on: gpu:0,gpu:1 for two GPUs, cpu for the CPU, or cpu:2 for"
        " two logical CPU devices. Without this flag, all GPUs are used, or the CPU if"
        " there are none.",
    )
    all_reduce: str = options.option(
        "auto",
        "How GPUs sum gradients; hierarchical and one_device work where NCCL fails.",
        choices=strategies.ALL_REDUCE,
    )
    threads: int = options.option(
        0,
        "Number of threads of TensorFlow on the host; 0 means as many as Slurm"
        " allocated (SLURM_CPUS_PER_TASK), and outside Slurm one for each core.",
    )
    augment: str = options.option(
        "auto",
        "How training images are changed at random: none; auto, which flips images and"
        " changes them a little; default, which changes them as much as the original"
        " project did; or settings such as rotation=20,zoom=0.15.",
    )
    augment_preview: bool = options.option(
        False, "Write a sheet of augmented images to the run directory."
    )
    steps_per_loop: int = options.option(
        0,
        "Number of steps between two checks for signals and bad losses; 0 means the"
        " number of steps that take about a second.",
    )
    checkpoint_every: int = options.option(
        2,
        "Keep the checkpoint of every N-th epoch; 0 keeps only the best and the"
        " newest ones.",
    )
    checkpoint_steps: int = options.option(
        0,
        "Also save a checkpoint every N steps, for long epochs; 0 saves at the"
        " end of each epoch only.",
    )
    keep_checkpoints: int = options.option(
        2, "Number of newest checkpoints that are kept."
    )
    max_recoveries: int = options.option(
        3,
        "How often the training may recover from an exploding loss; after that, it"
        " fails. To recover, it goes back to its newest checkpoint and halves the"
        " rate.",
    )
    interval_coverage: float = options.option(
        0.9,
        "Share of faces whose true age should be within the age interval that"
        " afad-predict gives. When best.keras is saved, the width of these intervals"
        " is measured on the validation split, without an extra pass, and stored in"
        " calibration.json. 0 stores no intervals.",
    )
    spike_factor: float = options.option(
        20.0,
        "A loss counts as exploded if it is more than this factor times the running"
        " mean of the losses. The first 50 steps are not checked; 0 means no check.",
    )
    tensorboard: bool = options.option(True, "Write TensorBoard events.")
    profile: str = options.option(
        "", "Steps to profile for TensorBoard: A:B profiles the steps A to B-1."
    )
    find_learning_rate: bool = options.option(
        False,
        "Try growing learning rates and plot the loss against them, instead of"
        " training.",
    )
    folds: int = options.option(
        0,
        "Number k of folds of a cross-validation, which trains k times and tests on"
        " each fold once. 0 means one training on the splits of the records.",
    )
    steps_per_epoch: int = options.option(
        0,
        "Steps that count as one epoch; 0 means one pass over the examples.",
        flag=False,
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.run_dir:
            raise errors.UsageError(
                "--run_dir is missing: name the directory of the run"
            )
        facts.check_class_names(self.init_class_names, "--init_class_names")
        for name, low in (
            ("epochs", 0),
            ("warmup_epochs", 0),
            ("patience", 1),
            ("start_epoch", 0),
            ("accumulation", 1),
            ("warmup_steps", 0),
            ("decay_epochs", 1),
            ("threads", 0),
            ("steps_per_loop", 0),
            ("checkpoint_every", 0),
            ("checkpoint_steps", 0),
            ("keep_checkpoints", 1),
            ("max_recoveries", 0),
            ("folds", 0),
            ("learning_rate", 0),
            ("clip_norm", 0),
            ("spike_factor", 0),
            ("age_weight", 0),
            ("gender_weight", 0),
        ):
            value = getattr(self, name)
            if value is not None and not value >= low:  # Also refuses NaN.
                raise errors.UsageError(f"--{name} is at least {low}; got {value}")
        for name in (
            *("momentum", "ema_decay", "cosine_floor", "decay_factor"),
            "interval_coverage",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise errors.UsageError(
                    f"--{name} takes a number from 0 to below 1; got {value}"
                )
        if self.trainable_layers is not None and self.trainable_layers < -1:
            raise errors.UsageError(
                "--trainable_layers is a number of layers, or -1 for all; got"
                f" {self.trainable_layers}"
            )
        if self.schedule == "plateau" and self.stage == "recipe":
            raise errors.UsageError(
                "--schedule=plateau can only be used with --stage=warmup or tuning: the"
                " recipe lowers the rate by itself"
            )
        if self.folds in (1, 2):
            raise errors.UsageError(
                "--folds takes at least 3 (to test, to validate and to train); got"
                f" {self.folds}"
            )
        self.profile_steps()  # Refuses a wrong text before the training.

    def profile_steps(self) -> tuple[int, int]:
        """First step to be profiled and the one after the last; (0, 0) for none."""
        if not self.profile:
            return 0, 0
        first, _, last = self.profile.partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise errors.UsageError(
                f"--profile takes A:B, two steps with A < B; got {self.profile!r}"
            )
        return int(first), int(last)


def differences(stored: dict[str, Any], config: TrainConfig) -> list[str]:
    """Fields of a stored `TrainConfig` that keep a run from continuing under this one.

    Args:
      stored: `options.to_dict` of the config that the run was started with.  Fields
        that it lacks were added since, and count as `EARLIER` or as their defaults.
      config: The config that the run is to continue with.

    Returns:
      Texts like ``--task (age there, gender here)``.
    """
    stored = {**options.defaults(TrainConfig), **EARLIER, **stored}
    now = options.to_dict(config)
    free = FREE_FIELDS
    if config.start_epoch:
        free |= RESTART_FIELDS
    elif config.stage != "recipe" and config.schedule != "cosine":
        # The run may be longer or shorter, because earlier epochs stay the same.
        free |= {"epochs"}
    return [
        f"--{name} ({stored[name]!r} there, {value!r} here)"
        for name, value in now.items()
        if name not in free and stored[name] != value
    ]
