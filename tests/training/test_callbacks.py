"""Objects of the caller that a training calls: what they get, and how they end it."""

import dataclasses
import functools
import json
import logging
import random
import types

import numpy as np
import pytest

from afad_tfdata import trainer
from afad_tfdata.common import errors, preemption
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.training import callbacks
from tests.training.small_runs import assert_same, build_network, end_of

EPOCHS = 2


def flags(records_dir, run_dir, **more):
    return {
        "records_dir": records_dir,
        "run_dir": str(run_dir),
        "image_size": 16,
        "stage": "tuning",
        "epochs": EPOCHS,
        "global_batch_size": 32,
        "devices": "cpu",
        "steps_per_loop": 1,
        "checkpoint_steps": 3,
        "tensorboard": False,
        "augment": "none",
        "learning_rate": 1e-3,
        "schedule": "constant",
        **more,
    }


def train(arguments, *objects):
    """With a small network, so that nothing large is traced."""
    network = build_network(dropout=0.5)
    config = trainer.TrainConfig(**arguments)
    return trainer.train(config, model=network, callbacks=list(objects))


class Recorder:
    """Keeps the events."""

    def __init__(self):
        self.events = []

    def __getattr__(self, name):
        if name not in callbacks.NAMES:
            raise AttributeError(name)
        return functools.partial(self._record, name)

    def _record(self, name, event):
        self.events.append((name, event))

    def of(self, name):
        return [event for called, event in self.events if called == name]


