"""Stopped anywhere and continued, a run ends as the undisturbed one, bit for bit."""

import functools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from afad_tfdata import trainer
from afad_tfdata.common import errors, preemption
from afad_tfdata.training import checkpoints, training_facts
from tests.training.small_runs import assert_same, build_network, end_of

EPOCHS, BATCH = 2, 32
ROOT = pathlib.Path(__file__).parents[2]
BIN = str(ROOT / "bin" / "train.py")


def flags(records_dir, run_dir, **more):
    return {
        "records_dir": records_dir,
        "run_dir": str(run_dir),
        "image_size": 16,
        "stage": "tuning",
        "epochs": EPOCHS,
        "global_batch_size": BATCH,
        "devices": "cpu",
        "optimizer": "adam",
        "class_weight": "balanced",
        "ema_decay": 0.9,
        "clip_norm": 5.0,
        "steps_per_loop": 1,
        "tensorboard": False,
        "augment": "default,form=affine_op",  # Nothing to compile.
        **more,
    }


@pytest.fixture(autouse=True)
def no_stop_is_requested():
    yield
    preemption.clear()


@pytest.fixture(scope="module")
def undisturbed(sample_records, tmp_path_factory):
    """The end of a run that nobody stopped."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    train(flags(sample_records, run_dir))
    return end_of(run_dir)


def train(arguments, **more):
    """With a small network that has everything whose state is easily lost."""
    network = build_network(dropout=0.5, batch_statistics=True)
    return trainer.train(trainer.TrainConfig(**arguments), model=network, **more)


def stop_before_call(monkeypatch, calls):
    """Asks for a stop when the loop looks for a request for the n-th time."""
    count = iter(range(10**6))

    def requested():
        if next(count) == calls:
            preemption.request("SIGTERM")
        return preemption._requested.is_set()

    monkeypatch.setattr(preemption, "requested", requested)


# The loop looks before every step and at the end of every epoch: the middle of an
# epoch; its last step done but not evaluated; the next epoch, and the file is torn.
@pytest.mark.parametrize("look, torn", [(2, False), (5, False), (8, True)])
def test_a_run_stopped_at_any_step_ends_as_the_undisturbed(
    sample_records, tmp_path, monkeypatch, caplog, undisturbed, look, torn
):
    arguments = flags(sample_records, tmp_path)
    with monkeypatch.context() as patch:
        stop_before_call(patch, look)
        with pytest.raises(errors.PreemptedError, match="SIGTERM came: step"):
            train(arguments)
    preemption.clear()
    directory = str(tmp_path / "checkpoints")
    newest = checkpoints.path_of(directory, checkpoints.steps(directory)[-1])
    assert 0 < checkpoints.steps(directory)[-1] < end_step(undisturbed)
    if torn:
        os.truncate(newest, os.path.getsize(newest) // 2)
    with caplog.at_level(logging.WARNING):
        train(arguments)
    assert torn == (newest in caplog.text)
    assert_same(end_of(tmp_path), undisturbed)


def end_step(end):
    return end[1]["state"]["step"]


def test_calls_of_any_length_end_alike(sample_records, tmp_path, undisturbed):
    more = {"steps_per_loop": 0, "checkpoint_steps": 3}
    train(flags(sample_records, tmp_path, **more))
    assert_same(end_of(tmp_path), undisturbed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_command_with_75_and_it_continues(
    name, sample_records, tmp_path
):
    """In a process of its own, as a batch system or Ctrl-C does it."""
    more = {"epochs": 100, "checkpoint_steps": 2, "augment": "none"}
    more["schedule"] = "constant"  # So that the run can be made shorter.
    more["backbone"] = "small_cnn"
    arguments = flags(sample_records, tmp_path, **more)
    command = [sys.executable, BIN, *_as_flags(arguments)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=_in_the_foreground
    )
    try:
        _wait_for_steps(tmp_path / "checkpoints", process)
        process.send_signal(getattr(signal, name))
        _, text = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75
    reason = {"SIGTERM": "SIGTERM", "SIGINT": "Ctrl-C"}[name]
    assert f"stopped: {reason} came" in text and "Traceback" not in text
    assert "the same command continues" in text
    state = checkpoints.load_newest(str(tmp_path / "checkpoints")).state["state"]
    arguments["epochs"] = state["epoch"] + 1
    result = trainer.train(trainer.TrainConfig(**arguments))
    assert result.steps >= state["step"] >= 2
    assert [row["epoch"] for row in result.history["epochs"]] == list(
        range(1, result.epochs + 1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_runs_killed_at_random_moments_end_as_the_undisturbed(
    sample_records, tmp_path, name
):
    program = [sys.executable, "-m", "tests.robustness.kill_trials"]
    done = subprocess.run(
        [*program, sample_records, str(tmp_path), f"--signal={name}", "--trials=4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 equal" in done.stdout


def _in_the_foreground():
    # A shell starts its background processes, such as a test run, without Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _as_flags(arguments):
    return [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in arguments.items()
    ]


def _wait_for_steps(directory, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if checkpoints.steps(str(directory))[-1:] > [1]:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no step was taken")


def test_a_run_warns_of_another_processor(
    sample_records, tmp_path, monkeypatch, caplog
):
    """As when a batch system continues a job on another machine."""
    config = trainer.TrainConfig(**flags(sample_records, tmp_path))
    for call, processor in ((2, "x86_64 avx2"), (2, "x86_64 avx2"), (2, "x86_64")):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                training_facts, "_processor", functools.partial(str, processor)
            )
            stop_before_call(patch, call)
            with pytest.raises(errors.PreemptedError):
                trainer.train(config, model=build_network())
        preemption.clear()
        warned = "x86_64 instead of x86_64 avx2" in caplog.text
        assert warned == (processor == "x86_64")
        assert warned == ("rounded differently" in caplog.text)


def test_changes_that_round_differently_are_named():
    now = {
        "threads": {"intra_op": 0, "cores": 4},
        "engine": "mapped",
        "onednn": "1",
        "tensorflow": "2.17.1",
    }
    assert training_facts.rounding_changes(now, now) == []
    # An older version wrote neither the processor nor the threads.
    assert training_facts.rounding_changes({"tensorflow": "2.17.1"}, now) == []
    before = {
        "threads": {"intra_op": 2, "cores": 8},
        "engine": "graph",
        "onednn": "default",
        "tensorflow": "2.17.1",
    }
    assert training_facts.rounding_changes(before, now) == [
        "4 threads instead of 2",
        "the input engine mapped instead of graph",
        "TF_ENABLE_ONEDNN_OPTS=1 instead of default",
    ]


@pytest.mark.latest
def test_a_run_continues_on_another_number_of_replicas(
    sample_records, tmp_path, monkeypatch, caplog, replicas
):
    """Without dropout and batch statistics: equal as far as rounding goes."""
    ends, several = [], f"cpu:{replicas.num_replicas_in_sync}"
    for name, devices in (("one", ("cpu", "cpu")), ("moved", ("cpu", several))):
        arguments = flags(sample_records, tmp_path / name, global_batch_size=24)
        with monkeypatch.context() as patch:
            stop_before_call(patch, 3)
            with pytest.raises(errors.PreemptedError):
                trainer.train(
                    trainer.TrainConfig(**{**arguments, "devices": devices[0]}),
                    model=build_network(),
                )
        preemption.clear()
        trainer.train(
            trainer.TrainConfig(**{**arguments, "devices": devices[1]}),
            model=build_network(),
        )
        ends.append(end_of(tmp_path / name))
    one, moved = ends
    (warning,) = (r.message for r in caplog.records if "rounded" in r.message)
    assert f"{replicas.num_replicas_in_sync} replica(s) on" in warning
    assert "instead of 1 replica(s) on CPU:0 (" in warning
    for name, array in one[0].items():
        np.testing.assert_allclose(moved[0][name], array, rtol=1e-3, atol=1e-4)
    for a, b in zip(one[2]["epochs"], moved[2]["epochs"], strict=True):
        assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-4)
        assert a["validation"] == pytest.approx(b["validation"], rel=1e-4)
