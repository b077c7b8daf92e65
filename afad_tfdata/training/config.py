"""The options of a training, and which of them may change when it continues."""

from __future__ import annotations

import dataclasses
from typing import Any

from afad_tfdata.common import errors, options
from afad_tfdata.models import age_heads, losses
from afad_tfdata.storage import schema
from afad_tfdata.training import optimizers
from afad_tfdata.training.distributed import strategies

STAGES = ("warmup", "tuning", "recipe")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
SCHEDULES = (*optimizers.SCHEDULES, "plateau")
OPTIMIZERS = ("auto", *optimizers.NAMES)

# What may differ when a run continues.  None of it changes a number beyond rounding
# (another machine, number of replicas or input engine), but for --jit, under which
# dropout draws other masks.
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
        "steps_per_loop",
        "jit",
        "checkpoint_every",
        "checkpoint_steps",
        "keep_checkpoints",
        "max_recoveries",
        "start_epoch",
        "augment_preview",
        "tensorboard",
        "profile",
    }
)
# What a restart from an earlier epoch may change besides.
RESTART_FIELDS = frozenset(
    {
        "learning_rate",
        "schedule",
        "warmup_steps",
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


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, how, and where the result goes.

    The help text of each field says what it means.  A value of 0 or ``auto`` stands
    for the original project's, which `recipe.phases` looks up by stage and task.
    """

    records_dir: str = options.option("", "Data set that write_records made.")
    run_dir: str = options.option(
        "",
        "Directory of the run: checkpoints, history, models. The same command"
        " continues what is there.",
    )
    task: str = options.option("age_gender", "What is learnt.", choices=schema.TASKS)
    backbone: str = options.option("VGG19", "Name in keras.applications, or small_cnn.")
    weights: str = options.option(
        "imagenet", "imagenet, none, or a file with the backbone's weights."
    )
    stage: str = options.option(
        "recipe",
        "warmup: the head, over a frozen backbone; tuning: the top layers too;"
        " recipe: both, then from the best epoch at lower rates while that helps.",
        choices=STAGES,
    )
    init_from: str = options.option(
        "", "Weights to begin with: a .keras file, a run directory or a checkpoint."
    )
    trainable_layers: int | None = options.option(
        None,
        "Layers of the backbone that tuning trains, from the top; -1: all. Default:"
        " 4, and all where nothing is pre-trained.",
    )
    epochs: int = options.option(
        0,
        "Epochs of the stage (recipe: of tuning at its first rate, at most);"
        " 0: 24 of warmup, 50 of tuning.",
    )
    warmup_epochs: int = options.option(
        24, "Epochs of warm-up in --stage=recipe, at most."
    )
    patience: int = options.option(
        6,
        "Epochs without a better validation after which the recipe, or the"
        " schedule plateau, lowers the rate.",
    )
    start_epoch: int = options.option(
        0,
        "Go back to the end of this epoch of the run, and on from there with the"
        " flags given now; applied once, also if the command is repeated.",
    )
    learning_rate: float = options.option(
        0.0, "Peak rate; 0: 1e-3 in warmup, 5e-4 (gender) or 1e-3 in tuning."
    )
    optimizer: str = options.option(
        "auto", "auto: rmsprop in warmup, adam in tuning.", choices=OPTIMIZERS
    )
    momentum: float = options.option(0.9, "Of --optimizer=sgd.")
    weight_decay: float = options.option(1e-4, "Of --optimizer=adamw.")
    schedule: str = options.option(
        "constant", "How the rate goes within a stage.", choices=SCHEDULES
    )
    warmup_steps: int = options.option(0, "Steps over which the rate rises from 0.")
    decay_epochs: int = options.option(10, "Epochs between decays of schedule step.")
    decay_factor: float = options.option(
        0.1, "Factor of a decay, of the schedules step and plateau."
    )
    class_weight: str = options.option(
        "none", "none, balanced, 0:1.0,1:1.6 or male:1.0,female:1.6."
    )
    age_class_weight: str = options.option(
        "none", "none, effective or effective:BETA: rare ages count for more."
    )
    age_head: str = options.option(
        "regression",
        "How the age is read off the network; docs/training.md tells them apart.",
        choices=age_heads.NAMES,
    )
    age_loss: str = options.option(
        "auto",
        "Loss of --age_head=regression; auto: mae for --task=age, and mse for"
        " age_gender, whose weight of 500 is made for squares of years.",
        choices=("auto", *losses.AGE_LOSSES),
    )
    age_weight: float = options.option(1.0, "Of the age loss in task age_gender.")
    gender_weight: float = options.option(
        500.0, "Of the gender loss in task age_gender."
    )
    image_size: int = options.option(
        0, "Side in pixels of the network's input; 0: the records'."
    )
    normalization: str = options.option(
        "auto",
        "What a backbone sees: what its ImageNet weights expect, or (x - mean) /"
        " 127.5.",
        choices=("auto", "backbone", "original"),
    )
    pooling: str = options.option(
        "auto",
        "Between backbone and head; auto: flatten, as the original, and avg for the"
        " small networks.",
        choices=("auto", "flatten", "avg"),
    )
    global_batch_size: int = options.option(128, "Images of a step over all devices.")
    accumulation: int = options.option(
        1, "Parts into which a device's batch is cut, for batches too large for it."
    )
    clip_norm: float = options.option(
        0.0, "Largest global norm of the gradient; 0: no limit."
    )
    ema_decay: float = options.option(
        0.0,
        "Decay of an average of the weights, which is evaluated and saved; 0: none.",
    )
    precision: str = options.option(
        "auto", "auto: mixed_float16 on GPUs that gain from it.", choices=PRECISIONS
    )
    jit: bool = options.option(False, "Compile the forward and backward pass by XLA.")
    tf32: bool = options.option(True, "Let GPUs round float32 products to TF32.")
    devices: str = options.option(
        "", "gpu:0,gpu:1 or cpu or cpu:2 (logical); default: every GPU, else the CPU."
    )
    all_reduce: str = options.option(
        "auto",
        "How GPUs sum gradients; hierarchical or one_device where NCCL fails.",
        choices=strategies.ALL_REDUCE,
    )
    threads: int = options.option(
        0, "Threads of TensorFlow on the host; 0: the batch system's allocation."
    )
    engine: str = options.option(
        "auto", "Of the input.", choices=("auto", "mapped", "graph")
    )
    cache: str = options.option(
        "none",
        "What the input keeps in memory.",
        choices=("none", "encoded", "decoded"),
    )
    cache_dir: str = options.option(
        "",
        "Local directory for the shards of a remote --records_dir, for the mapped"
        " engine; checked by SHA-256 and shared by the processes of a machine.",
    )
    cache_dir_gib: float = options.option(
        0.0, "Most that --cache_dir may hold, GiB; 0: what is free on its disk."
    )
    data_service: str = options.option(
        "",
        "grpc://HOST:PORT of afad-data-service's dispatcher, which feeds the training;"
        " it then does not continue exactly.",
    )
    augment: str = options.option(
        "default", "none, default (the original's), or rotation=20,zoom=0.15,..."
    )
    augment_preview: bool = options.option(
        False, "Write a sheet of augmented images to the run directory."
    )
    seed: int = options.option(1, "Decides weights, order, augmentation and dropout.")
    steps_per_loop: int = options.option(
        0, "Steps between two looks at signals and losses; 0: about a second's worth."
    )
    checkpoint_every: int = options.option(
        2, "Keep the checkpoint of every so many epochs; 0: only the best and last."
    )
    checkpoint_steps: int = options.option(
        0, "Save every so many steps too, for long epochs; 0: at their ends only."
    )
    keep_checkpoints: int = options.option(2, "Newest checkpoints that are kept.")
    max_recoveries: int = options.option(
        3, "Times that a training that blew up goes back and lowers its rate."
    )
    spike_factor: float = options.option(
        20.0, "A step's loss so many times its running mean is a spike; 0: never."
    )
    tensorboard: bool = options.option(True, "Write TensorBoard events.")
    profile: str = options.option(
        "", "A:B profiles the steps A to B-1 for TensorBoard."
    )
    find_learning_rate: bool = options.option(
        False, "Instead of training, try growing rates and draw the loss by rate."
    )
    folds: int = options.option(
        0, "k-fold protocol: train k times with rotating roles; 0: the records' split."
    )
    steps_per_epoch: int = options.option(0, "", flag=False)

    def __post_init__(self) -> None:
        options.check_choices(self)
        if not self.run_dir:
            raise errors.UsageError("--run_dir is needed: the directory of the run")
        for name, low in (
            ("epochs", 0),
            ("warmup_epochs", 0),
            ("patience", 1),
            ("start_epoch", 0),
            ("image_size", 0),
            ("global_batch_size", 1),
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
            ("cache_dir_gib", 0),
            ("spike_factor", 0),
            ("age_weight", 0),
            ("gender_weight", 0),
        ):
            if not getattr(self, name) >= low:  # Refuses NaN too.
                raise errors.UsageError(
                    f"--{name} is at least {low}; got {getattr(self, name)}"
                )
        for name in ("momentum", "ema_decay", "decay_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise errors.UsageError(
                    f"--{name} lies in [0, 1); got {getattr(self, name)}"
                )
        if self.trainable_layers is not None and self.trainable_layers < -1:
            raise errors.UsageError(
                "--trainable_layers is a number of layers, or -1 for all; got"
                f" {self.trainable_layers}"
            )
        if self.schedule == "plateau" and self.stage == "recipe":
            raise errors.UsageError(
                "--schedule=plateau goes with --stage=warmup or tuning: the recipe"
                " lowers the rate by itself"
            )
        if self.folds in (1, 2):
            raise errors.UsageError(
                "--folds takes at least 3 (train, validate, test rotate); got"
                f" {self.folds}"
            )
        self.profile_steps()

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
    """Fields of a stored config that keep a run from continuing under this one.

    Args:
      stored: `options.to_dict` of the config that the run was started with.
      config: The one that it shall continue with.

    Returns:
      Texts like ``--task (age there, gender here)``.
    """
    now = options.to_dict(config)
    free = FREE_FIELDS
    if config.start_epoch:
        free |= RESTART_FIELDS
    elif config.stage != "recipe" and config.schedule != "cosine":
        free |= {"epochs"}  # Longer or shorter: the epochs before are the same.
    return [
        f"--{name} ({stored.get(name)!r} there, {value!r} here)"
        for name, value in now.items()
        if name not in free and stored.get(name) != value
    ]
