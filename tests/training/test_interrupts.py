"""Ctrl-C, log lines in programs without logging, and why a phase ends."""

import logging
import signal

import pytest

from afad_tfdata import trainer
from afad_tfdata.bin import absl_flags
from afad_tfdata.common import errors, preemption, progress
from afad_tfdata.training import config as train_config
from afad_tfdata.training import recipe
from tests.training import own_parts


@pytest.fixture
def in_the_foreground():
    """Python's own handler of Ctrl-C: a shell's background process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_asks_to_stop_and_the_second_interrupts(
    capfd, in_the_foreground
):
    # os.kill may return before another thread of the process has taken the signal.
    with pytest.raises(KeyboardInterrupt), preemption.interruptible():
        signal.raise_signal(signal.SIGINT)
        assert preemption.requested() and preemption.reason() == "Ctrl-C"
        signal.raise_signal(signal.SIGINT)
    assert not preemption.requested()
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_in_the_background_still_ignores_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with preemption.interruptible():
            signal.raise_signal(signal.SIGINT)
            assert not preemption.requested()
    finally:
        signal.signal(signal.SIGINT, before)


def test_lines_are_shown_where_a_program_set_up_no_logging(capsys, monkeypatch):
    ours, root = logging.getLogger("afad_tfdata"), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with progress.lines_shown():
        logging.getLogger("afad_tfdata.trainer").info("a line")
    assert "a line" in capsys.readouterr().err
    assert not ours.handlers and ours.level == logging.NOTSET


def test_a_training_in_such_a_program_says_what_it_does(tmp_path, capsys, monkeypatch):
    """A script or a notebook once saw nothing until the training returned."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    own_parts.train(tmp_path / "run")
    shown = capsys.readouterr().err
    assert "epoch 1" in shown and "Traceback" not in shown
    assert "tuning ends: all of its 1 epochs are done" in shown


def test_lines_are_not_doubled_where_it_did(monkeypatch):
    ours, root = logging.getLogger("afad_tfdata"), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    with progress.lines_shown():
        assert not ours.handlers


def test_a_log_says_why_a_phase_and_the_recipe_end():
    config = trainer.TrainConfig(run_dir="run", recipe="original", epochs=9, patience=2)
    phases = recipe.phases(config, pretrained=False)
    waiting = recipe.PhaseProgress(0, epochs=3, waited=2, helped=True)
    assert waiting.why_over(phases) == "tuning ends: no improvement in 2 epochs"
    done = recipe.PhaseProgress(0, epochs=9)
    assert done.why_over(phases) == "tuning ends: all of its 9 epochs are done"
    last = recipe.PhaseProgress(1, epochs=2, waited=2)
    assert "this rate brought no improvement" in last.why_over(phases)


@pytest.mark.parametrize(
    "guess, flag",
    [
        ("--lr=1", "--learning_rate"),
        ("--batch_size=8", "--global_batch_size"),
        ("--gpus=2", "--devices"),
        ("--data_dir=x", "--records_dir"),
    ],
)
def test_common_guesses_of_a_flag_get_the_right_name(guess, flag):
    with pytest.raises(errors.UsageError, match=f"use {flag} "):
        absl_flags.parse_flags(train_config.TrainConfig, ["afad-train", guess])
