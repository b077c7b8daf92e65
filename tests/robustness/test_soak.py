"""Memory, open files and threads do not grow in long runs (`make test-slow`)."""

from __future__ import annotations

import gc
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from afad_tfdata import input_fn, records

pytestmark = pytest.mark.slow
# What may be added: caches that fill, and an allocator that rounds up.
_MEMORY_BYTES = 40 << 20


def _resources() -> dict[str, int]:
    """Resident memory, open files, maps of files and threads of this process."""
    gc.collect()
    with open("/proc/self/statm") as f:
        resident = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "memory": resident,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "maps": _mapped_records(),
    }


def _mapped_records() -> int:
    """How many maps of records this process has."""
    with open("/proc/self/maps") as f:
        return sum("/soak" in line for line in f)


def _assert_flat(before: dict[str, int], after: dict[str, int]) -> None:
    assert after["memory"] - before["memory"] < _MEMORY_BYTES, (before, after)
    assert after["files"] <= before["files"] + 2, (before, after)
    assert after["threads"] <= before["threads"] + 2, (before, after)
    assert after["maps"] <= before["maps"], (before, after)


@pytest.fixture(scope="module")
def small_records(sample_tree, tmp_path_factory):
    directory = tmp_path_factory.mktemp("soak") / "records"
    config = records.WriteConfig(
        data_dir=sample_tree, output_dir=str(directory), image_size=24, num_shards=3
    )
    records.write_records(config)
    return str(directory)


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_fifty_epochs_of_input(engine, small_records):
    config = input_fn.InputConfig(
        records_dir=small_records, global_batch_size=8, engine=engine, image_size=24
    )
    steps = input_fn.num_examples(config, "train") * 50 // 8
    batches = iter(input_fn.train_input_fn(config))
    for _ in range(steps // 5):
        next(batches)
    before = _resources()
    for _ in range(steps):
        next(batches)
    _assert_flat(before, _resources())


@pytest.mark.parametrize("engine", ["mapped", "graph"])
def test_pipelines_that_come_and_go(engine, small_records):
    """An evaluation after every epoch creates a new pipeline."""
    config = input_fn.InputConfig(
        records_dir=small_records, global_batch_size=8, engine=engine, image_size=24
    )

    def whole() -> None:
        for _ in input_fn.eval_input_fn(config, "test"):
            pass

    for _ in range(20):
        whole()
    before = _resources()
    for _ in range(50):
        whole()
    _assert_flat(before, _resources())


@pytest.mark.parametrize("form", ["original", "hdf5"])
def test_two_hundred_trainings_of_three_epochs(form, sample_tree, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("soak") / "records")
    fields = {"format": "hdf5"} if form == "hdf5" else {}
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=directory,
            image_size=24,
            num_shards=3,
            **fields,
        )
    )
    config = input_fn.InputConfig(
        records_dir=directory, global_batch_size=32, engine="mapped"
    )
    steps = -(-input_fn.num_examples(config, "train") * 3 // 32)

    def train() -> None:
        batches = iter(input_fn.train_input_fn(config))
        for _ in range(steps):
            next(batches)

    for _ in range(20):
        train()
    before = _resources()
    for _ in range(200):
        train()
    _assert_flat(before, _resources())


def test_twenty_thousand_steps(small_records, tmp_path):
    """In a process of its own, which notes its resources at the end of each epoch."""
    program = f"""
        import json, sys
        sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r})
        from tests.robustness import test_soak
        from tests.training import small_runs
        from afad_tfdata import trainer
        from afad_tfdata.training import metrics_log
        notes, epoch = [], metrics_log.MetricsLog.epoch

        def noting(self, *arguments, **named):
            notes.append(test_soak._resources())
            epoch(self, *arguments, **named)

        metrics_log.MetricsLog.epoch = noting
        config = trainer.TrainConfig(
            records_dir={small_records!r}, run_dir={str(tmp_path / "run")!r},
            stage="tuning", image_size=16, epochs=200,
            global_batch_size=8, steps_per_epoch=100, devices="cpu", optimizer="adam",
            learning_rate=1e-4, steps_per_loop=50, augment="none",
        )
        result = trainer.train(config, model=small_runs.build_network())
        print(json.dumps([result.steps, notes]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps, notes = json.loads(done.stdout.splitlines()[-1])
    assert steps == 20_000 and len(notes) == 200
    _assert_flat(notes[20], notes[-1])