class Meddler(Recorder):
    """Changes whatever it can reach."""

    def _record(self, name, event):
        event.metrics.clear()
        event.paths["checkpoint"] = "elsewhere"
        event.config["seed"] = -1
        random.seed(1)
        np.random.seed(1)
        keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def undisturbed(sample_records, tmp_path_factory):
    """The end of a run without callbacks."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    train(flags(sample_records, run_dir))
    return end_of(run_dir)


def test_events_say_what_the_history_says(sample_records, tmp_path, undisturbed):
    recorder = Recorder()
    result = train(flags(sample_records, tmp_path), Meddler(), recorder)
    assert_same(end_of(tmp_path), undisturbed)
    assert result.stopped == ""
    names = [name for name, _ in recorder.events]
    assert names[:2] == ["on_start", "on_checkpoint"]
    assert names[-2:] == ["on_checkpoint", "on_end"]
    steps = recorder.of("on_steps")
    assert [event.step for event in steps] == list(range(1, result.steps + 1))
    for event in steps:
        assert event.metrics.keys() == {"step_loss", "images_per_second", "waiting"}
        assert event.metrics["images_per_second"] > 0  # In the first event, too.
        assert event.learning_rate == 1e-3
    epochs = recorder.of("on_epoch")
    assert [event.epoch for event in epochs] == [1, 2]
    for event, row in zip(epochs, result.history["epochs"], strict=True):
        assert event.metrics["train/loss"] == row["train"]["loss"]
        assert event.metrics["validation/mae"] == row["validation"]["mae"]
    is_best = [bool(event.paths) for event in epochs]
    assert is_best[result.best_epoch - 1] and not any(is_best[result.best_epoch :])
    saved = recorder.of("on_checkpoint")
    assert [event.step for event in saved] == [0, 3, 5, 6, 9, 10]
    assert saved[-1].paths["checkpoint"].startswith(str(tmp_path / "checkpoints"))
    (end,) = recorder.of("on_end")
    assert (end.status, end.step, end.epoch) == ("finished", result.steps, EPOCHS)
    assert end.paths == {"best": result.best_path, "final": result.final_path}
    for _, event in recorder.events:  # Plain values, and nothing of the meddler's.
        assert event.config["seed"] != -1
        json.dumps(dataclasses.asdict(event))


def test_a_batch_larger_than_the_split_is_warned_of(sample_records, tmp_path, caplog):
    def end(event):
        raise trainer.StopTraining("one step is enough")

    arguments = flags(sample_records, tmp_path, global_batch_size=256)
    train(arguments, types.SimpleNamespace(on_steps=end))
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any("--global_batch_size=256 is more than the" in line for line in said)


@pytest.mark.parametrize(
    "where, step, stopped",
    [("on_steps", 7, False), ("on_steps", 3, True), ("on_epoch", 5, True)],
)
def test_a_callback_ends_a_training_that_continues_exactly(
    sample_records, tmp_path, undisturbed, where, step, stopped
):
    def end(event):
        if event.step == step:
            raise trainer.StopTraining("far too bad") if stopped else ZeroDivisionError

    recorder, arguments = Recorder(), flags(sample_records, tmp_path)
    objects = (types.SimpleNamespace(**{where: end}), recorder)
    title = rf"callbacks\[0\] \(SimpleNamespace\), in {where}"
    if stopped:
        result = train(arguments, *objects)
        assert result.stopped.endswith("far too bad") and result.steps == step
        assert f"stopped by {result.stopped}" in result.text()
    else:
        with pytest.raises(errors.UsageError, match=title) as found:
            train(arguments, *objects)
        assert isinstance(found.value.__cause__, ZeroDivisionError)
        assert f"after step {step}: ZeroDivisionError; the training" in str(found.value)
    assert end_of(tmp_path).state["state"]["step"] == step
    (last,) = recorder.of("on_end")
    assert last.status == ("stopped" if stopped else "failed")
    assert "callbacks[0]" in last.reason and "final" in last.paths
    train(arguments)
    assert_same(end_of(tmp_path), undisturbed)


def test_the_end_is_reported_whatever_it_is(sample_records, tmp_path, monkeypatch):
    recorder, arguments = Recorder(), flags(sample_records, tmp_path)
    preempt = types.SimpleNamespace(on_steps=lambda _: preemption.request("Friday"))
    with pytest.raises(errors.PreemptedError, match="Friday came: step 1"):
        train(arguments, preempt, recorder)
    preemption.clear()
    (end,) = recorder.of("on_end")
    assert end.status == "preempted" and "Friday came" in end.reason
    recorder = Recorder()

    def broken(*_):
        raise MemoryError("none left")

    monkeypatch.setattr("afad_tfdata.training.step.TrainStep.run", broken)
    with pytest.raises(MemoryError):
        train(arguments, recorder)
    (end,) = recorder.of("on_end")
    assert (end.status, end.reason) == ("failed", "MemoryError: none left")


def test_a_failure_after_the_end_is_told(sample_records, tmp_path, caplog):
    def last(event):
        raise ValueError(event.status)

    called = types.SimpleNamespace(on_end=last, on_start=lambda event: True)
    arguments = flags(sample_records, tmp_path, epochs=1, steps_per_epoch=1)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(errors.UsageError, match="in on_end.*finished; the training is"),
    ):
        train(arguments, called)
    assert "returned True, which does nothing: raise trainer.StopT" in caplog.text
    assert (tmp_path / "final.keras").exists()


class WithTypo:
    def on_epoch(self, event):
        pass

    def on_epochs(self, event):
        pass


class Async:
    async def on_epoch(self, event):
        pass


@pytest.mark.parametrize(
    "value, text",
    [
        (Recorder(), "list of objects .*; got tests.*Recorder: put the object into a"),
        ([Recorder], r"callbacks\[0\] is the class Recorder: pass an object"),
        ([keras.callbacks.EarlyStopping()], "is the Keras callback EarlyStopping"),
        ([object()], r"callbacks\[0\] \(object\) has none of them"),
        ([None], r"callbacks\[0\] \(NoneType\) has none of them"),
        ([WithTypo()], r"\(WithTypo\) has on_epochs, which would never be called"),
        ([Async()], "on_epoch must be a plain method, because what an async"),
        (
            [types.SimpleNamespace(on_end=3)],
            "on_end must be a method; got builtins.int",
        ),
        (
            [
                types.SimpleNamespace(on_end=print),
                types.SimpleNamespace(on_end=lambda: 1),
            ],
            r"callbacks\[1\] .*on_end must take one argument, the event; it takes \(\)",
        ),
        (
            [types.SimpleNamespace(on_epoch=lambda epoch, logs: 1)],
            r"must take one argument, the event; it takes \(epoch, logs\)",
        ),
    ],
)
def test_wrong_objects_are_refused_before_anything_begins(tmp_path, value, text):
    config = trainer.TrainConfig(records_dir="nowhere", run_dir=str(tmp_path / "run"))
    with pytest.raises(errors.UsageError, match=text) as found:
        trainer.train(config, callbacks=value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()
