"""Options that are left open: what is chosen, recorded, and kept when a run goes on."""

import dataclasses
import logging
import os

import pytest

from afad_tfdata import trainer
from afad_tfdata.common import errors, options
from afad_tfdata.training import automatic_options, initial_weights, recipe, run_dir
from afad_tfdata.training import config as train_config


def config(**more):
    values = {"records_dir": "records", "run_dir": "run", "backbone": "small_cnn"}
    return trainer.TrainConfig(**{**values, **more})


def resolved(pretrained=False, more=None, **values):
    choice = automatic_options.resolve(
        config(**values), pretrained=pretrained, **(more or {})
    )
    return choice.config


def test_every_default_leaves_its_option_open():
    usual = options.defaults(train_config.TrainConfig)
    assert {
        name: usual[name] for name in automatic_options.ASKING
    } == automatic_options.ASKING


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("stage", ["warmup", "tuning", "recipe"])
@pytest.mark.parametrize("task", ["gender", "age", "age_gender"])
@pytest.mark.parametrize("source", ["default", "original"])
def test_nothing_that_a_step_needs_stays_open(source, task, stage, pretrained):
    found = resolved(pretrained, recipe=source, task=task, stage=stage)
    for name in ("schedule", "augment"):
        assert getattr(found, name) != "auto"
    assert (found.age_head == "auto") == (task == "gender")
    assert (found.gender_weight is None) == (task != "age_gender")
    optimizers = {
        phase.optimizer for phase in recipe.phases(found, pretrained=pretrained)
    }
    assert (found.weight_decay is None) == (optimizers != {"adamw"})
    for phase in recipe.phases(found, pretrained=pretrained):
        assert phase.rate > 0 and phase.optimizer != "auto"
    again = automatic_options.resolve(found, pretrained=pretrained)
    assert again.config == found
    assert not set(again.chosen) - {"optimizer", "learning_rate"}


@pytest.mark.parametrize("stage", ["tuning", "recipe"])
def test_from_scratch_there_is_one_phase_with_a_cosine(stage):
    found = resolved(stage=stage, epochs=24)
    assert found.schedule == "cosine" and found.optimizer == "adamw"
    (phase,) = recipe.phases(found, pretrained=False)
    assert (phase.epochs, phase.patience, phase.optimizer) == (24, 0, "adamw")
    first, last = (
        recipe.rates(
            found,
            (phase,),
            recipe.PhaseProgress(),
            first_step=step,
            count=1,
            steps_per_epoch=100,
        )[0]
        for step in (0, 2399)
    )
    assert last < 1e-4 * first


@pytest.mark.parametrize(
    ("values", "floor"),
    [
        ({}, None),
        ({"ema_decay": 0.998}, 0.1),
        ({"ema_decay": 0.998, "cosine_floor": 0.0}, 0.0),
        ({"cosine_floor": 0.3}, 0.3),
        ({"ema_decay": 0.998, "schedule": "constant"}, None),
        ({"ema_decay": 0.998, "recipe": "original"}, None),
        ({"ema_decay": 0.998, "recipe": "original", "schedule": "cosine"}, 0.0),
    ],
)
def test_a_cosine_with_an_average_does_not_end_at_0(values, floor):
    """At a rate near 0 the weights hardly move, and an average would be useless."""
    found = resolved(epochs=4, **values)
    assert found.cosine_floor == floor
    rate = recipe.rates(
        found,
        recipe.phases(found, pretrained=False),
        recipe.PhaseProgress(),
        first_step=0,
        count=400,
        steps_per_epoch=100,
    )
    if found.schedule == "cosine":
        assert rate[-1] / rate[0] == pytest.approx(floor or 0, abs=1e-4)


def test_a_run_that_an_older_version_began_keeps_its_cosine():
    begun = config(ema_decay=0.998)
    recorded = {"train": options.to_dict(resolved(ema_decay=0.998)), "auto": {}}
    del recorded["train"]["cosine_floor"]
    found = automatic_options.resolve(begun, pretrained=False, recorded=recorded).config
    assert found.cosine_floor == 0
    assert train_config.differences(recorded["train"], found) == []


def test_a_pretrained_network_keeps_the_phases_of_the_recipe():
    found = resolved(pretrained=True, backbone="VGG19", stage="recipe")
    assert found.schedule == "constant" and found.optimizer == "auto"
    assert len(recipe.phases(found, pretrained=True)) > 2
    one_stage = resolved(pretrained=True, backbone="VGG19", stage="tuning")
    assert one_stage.schedule == "cosine"


def test_the_originals_recipe_is_what_the_defaults_were():
    found = resolved(recipe="original", stage="recipe")
    asked = config(
        recipe="original",
        stage="recipe",
        schedule="constant",
        augment="default",
        age_head="regression",
        gender_weight=500.0,
        stem_halvings=1,
    )
    assert found == asked
    phases = recipe.phases(found, pretrained=False)
    assert [phase.rate for phase in phases[:2]] == [1e-3, 5e-4]
    assert phases[0].optimizer == "adam"


