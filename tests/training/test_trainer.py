"""The outer loop: options, phases, restarts, recoveries, parts of the caller's own."""

import dataclasses
import json
import logging
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from afad_tfdata import cross_validation, input_fn, models, trainer
from afad_tfdata.common import errors, options, xla
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import facts
from afad_tfdata.reading import index_loading
from afad_tfdata.storage import image_keys, schema
from afad_tfdata.training import (
    automatic_options,
    checkpoints,
    optimizers,
    rate_search,
    recipe,
    run,
    run_dir,
    run_state,
    step_clock,
    tensorboard_events,
    training_facts,
)
from afad_tfdata.training import config as train_config
from afad_tfdata.training.caller import objects
from tests.reading import test_input_fn

BATCH = 32
ROOT = pathlib.Path(__file__).parents[2]


def config(records_dir, run_dir, **more):
    values = {
        "records_dir": records_dir,
        "run_dir": str(run_dir),
        "task": "gender",
        "backbone": "small_cnn",
        "image_size": 16,
        "stage": "tuning",
        "recipe": "original",  # A constant rate, so that runs can go on for longer.
        "epochs": 2,
        "global_batch_size": BATCH,
        "devices": "cpu",
        "augment": "none",
    }
    return trainer.TrainConfig(**{**values, **more})


def own_config(run_dir, **more):
    """For data and a network of the test's own."""
    values = {"task": "age", "global_batch_size": 8, "backbone": "VGG19"}
    return config("", run_dir, **{**values, "image_size": 0, **more})


def tiny_network(seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4, 4, 3), name="root_input")
    x = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(1, name="age_output")(x))


