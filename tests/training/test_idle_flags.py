"""Options that cannot act next to other options are refused by name."""

from __future__ import annotations

import pytest

from afad_tfdata import trainer
from afad_tfdata.common import errors
from afad_tfdata.training import automatic_options, idle_flags, recipe


def check(*, pretrained: bool = False, **values) -> None:
    given = trainer.TrainConfig(
        **{"records_dir": "records", "run_dir": "run", "backbone": "small_cnn"} | values
    )
    config = automatic_options.resolve(given, pretrained=pretrained).config
    idle_flags.refuse(given, config, recipe.phases(config, pretrained=pretrained))


@pytest.mark.parametrize(
    ("idle", "others"),
    [
        ({"momentum": 0.5}, {"optimizer": "adam"}),
        ({"momentum": 0.5}, {}),
        ({"weight_decay": 0.1}, {"optimizer": "sgd"}),
        ({"weight_decay": 0.0}, {"pretrained": True, "backbone": "VGG19"}),
        ({"gender_weight": 3.0}, {"task": "age"}),
        ({"gender_weight": 3.0}, {"task": "gender"}),
        ({"age_weight": 3.0}, {"task": "age"}),
        ({"decay_epochs": 2}, {"schedule": "cosine"}),
        ({"cosine_floor": 0.2}, {"schedule": "constant"}),
        ({"cosine_floor": 0.0}, {"pretrained": True, "backbone": "VGG19"}),
        ({"decay_factor": 0.5}, {"schedule": "constant"}),
        ({"patience": 3}, {}),
        ({"age_head": "corn"}, {"task": "gender"}),
        ({"age_loss": "mae"}, {"task": "gender"}),
        ({"age_dropout": 0.1}, {"task": "gender"}),
        ({"gender_dropout": 0.1}, {"task": "age"}),
        ({"init_class_names": ("male", "female")}, {}),
    ],
)
def test_an_idle_option_is_one_line(idle, others):
    ((name, value),) = idle.items()
    with pytest.raises(errors.UsageError, match=f"^--{name}=.* has no effect") as found:
        check(**idle, **others)
    assert str(found.value).endswith(": leave it out")
    check(**others)


@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.5, "optimizer": "sgd"},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "optimizer": "adamw"},
        {"gender_weight": 3.0, "age_weight": 2.0},
        {"cosine_floor": 0.2},
        {"cosine_floor": 0.0, "ema_decay": 0.9},
        {"schedule": "step", "decay_epochs": 2, "decay_factor": 0.5},
        {"schedule": "plateau", "stage": "tuning", "decay_factor": 0.5, "patience": 3},
        {"patience": 3, "pretrained": True, "backbone": "VGG19"},
        {"patience": 3, "recipe": "original"},
        {"task": "age", "age_head": "regression", "age_loss": "huber"},
        {"init_from": "a.keras", "init_class_names": ("male", "female")},
    ],
)
def test_an_option_that_acts_is_accepted(values):
    check(**values)


def test_a_training_refuses_them(sample_records, tmp_path):
    config = trainer.TrainConfig(
        records_dir=sample_records,
        run_dir=str(tmp_path / "run"),
        backbone="small_cnn",
        optimizer="adam",
        momentum=0.5,
    )
    with pytest.raises(errors.UsageError, match="--momentum=0.5 has no effect"):
        trainer.train(config)