@pytest.mark.parametrize(
    "values, size, halvings",
    [
        ({}, 96, 2),
        ({}, 79, 1),
        ({}, 0, 1),  # Data of the caller's own, whose size is seen later.
        ({"recipe": "original"}, 96, 1),
        ({"stem_halvings": 1}, 96, 1),
        ({"backbone": "VGG19", "weights": "none"}, 96, 0),
    ],
)
def test_a_small_network_halves_large_images_twice_at_first(values, size, halvings):
    found = resolved(more={"image_size": size}, **values)
    assert found.stem_halvings == halvings


def test_the_parts_of_the_network_to_begin_with_are_kept():
    older = {"backbone": "small_cnn", "age_head": "regression"}
    found = resolved(more={"image_size": 96, "initial": older})
    assert (found.age_head, found.stem_halvings) == ("regression", 1)
    assert found.gender_weight == 500
    newer = {"age_head": "corn", "stem_halvings": 2}
    found = resolved(more={"image_size": 48, "initial": newer})
    assert (found.age_head, found.stem_halvings) == ("corn", 2)
    given = resolved(more={"initial": newer}, age_head="sord", stem_halvings=1)
    assert (given.age_head, given.stem_halvings) == ("sord", 1)


def test_what_the_user_gives_is_kept():
    given = {
        "schedule": "step",
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "augment": "none",
        "age_head": "corn",
        "gender_weight": 0.0,
    }
    found = automatic_options.resolve(config(**given), pretrained=False)
    values = options.to_dict(found.config)
    assert {name: values[name] for name in given} == given
    assert not set(found.chosen) & set(given)


def test_the_gender_weight_suits_the_age_loss():
    weights = {
        (head, loss): resolved(age_head=head, age_loss=loss).gender_weight
        for head in ("regression", "dldl_v2")
        for loss in ("auto", "mse", "mae")
    }
    assert weights["regression", "auto"] == weights["regression", "mse"] == 500
    assert weights["regression", "mae"] < 50
    assert len({weights["dldl_v2", loss] for loss in ("auto", "mse", "mae")}) == 1


def test_parts_of_the_callers_leave_their_options_open():
    own = {"own_age_head": "regression", "own_augment": True, "own_loss": True}
    choice = automatic_options.resolve(config(), pretrained=False, **own)
    still = options.to_dict(choice.config)
    for name in ("age_head", "augment", "gender_weight"):
        assert (
            still[name] == automatic_options.ASKING[name] and name not in choice.chosen
        )
    own_data = automatic_options.resolve(config(records_dir=""), pretrained=False)
    assert own_data.config.age_head == "regression"  # It learns ages of any range.
    weighed = automatic_options.resolve(
        config(), pretrained=False, own_age_head="regression"
    )
    assert weighed.config.gender_weight == 500


def test_a_run_keeps_what_it_recorded():
    first = automatic_options.resolve(config(epochs=5), pretrained=False)
    stored = options.to_dict(first.config) | {"augment": "none", "weight_decay": 0.5}
    recorded = {"train": stored, "auto": first.chosen}
    later = automatic_options.resolve(
        config(epochs=5), pretrained=False, recorded=recorded
    )
    assert later.config.augment == "none" and later.config.weight_decay == 0.5
    assert later.chosen == first.chosen
    assert not train_config.differences(stored, later.config)
    other = automatic_options.resolve(
        config(epochs=5, age_head="corn"), pretrained=False, recorded=recorded
    )
    (text,) = train_config.differences(stored, other.config)
    assert text == "--age_head ('dldl_v2' there, 'corn' here)"


def test_a_run_of_an_earlier_version_keeps_the_originals_recipe():
    stored = options.to_dict(resolved(recipe="original", stage="recipe"))
    for name in ("recipe", "stem_halvings"):
        del stored[name]
    found = automatic_options.resolve(
        config(stage="recipe"), pretrained=False, recorded={"train": stored}
    ).config
    assert found.recipe == "original"
    assert not train_config.differences(stored, found)
    assert len(recipe.phases(found, pretrained=False)) > 1


def test_a_run_logs_and_records_its_choices_once(
    sample_records, tmp_path, monkeypatch, caplog
):
    values = config(
        records_dir=sample_records,
        run_dir=str(tmp_path / "run"),
        image_size=16,
        epochs=1,
        devices="cpu",
        tensorboard=False,
    )
    caplog.set_level(logging.INFO)
    trainer.train(values)
    lines = [r.message for r in caplog.records if "automatically" in r.message]
    assert len(lines) == 1 and "--schedule=cosine" in lines[0]
    stored = run_dir.read_config(values.run_dir)
    assert stored["auto"]["age_head"] == stored["train"]["age_head"] == "dldl_v2"
    assert stored["model"]["age_head"] == "dldl_v2"
    # As if another version of the package chose other values.
    monkeypatch.setattr(automatic_options, "_WEIGHT_DECAY", 0.5)
    monkeypatch.setattr(automatic_options, "_AGE_HEAD", "corn")
    trainer.train(values)
    assert run_dir.read_config(values.run_dir) == stored
    with pytest.raises(errors.UsageError, match="--age_head"):
        trainer.train(dataclasses.replace(values, age_head="corn"))
    network = initial_weights.network_of(values.run_dir)
    assert network["age_head"] == "dldl_v2" and network["stem_halvings"] == 1
    best = os.path.join(values.run_dir, run_dir.BEST_NAME)
    assert initial_weights.network_of(best) == network
    assert initial_weights.network_of(str(tmp_path / "nothing.keras")) == {}