def tiny_data(batches=4, poison=None):
    """Batches of 8; the age of one example is NaN if `poison` names its position."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8 * batches, 4, 4, 3)).astype(np.uint8)
    age = (20 + images.mean((1, 2, 3)) / 20).astype(np.float32)
    if poison is not None:
        age[poison] = np.nan
    dataset = tf.data.Dataset.from_tensor_slices(({"image": images}, {"age": age}))
    return dataset.batch(8, drop_remainder=True)


# Options, without a run.


@pytest.mark.parametrize(
    "values, message",
    [
        ({"run_dir": ""}, "--run_dir is missing"),
        ({"task": "height"}, "--task takes one of"),
        ({"epochs": -1}, "--epochs is at least 0"),
        ({"learning_rate": math.nan}, "--learning_rate takes a finite number"),
        ({"ema_decay": 1.0}, "--ema_decay takes a number from 0 to below 1"),
        ({"folds": 2}, "--folds takes at least 3"),
        ({"profile": "5"}, "--profile takes A:B"),
        ({"profile": "7:5"}, "--profile takes A:B"),
        ({"trainable_layers": -2}, "--trainable_layers"),
        ({"stage": "recipe", "schedule": "plateau"}, "--schedule=plateau"),
    ],
)
def test_contradictions_are_one_line(values, message):
    with pytest.raises(errors.UsageError, match=message):
        trainer.TrainConfig(**{"run_dir": "run", **values})


@pytest.mark.parametrize(
    "values, more, named",
    [
        ({}, {"devices": "cpu:2", "keep_checkpoints": 9}, []),
        ({}, {"epochs": 30}, []),
        ({"schedule": "cosine"}, {"epochs": 30}, ["--epochs"]),
        ({}, {"seed": 2, "clip_norm": 1.0}, ["--clip_norm", "--seed"]),
        ({}, {"learning_rate": 1e-4}, ["--learning_rate"]),
        ({}, {"learning_rate": 1e-4, "start_epoch": 3}, []),
        ({}, {"global_batch_size": 64, "start_epoch": 3}, ["--global_batch_size"]),
        ({}, {"max_bad_records": 1, "verify": False, "prefetch": 1}, []),
        (
            {},
            {"balance": "age", "shuffle_window": 9},
            ["--balance", "--shuffle_window"],
        ),
        ({}, {"memory_budget_mib": 1}, ["--memory_budget_mib"]),
        ({}, {"hidden_units": 8}, ["--hidden_units"]),
    ],
)
def test_what_may_change_when_a_run_continues(values, more, named):
    begun = config("records", "run", **values)
    now = dataclasses.replace(begun, **more)
    found = train_config.differences(options.to_dict(begun), now)
    assert sorted(text.split()[0] for text in found) == named


def test_a_run_of_an_older_version_lacks_fields_and_continues():
    begun = config("records", "run")
    stored = options.to_dict(begun)
    for name in ("balance", "shuffle_window", "hidden_units", "verify"):
        del stored[name]
    assert train_config.differences(stored, begun) == []
    now = dataclasses.replace(begun, balance="age")
    (text,) = train_config.differences(stored, now)
    assert text == "--balance ('none' there, 'age' here)"


def test_parts_are_given_flat_or_whole():
    flat = config("records", "run", seed=3, backbone="small_cnn", age_dropout=0.1)
    data = input_fn.InputConfig(
        records_dir="records",
        task="gender",
        image_size=16,
        global_batch_size=BATCH,
        seed=3,
    )
    network = models.ModelConfig(backbone="small_cnn", age_dropout=0.1)
    rest = {"stage": "tuning", "epochs": 2, "devices": "cpu", "augment": "none"}
    rest["recipe"] = "original"
    whole = trainer.TrainConfig(run_dir="run", input=data, model=network, **rest)
    assert flat == whole and flat.input == data and flat.model == network
    assert dataclasses.replace(flat, global_batch_size=8).input.global_batch_size == 8
    with pytest.raises(errors.UsageError, match="input.files is decided"):
        trainer.TrainConfig(run_dir="run", input=input_fn.InputConfig(files="a"))


def phases_of(**more):
    values = config("records", "run", epochs=0, stage="recipe", **more)
    return [
        (phase.stage, phase.epochs, phase.rate, phase.optimizer)
        for phase in recipe.phases(values, pretrained=True)
    ]


def test_recipes_are_the_original_projects():
    gender = phases_of(task="gender")
    assert gender[0] == ("warmup", 24, 1e-3, "rmsprop")
    assert gender[1] == ("tuning", 50, 5e-4, "adam")
    assert gender[2][2] == pytest.approx(1e-4)
    age = phases_of(task="age")
    assert age[0] == ("warmup", 24, 1e-3, "rmsprop")
    assert [phase[2] for phase in age[1:3]] == [1e-3, 5e-4]


def test_a_phase_ends_with_its_patience_and_the_recipe_without_a_gain():
    values = config("records", "run", stage="recipe", epochs=9, patience=2)
    phases = recipe.phases(values, pretrained=False)
    done, log = recipe.PhaseProgress(), []
    # Epochs 1, 2 and 5 are better; two epochs that are not end a phase.
    for better in (True, True, False, False, True, False, False, False, False):
        done.after_epoch(better, values)
        log.append(done.phase)
        if done.phase_is_over(phases[done.phase]):
            following = done.next_phase(phases)
            if following is None:
                break
            done = recipe.PhaseProgress(following)
    assert log == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert following is None


def test_the_plateau_schedule_lowers_the_rate():
    values = config(
        "r", "r", epochs=9, patience=2, schedule="plateau", decay_factor=0.5
    )
    phases, done, seen = (
        recipe.phases(values, pretrained=False),
        recipe.PhaseProgress(),
        [],
    )
    for better in (True, False, False, False, False):
        done.after_epoch(better, values)
        rate = recipe.rates(
            values, phases, done, first_step=7, count=1, steps_per_epoch=3, scale=0.1
        )
        seen.append(rate[0] / (5e-4 * 0.1))
    assert seen == pytest.approx([1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    "schedule, step, rate",
    [
        (optimizers.Schedule("constant", 2.0, 10), 9, 2.0),
        (optimizers.Schedule("constant", 2.0, 10, warmup_steps=4), 0, 0.5),
        (optimizers.Schedule("cosine", 2.0, 10), 0, 2.0),
        (optimizers.Schedule("cosine", 2.0, 10), 5, 1.0),
        (optimizers.Schedule("cosine", 2.0, 10), 10, 0.0),
        (optimizers.Schedule("cosine", 2.0, 14, warmup_steps=4), 9, 1.0),
        (optimizers.Schedule("cosine", 2.0, 10, floor=0.1), 0, 2.0),
        (optimizers.Schedule("cosine", 2.0, 10, floor=0.1), 5, 1.1),
        (optimizers.Schedule("cosine", 2.0, 10, floor=0.1), 10, 0.2),
        (optimizers.Schedule("step", 2.0, 10, decay_every=4, decay=0.5), 8, 0.5),
        (optimizers.Schedule("step", 2.0, 10), 8, 2.0),
    ],
)
def test_schedules(schedule, step, rate):
    assert schedule.rate(step) == pytest.approx(rate)


# Runs.


@pytest.fixture(scope="module")
def finished(sample_records, tmp_path_factory):
    """A finished run of two epochs: its config and result."""
    values = config(
        sample_records, tmp_path_factory.mktemp("run"), ema_decay=0.9, decode="fast"
    )
    return values, trainer.train(values)


def test_stored_pixels_were_decoded_accurately(sample_records, tmp_path, caplog):
    manifest = schema.load_manifest(sample_records)
    values = config(sample_records, tmp_path, decode="fast")
    for pixel, decode in (({}, "fast"), ({"dtype": "uint8"}, "accurate")):
        found = training_facts.facts_after(
            *(values, objects.CallerObjects(), facts.Facts()),
            dataclasses.replace(manifest, pixel=pixel),
            manifest.mean_rgb,
        )
        assert found.decode == decode
        assert ("--decode=fast has no effect" in caplog.text) == bool(pixel)


def test_a_run_leaves_what_people_look_at(finished, tmp_path):
    values, result = finished
    directory = run_dir.RunDir(values.run_dir)
    stored = directory.stored()
    directory.close()
    resolved = automatic_options.resolve(values, pretrained=False).config
    assert stored["train"] == options.to_dict(resolved)
    assert stored["model"]["backbone"] == "small_cnn"
    assert set(stored["mean"]) == {"R", "G", "B"}
    assert stored["class_names"] == ["male", "female"]
    assert stored["decode"] == "fast"
    assert facts.read_file(result.best_path).decode == "fast"
    assert stored["threads"]["intra_op"] >= 0
    for name in ("history.png", "best.keras", "final.keras"):
        assert (directory.join(name)) and len(open(directory.join(name), "rb").read())
    with open(directory.join("history.json")) as f:
        stored_history = json.load(f)
    assert [row["epoch"] for row in stored_history["epochs"]] == [1, 2]
    row = stored_history["epochs"][-1]
    assert set(row["train"]) == {"loss", "gender_loss", "accuracy"}
    assert set(row["validation"]) == {"loss", "gender_loss", "accuracy"}
    with open(directory.join("metrics.jsonl")) as f:
        assert json.loads(f.read().splitlines()[-1])["epoch"] == 2
    read = dict(tensorboard_events.read(directory.events("validation")))
    assert read[result.steps]["accuracy"] == pytest.approx(
        row["validation"]["accuracy"]
    )
    assert f"best epoch {result.best_epoch}" in result.text()
    assert "history" not in result.to_dict()


def test_a_finished_run_says_so_and_returns_its_result(finished, caplog):
    values, result = finished
    with caplog.at_level(logging.INFO):
        assert trainer.train(values) == result
    assert "this run is finished" in caplog.text


def test_another_configuration_is_refused_by_name(finished):
    values, _ = finished
    other = dataclasses.replace(values, task="age", seed=9)
    with pytest.raises(
        errors.UsageError, match="another configuration; it differs in --task.*--seed"
    ):
        trainer.train(other)


def test_a_directory_in_use_is_refused(tmp_path):
    first = run_dir.RunDir(str(tmp_path))
    with pytest.raises(errors.UsageError, match="another process trains"):
        run_dir.RunDir(str(tmp_path))
    first.close()
    run_dir.RunDir(str(tmp_path)).close()


def test_the_average_of_the_weights_is_what_is_saved(finished):
    values, result = finished
    newest = checkpoints.load_newest(f"{values.run_dir}/checkpoints")
    model = models.load(result.final_path)
    raw = [newest.arrays[f"model/{i}"] for i in range(len(model.variables))]
    saved = [variable.numpy() for variable in model.variables]
    kernels = [i for i, value in enumerate(saved) if value.ndim == 4]
    assert kernels
    assert all((saved[i] != raw[i]).any() for i in kernels)


def test_a_batch_that_does_not_divide_is_refused(sample_records, tmp_path):
    values = config(sample_records, tmp_path, devices="cpu:2", global_batch_size=33)
    with pytest.raises(errors.UsageError, match="--global_batch_size=33"):
        trainer.train(values)


def test_jit_is_refused_where_xla_aborts_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(xla, "why_not", lambda: "XLA aborts the process: F0000")
    with pytest.raises(errors.UsageError, match=r"--jit needs XLA.*aborts.*--nojit"):
        trainer.train(own_config(tmp_path, jit=True), model=tiny_network())


def test_no_records_and_no_data_is_one_line(tmp_path):
    with pytest.raises(errors.UsageError, match="--records_dir is missing"):
        trainer.train(config("", tmp_path))


def test_a_restart_trims_once_and_goes_on(tmp_path):
    """The same command after the restart does not jump back again."""
    values = own_config(tmp_path, epochs=5, learning_rate=1e-2)
    parts = {"train_dataset": tiny_data(), "validation_dataset": tiny_data()}
    trainer.train(values, model=tiny_network(), **parts)
    again = dataclasses.replace(values, start_epoch=2, learning_rate=1e-3)
    result = trainer.train(again, model=tiny_network(), **parts)
    assert [row["epoch"] for row in result.history["epochs"]] == [1, 2, 3, 4, 5]
    rates = [row["learning_rate"] for row in result.history["epochs"]]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-3])
    restarts = [e for e in result.history["events"] if e["kind"] == "restart"]
    assert [e["step"] for e in restarts] == [8]
    repeated = trainer.train(again, model=tiny_network(), **parts)
    assert repeated.history == result.history
    with pytest.raises(errors.UsageError, match="--start_epoch=3.*which has: 2, 4, 5"):
        trainer.train(
            dataclasses.replace(again, start_epoch=3), model=tiny_network(), **parts
        )


def test_the_history_holds_the_rate_of_each_epoch(tmp_path):
    values = own_config(
        tmp_path, epochs=3, learning_rate=1e-2, schedule="step", decay_epochs=2
    )
    result = trainer.train(values, model=tiny_network(), train_dataset=tiny_data())
    rates = [row["learning_rate"] for row in result.history["epochs"]]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3])


def test_a_clock_that_is_set_forward_is_not_waiting(tmp_path, monkeypatch):
    """TensorFlow has no other clock; a machine sets it when it starts or wakes up."""

    def an_hour(began, came, done):
        return tf.constant(3600.0, tf.float64)

    monkeypatch.setattr(step_clock, "seconds_waited", an_hour)
    values = own_config(tmp_path, epochs=2)
    trainer.train(values, model=tiny_network(), train_dataset=tiny_data())
    with open(tmp_path / "metrics.jsonl") as f:
        rows = [json.loads(line) for line in f]
    shares = [row["waiting"] for row in rows if "epoch" in row]
    assert len(shares) == 2
    assert all(0 < share <= 1 for share in shares)


def test_a_network_of_ones_own_is_not_warmed_up(tmp_path):
    """All of it trains anyway; the names of a backbone and its weights do not count."""
    values = own_config(tmp_path, stage="recipe", backbone="VGG19", epochs=1)
    result = trainer.train(values, model=tiny_network(), train_dataset=tiny_data())
    assert {row["stage"] for row in result.history["epochs"]} == {"tuning"}


def test_a_restart_that_was_cut_short_is_done_again(tmp_path):
    values = own_config(tmp_path, epochs=4)
    trainer.train(values, model=tiny_network(), train_dataset=tiny_data())
    directory = str(tmp_path / "checkpoints")
    asked = {"start_epoch": 2, "learning_rate": 1e-4}
    later = checkpoints.load(checkpoints.path_of(directory, 16))
    first = run_state.go_back_to_epoch(directory, 2, asked)
    # Killed before the later ones were gone.
    checkpoints.save(checkpoints.path_of(directory, 16), later.arrays, later.state)
    assert run_state.newest_snapshot(directory).state.restart is None
    second = run_state.go_back_to_epoch(directory, 2, asked)
    assert checkpoints.steps(directory)[-1] == 8
    assert second.state == first.state
    assert run_state.newest_snapshot(directory).state.restart == asked


def test_nan_goes_back_lowers_the_rate_and_in_the_end_names_the_examples(
    sample_records, tmp_path, caplog
):
    """The example stays poisoned: the run fails after the allowed recoveries."""
    values = own_config(tmp_path, epochs=2, max_recoveries=2)
    with pytest.raises(errors.DataError, match="the loss is nan at step 2") as caught:
        trainer.train(values, model=tiny_network(), train_dataset=tiny_data(poison=17))
    assert "after 2 recoveries" in str(caught.value)
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["steps"] == [1, 2]
    assert "position 17 of the stream" in failure["examples"]
    newest = run_state.newest_snapshot(str(tmp_path / "checkpoints"))
    assert newest.state.scale == 0.25
    assert [e["kind"] for e in newest.history.events] == ["stage"] + 2 * ["recovery"]


def spoilt_network():
    """`tiny_network` with one weight that is not a number."""
    model = tiny_network()
    kernel, bias = model.get_weights()
    kernel[0] = np.nan
    model.set_weights([kernel, bias])
    return model


def test_weights_that_are_not_finite_are_refused_at_once(tmp_path):
    with pytest.raises(errors.DataError, match="finite: age_output/kernel") as caught:
        trainer.train(
            own_config(tmp_path), model=spoilt_network(), train_dataset=tiny_data()
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / run_dir.CONFIG_NAME).exists()
    assert checkpoints.steps(str(tmp_path / "checkpoints")) == []


def test_a_file_with_weights_that_are_not_finite_is_one_line_and_status_2(
    sample_records, tmp_path
):
    model = models.build_model(
        models.ModelConfig(
            backbone="small_cnn", weights="none", task="gender", image_size=16
        )
    )
    weight = model.trainable_weights[-1]
    weight.assign(np.full(weight.shape, np.nan))
    path = str(tmp_path / "spoilt.keras")
    models.save(model, path, class_names=("male", "female"))
    arguments = options.to_dict(config(sample_records, tmp_path / "run"))
    named = {
        name: arguments[name]
        for name in ("records_dir", "run_dir", "task", "backbone", "image_size")
    }
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "bin" / "train.py"), f"--init_from={path}"),
            *("--devices=cpu", "--stage=tuning", "--augment=none", "--epochs=1"),
            *(f"--{name}={value}" for name, value in named.items()),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == errors.DataError.exit_status, done.stderr
    assert "not finite" in done.stderr and path in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_that_is_not_finite_is_no_place_to_go_back_to(tmp_path):
    values = own_config(tmp_path, epochs=1)
    trainer.train(values, model=tiny_network(), train_dataset=tiny_data())
    directory = str(tmp_path / "checkpoints")
    for step in checkpoints.steps(directory):
        path = checkpoints.path_of(directory, step)
        stored = checkpoints.load(path)
        arrays = {**stored.arrays, "model/0": stored.arrays["model/0"] * np.nan}
        checkpoints.save(path, arrays, stored.state)
    longer = dataclasses.replace(values, epochs=2)
    with pytest.raises(errors.DataError, match="not finite|is nan"):
        trainer.train(longer, model=tiny_network(), train_dataset=tiny_data())


def test_the_range_test_refuses_weights_that_are_not_finite(tmp_path):
    with pytest.raises(errors.DataError, match="finite: age_output/kernel"):
        rate_search.search(
            own_config(tmp_path), model=spoilt_network(), train_dataset=tiny_data()
        )


@pytest.mark.parametrize("own", [False, True])
def test_a_damaged_record_is_named(own, sample_records, tmp_path):
    """By the range test, too, and if a caller passes what `input_fn` reads."""
    directory = test_input_fn.damaged(sample_records, tmp_path / "bad", rows=(3,))
    values = (
        own_config(tmp_path / "run") if own else config(directory, tmp_path / "run")
    )
    read = input_fn.InputConfig(records_dir=directory, image_size=4)
    read = dataclasses.replace(read, global_batch_size=8)
    parts = {}
    if own:
        data = input_fn.train_input_fn(read)
        parts = {"model": tiny_network(), "train_dataset": lambda step: data.skip(step)}
        values = dataclasses.replace(values, steps_per_epoch=50)
    for function in (rate_search.search, trainer.train):
        with pytest.raises(errors.DataError) as caught:
            function(values, **parts)
        assert "\n" not in str(caught.value) and str(caught.value).startswith("record ")


def test_the_range_test_refuses_data_whose_first_loss_is_not_finite(tmp_path):
    with pytest.raises(errors.DataError, match="first step is nan"):
        rate_search.search(
            own_config(tmp_path),
            model=tiny_network(),
            train_dataset=tiny_data(poison=0),
        )


def test_a_run_recovers_from_a_leap_and_ends(tmp_path, monkeypatch):
    """A loss that leaps at the full rate only."""
    batches = tiny_data(batches=80)
    values = own_config(
        tmp_path, epochs=1, optimizer="sgd", learning_rate=0.02, checkpoint_steps=8
    )

    def loss(outputs, labels):
        error = tf.square(tf.reshape(outputs["age_output"], [-1]) - labels["age"])
        return {"loss": error, "age_loss": error}

    def leaping(images, seed, step, offset):
        factor = tf.where(step == 70, 60.0, 1.0)
        return tf.cast(images, tf.float32) * (factor if not recovered else 1.0)

    recovered = []
    go_back = run.Run._go_back

    def recover(self, error):
        recovered.append(error)
        go_back(self, error)
        self._enter(0)  # Traced again, because the leap is gone now.
        self._restore(run_state.newest_snapshot(str(tmp_path / "checkpoints")))

    monkeypatch.setattr(run.Run, "_go_back", recover)
    result = trainer.train(
        values,
        model=tiny_network(),
        train_dataset=batches,
        augment=leaping,
        loss=loss,
    )
    assert [error.step for error in recovered] == [70]
    assert "leapt" in recovered[0].what
    assert result.steps == 80 and result.epochs == 1
    event = result.history["events"][-1]
    assert event["kind"] == "recovery" and event["step"] == 64


def test_the_recipe_goes_back_to_the_best_and_lowers_the_rate(tmp_path, caplog):
    """Labels that validation contradicts: the first epoch stays the best."""
    caplog.set_level("INFO")
    values = own_config(
        tmp_path,
        stage="recipe",
        weights="none",
        epochs=4,
        patience=1,
        learning_rate=0.05,
        checkpoint_every=0,
        keep_checkpoints=1,
    )
    wrong = tiny_data().map(lambda f, y: (f, {"age": 0 * y["age"] + 3.0}))
    result = trainer.train(
        values,
        model=tiny_network(),
        train_dataset=tiny_data(),
        validation_dataset=wrong,
    )
    assert "recipe: tuning of up to 4 epochs at rate 0.05; then tuning" in caplog.text
    epochs = result.history["epochs"]
    restarts = [e for e in result.history["events"] if e["kind"] == "restart"]
    assert result.best_epoch < result.epochs
    assert len(restarts) == 1 and f"epoch {result.best_epoch}" in restarts[0]["text"]
    assert epochs[-1]["learning_rate"] == pytest.approx(0.025)
    best = min(row["validation"]["mae"] for row in epochs)
    assert result.best_value == best
    model = models.load(result.best_path)
    features, labels = next(iter(wrong.unbatch().batch(32)))
    x = (tf.cast(features["image"], tf.float32) - 127.5) / 127.5
    error = np.abs(model(x).numpy().ravel() - labels["age"].numpy()).mean()
    assert error == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("form", ["run", "model", "checkpoint"])
def test_weights_of_another_run_are_taken_over(form, finished, tmp_path):
    values, result = finished
    folder = os.path.join(values.run_dir, "checkpoints")
    step = result.history["epochs"][result.best_epoch - 1]["step"]
    path = {
        "run": values.run_dir,
        "model": result.best_path,
        "checkpoint": checkpoints.path_of(folder, step),
    }[form]
    other = dataclasses.replace(
        values,
        run_dir=str(tmp_path),
        init_from=path,
        epochs=1,
        learning_rate=1e-12,
        ema_decay=0.0,
    )
    begun = trainer.train(other)
    taken, source = models.load(begun.final_path), models.load(result.best_path)
    for a, b in zip(taken.trainable_weights, source.trainable_weights, strict=True):
        # A checkpoint holds the weights themselves, a model their average.
        atol = 0.05 if form == "checkpoint" and values.ema_decay else 1e-6
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=atol)


def test_float16_scales_its_loss_and_continues(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, again = tiny_network(), tiny_network(5)
    finally:
        keras.config.set_dtype_policy("float32")
    values = own_config(tmp_path, epochs=1)  # The model's own precision.
    trainer.train(values, model=model, train_dataset=tiny_data())
    values = dataclasses.replace(values, epochs=2)
    result = trainer.train(values, model=again, train_dataset=tiny_data())
    losses = [row["train"]["loss"] for row in result.history["epochs"]]
    assert all(math.isfinite(loss) for loss in losses) and losses[1] < losses[0]
    newest = run_state.newest_snapshot(str(tmp_path / "checkpoints"))
    scales = [float(a) for a in newest.arrays.values() if a.shape == ()]
    assert 2.0**15 in scales  # The initial loss scale: nothing overflowed.


def test_your_own_network_is_trained_in_place_or_as_a_copy(tmp_path):
    for name, devices in (("one", "cpu"), ("two", "cpu:2")):
        model = tiny_network()
        before = model.get_weights()[0].copy()
        values = own_config(tmp_path / name, epochs=1, devices=devices, profile="1:3")
        result = trainer.train(values, model=model, train_dataset=tiny_data())
        saved = models.load(result.final_path)
        for mine, its in zip(model.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, its)
        assert (model.get_weights()[0] != before).any()
        assert list((tmp_path / name).rglob("*.xplane.pb"))


def test_bfloat16_trains_a_step(sample_records, tmp_path):
    values = config(
        sample_records, tmp_path, epochs=1, precision="mixed_bfloat16", devices="cpu:2"
    )
    result = trainer.train(values)
    assert math.isfinite(result.best_value)
    assert keras.config.dtype_policy().name == "float32"


# Instead of a training: growing rates, folds.


def test_the_range_test_draws_its_curve_and_restores_the_weights(tmp_path):
    model = tiny_network()
    before = [value.copy() for value in model.get_weights()]

    def square(outputs, labels):
        error = tf.square(tf.reshape(outputs["age_output"], [-1]) - labels["age"])
        return {"loss": error}

    result = rate_search.search(
        own_config(tmp_path, optimizer="sgd"),
        model=model,
        train_dataset=tiny_data(),
        loss=square,
    )
    assert list(result.rates) == sorted(result.rates)
    assert result.suggestion in result.rates
    # Plain descent on a square blows up well before a rate of 1.
    assert result.rates[-1] < 1 and len(result.losses) == len(result.rates)
    assert (tmp_path / rate_search.PICTURE_NAME).exists()
    stored = json.loads((tmp_path / rate_search.JSON_NAME).read_text())
    assert stored["suggestion"] == result.suggestion
    for name in (rate_search.PICTURE_NAME, rate_search.JSON_NAME):
        assert str(tmp_path / name) in result.text()
    for value, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, value)


def test_every_photo_is_tested_in_one_fold(sample_records, tmp_path):
    values = config(sample_records, tmp_path, folds=3)
    views = cross_validation.write_views(
        sample_records, str(tmp_path / "records"), values
    )
    manifest = schema.load_manifest(sample_records)
    roles = {}
    for view in views:
        again = schema.load_manifest(view)
        photos = {}
        for split in ("train", "validation", "test"):
            source = index_loading.load_split(view, split)
            # Messages name the image's file, which is the key.
            keys = [
                source.describe(i).rpartition("file ")[2].removesuffix(")")
                for i in range(len(source))
            ]
            photos[split] = {image_keys.group_key(key, "photo") for key in keys}
            for key in keys:
                roles.setdefault(key, []).append(split)
            assert again.splits[split].num_examples == len(keys)
        assert not photos["train"] & photos["test"]
        assert not photos["train"] & photos["validation"]
        assert not photos["validation"] & photos["test"]
    assert len(roles) == manifest.written
    assert all(sorted(r) == ["test", "train", "validation"] for r in roles.values())


@pytest.mark.slow
def test_folds_report_mean_and_spread_and_resume(sample_records, tmp_path):
    values = config(sample_records, tmp_path, folds=3, epochs=1)
    result = cross_validation.train(values)
    accuracy = [fold["accuracy"] for fold in result.folds]
    assert result.mean["accuracy"] == pytest.approx(np.mean(accuracy))
    assert result.spread["accuracy"] == pytest.approx(np.std(accuracy, ddof=1))
    assert sum(fold["examples"] for fold in result.folds) == 240
    assert cross_validation.train(values) == result
    assert str(tmp_path / cross_validation.RESULT_NAME) in result.text()


# Options of the input and of the model, which are the parts' own.


def test_training_takes_every_option_of_its_parts(sample_records, tmp_path):
    values = config(
        sample_records,
        tmp_path / "run",
        epochs=1,
        balance="gender",
        hidden_units=8,
        gender_dropout=0.1,
        num_parallel_calls=1,
        max_bad_records=3,
        verify=False,
    )
    trainer.train(values)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["train"]["balance"] == "gender"
    assert stored["model"]["hidden_units"] == 8
    assert stored["model"]["gender_dropout"] == 0.1
    model = models.load(str(tmp_path / "run" / "best.keras"))
    assert model.get_layer("gender_dense_1").units == 8
    with pytest.raises(errors.UsageError, match="--balance"):
        trainer.train(dataclasses.replace(values, balance="none"))


def test_faces_of_one_age_teach_gender_only(sample_records):
    manifest = schema.load_manifest(sample_records)
    train = manifest.splits["train"]
    train = dataclasses.replace(train, counts={"male": {"30": 5}, "female": {"30": 4}})
    manifest = dataclasses.replace(manifest, splits={"train": train})
    assert training_facts._age_range_of_records(manifest, "gender") == (30, 31)
    for task in ("age", "age_gender"):
        with pytest.raises(errors.UsageError, match=f"--task={task} needs .* are 30"):
            training_facts._age_range_of_records(manifest, task)
