"""What the parts find out on logical CPU devices, in this process."""

from __future__ import annotations

import numpy as np
import pytest

from afad_tfdata.images import augmentation
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    cpu_parity,
    float16_overflow,
    gpus_and_driver,
    gradient_sums_and_scaling,
    step_timing,
    stop_and_continue,
    trial_networks,
)
from afad_tfdata.training import checkpoints, step


@pytest.fixture
def settings(tmp_path, replicas) -> check_settings.CheckSettings:
    names = (f"cpu:{replicas.num_replicas_in_sync}",)
    return check_settings.settings_for(names, 0, tiny=True, work_dir=str(tmp_path))


def _verdicts(found) -> set[str]:
    return {row.verdict for row in found}


def test_an_overflow_is_seen_by_all_replicas(settings):
    found = list(float16_overflow.measure(settings))
    assert len(found) == 5 and _verdicts(found) == {check_table.MET}


def test_an_overflow_that_nobody_sees_is_missed(settings, monkeypatch):
    build = trial_networks.exact_train_step

    def without_scaling(strategy, model, *, prepare, loss_scaling):
        trainer = build(strategy, model, prepare=prepare, loss_scaling=True)
        # The scale is as it was, and the step is taken.
        monkeypatch.setattr(trainer, "run", lambda *call: None)
        return trainer

    monkeypatch.setattr(trial_networks, "exact_train_step", without_scaling)
    found = {
        row.name.partition(",")[0]: row for row in float16_overflow.measure(settings)
    }
    assert found["the scale of the loss is halved"].verdict == check_table.MISSED
    assert found["the next step is taken"].verdict == check_table.MISSED


def test_the_augmentation_is_compared(settings, monkeypatch):
    found = list(cpu_parity.measure(settings, "augmentation"))
    assert len(found) == 3 and _verdicts(found) == {check_table.MET}
    calls = []

    def drifting(images, **keywords):
        calls.append(1)
        return plain(images, **keywords) + len(calls)

    plain = augmentation.augment_images
    monkeypatch.setattr(augmentation, "augment_images", drifting)
    found = list(cpu_parity.measure(settings, "augmentation"))
    assert [row.verdict for row in found] == [
        check_table.MET,
        check_table.MISSED,
        check_table.MISSED,
    ]


def test_a_step_is_compared(settings, monkeypatch):
    monkeypatch.setattr(cpu_parity, "_STEPS", 2)
    found = list(cpu_parity.measure(settings, "step"))
    assert len(found) == 4 and _verdicts(found) == {check_table.MET}


def test_sums_are_checked(settings):
    found = list(gradient_sums_and_scaling.sum_over_devices(settings, "auto"))
    assert len(found) == 2 and _verdicts(found) == {check_table.MET}


def test_two_ends_of_a_run_are_compared(settings, tmp_path):
    weights = {"a": np.arange(3.0), "b": np.array([np.nan])}
    for name in ("whole", "cut"):
        directory = tmp_path / name / "checkpoints"
        directory.mkdir(parents=True)
        checkpoints.save(checkpoints.path_of(str(directory), 1), weights, {"step": 1})
    assert stop_and_continue._compare_checkpoints(settings).verdict == check_table.MET
    weights = {**weights, "a": np.array([0.0, 1.0, 2.5])}
    path = checkpoints.path_of(str(tmp_path / "cut" / "checkpoints"), 1)
    checkpoints.save(path, weights, {"step": 1})
    row = stop_and_continue._compare_checkpoints(settings)
    assert row.verdict == check_table.MISSED and row.why == "a"


def test_the_number_of_steps_fits_the_wanted_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: clock[0])

    def run(steps):
        clock[0] += 0.25 * steps

    assert step_timing.steps_for(run, 2.0) == 8
    assert step_timing.steps_for(run, 0.01) == 2
    assert step_timing.steps_for(run, 1e6) == step.MAX_STEPS_PER_CALL


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19",
            "535.104.05",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  "
            "Release Build",
            "560.35.03",
        ),
        ("something else", ""),
    ],
)
def test_the_version_of_the_driver_is_read(tmp_path, monkeypatch, text, version):
    path = tmp_path / "version"
    path.write_text(text)
    monkeypatch.setattr(gpus_and_driver, "_DRIVER", str(path))
    assert gpus_and_driver._driver_version() == version


def test_a_gpu_and_its_build_are_rows():
    gpu = {"name": "gpu:0", "card": "A Card", "capability": [3, 0]}
    facts = {"gpus": [gpu], "driver": "535.1"}
    found = {row.name: row for row in gpus_and_driver._gpu_rows(facts, ["0, A Card"])}
    assert found["driver"].measured == "535.1"
    assert found["nvidia-smi"].measured == "0, A Card"
    # The CPU build of TensorFlow names no capability, and others none that is so old.
    row = found["gpu:0 A Card"]
    assert row.verdict == check_table.MISSED and "newer TensorFlow" in row.why
