"""Several workers train as one: the job's description, lost workers, real processes."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from afad_tfdata.common import errors, files
from afad_tfdata.training import checkpoints
from afad_tfdata.training.distributed import cluster, multi_worker, watchdog
from tests.training.distributed import train_worker

_ROOT = pathlib.Path(__file__).parents[3]
_SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[2,10]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def tf_config(addresses, index, kind="worker", **jobs):
    jobs = {"worker": addresses, **jobs}
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


# Who works with whom.


@pytest.mark.parametrize(
    "environment, index, size",
    [
        ({"TF_CONFIG": tf_config(["a:1", "b:1"], 1)}, 1, 2),
        ({"TF_CONFIG": tf_config(["a:1", "b:1"], 0, chief=["c:1"])}, 1, 3),
        ({"TF_CONFIG": tf_config(["a:1"], 0, "chief", chief=["c:1"])}, 0, 2),
        # TF_CONFIG goes before Slurm.
        ({**_SLURM, "TF_CONFIG": tf_config(["a:1", "b:1"], 1)}, 1, 2),
        # The number of a task is not its rank in Slurm: n10 sorts before n2.
        (
            {**_SLURM, "SLURMD_NODENAME": "n2", "SLURM_LOCALID": "1"}
            | {"SLURM_PROCID": "1"},
            3,
            4,
        ),
        (
            {**_SLURM, "SLURMD_NODENAME": "n10", "SLURM_LOCALID": "0"}
            | {"SLURM_PROCID": "2"},
            0,
            4,
        ),
    ],
)
def test_a_worker_finds_its_place(environment, index, size, monkeypatch):
    for name, value in environment.items():  # TensorFlow's resolver reads these.
        monkeypatch.setenv(name, value)
    found = cluster.find(environment)
    assert (found.index, len(found.addresses)) == (index, size)
    assert found.is_chief == (index == 0)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": ""},
        {"TF_CONFIG": "{}"},
        {"TF_CONFIG": tf_config(["a:1"], 0)},
        {"SLURM_JOB_ID": "12"},  # An allocation, but no step in it.
        {**_SLURM, "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_one_process_is_no_job(environment):
    assert cluster.find(environment) is None


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG is JSON like"),
        ({"TF_CONFIG": "[1]"}, "TF_CONFIG is JSON like"),
        ({"TF_CONFIG": tf_config(["a:1", "b:1"], 2)}, "an index within the job"),
        ({"TF_CONFIG": tf_config(["a:1", "a:1"], 0)}, "each address once"),
        ({"TF_CONFIG": tf_config(["a", "b"], 0)}, "host:port"),
        ({"TF_CONFIG": tf_config(["a:1"], 0, ps=["b:1"])}, "got also ps"),
        (_SLURM, "do not say where they run"),
    ],
)
def test_a_bad_description_is_one_line(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.UsageError, match=message) as caught:
        cluster.find(environment)
    assert "\n" not in str(caught.value)


def test_what_runs_alone_refuses_a_job(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:1"], 0))
    with pytest.raises(errors.UsageError, match="--folds runs on one machine"):
        cluster.refuse_several_workers("--folds")


def test_one_worker_alone_exchanges_nothing():
    workers = multi_worker.Workers()
    assert workers.is_chief and workers.exchange([2, 3]).tolist() == [[2, 3]]
    assert workers.from_chief(lambda: "read") == "read"
    workers.meet()


# Workers that are gone.


def watched(address, **more):
    """A watch for two workers of which this is the first, and what it says."""
    said, told = [], threading.Event()

    def lost(message):
        said.append(message)
        told.set()

    guard = watchdog.PortWatch(["here:1", address], 0, lost, every_secs=0.02, **more)
    return guard, said, told


def test_a_worker_that_ends_is_noticed():
    server = socket.create_server(("127.0.0.1", 0))
    guard, said, told = watched(f"127.0.0.1:{server.getsockname()[1]}")
    assert not told.wait(0.3)
    server.close()
    assert told.wait(10)
    assert "worker 1 (127.0.0.1:" in said[0] and "is gone" in said[0]
    guard.stop()


def test_a_worker_that_never_comes_is_noticed():
    (address,) = free_addresses(1)
    guard, said, told = watched(address, start_secs=0.1)
    assert told.wait(10)
    assert "did not start within" in said[0]
    guard.stop()


def test_a_watch_that_was_stopped_says_nothing():
    server = socket.create_server(("127.0.0.1", 0))
    guard, _, told = watched(f"127.0.0.1:{server.getsockname()[1]}")
    guard.stop()
    server.close()
    assert not told.wait(0.3)


def start_and_lose_a_worker(stderr, begun=lambda: None):
    """A process that starts as one of two, and what it wrote; the other one ends."""
    server = socket.create_server(("127.0.0.1", 0))
    # A process that no exception reaches, as while TensorFlow starts.
    code = (
        "import sys, time\n"
        "from afad_tfdata.training.distributed import watchdog\n"
        "with watchdog.watch_start(['here:1', sys.argv[1]], 0):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(300)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"127.0.0.1:{server.getsockname()[1]}"],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    try:
        assert process.stdout.readline() == "begun\n"
        begun()
        server.accept()[0].close()  # It was tried, and seen.
        server.close()
        _, text = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, text


def test_a_worker_that_ends_during_the_start_is_noticed():
    status, text = start_and_lose_a_worker(subprocess.PIPE)
    assert status == -9
    assert "worker 1 (127.0.0.1:" in text and "is gone" in text
    assert len(text.splitlines()) == 1


def test_a_worker_that_ends_after_the_terminal_was_closed_is_noticed():
    """The line that could not be printed once kept the process from being ended."""
    terminal, stderr = pty.openpty()
    try:
        status, _ = start_and_lose_a_worker(stderr, lambda: os.close(terminal))
    finally:
        os.close(stderr)
    assert status == -9


def test_a_closed_terminal_ends_a_worker_that_waits_for_the_others():
    """It once waited for 15 minutes, because no handler of Python runs there."""
    addresses = free_addresses(2)
    code = (
        "import signal\n"
        "from afad_tfdata.common import preemption\n"
        "from afad_tfdata.training.distributed import multi_worker\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "preemption.install()\n"
        "with multi_worker.join('cpu', 'auto'):\n"
        "    pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "TF_CONFIG": tf_config(addresses, 0),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        while not watchdog._port_is_open(addresses[0]):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == -signal.SIGHUP
    finally:
        process.kill()


# Real processes.


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    names = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return names


def job(count, records, run, *signal_and_step, which=1, timeout=400):
    """Runs workers to their ends; their exit statuses and what they wrote."""
    addresses = free_addresses(count)
    processes = []
    for index in range(count):
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        environment.pop("TF_CONFIG", None)
        if count > 1:
            environment["TF_CONFIG"] = tf_config(addresses, index)
        at = signal_and_step if index == which else ()
        processes.append(
            subprocess.Popen(
                [sys.executable, train_worker.__file__, records, str(run), *at],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        texts = ["".join(p.communicate(timeout=timeout)) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [p.returncode for p in processes], texts


def weights(run):
    """The last step's trained values, as one vector; and the step."""
    directory = os.path.join(run, "checkpoints")
    step = checkpoints.steps(directory)[-1]
    arrays = checkpoints.load(checkpoints.path_of(directory, step)).arrays
    values = [
        a.ravel()
        for name, a in arrays.items()
        if name.startswith("model/") and a.dtype == np.float32
    ]
    return np.concatenate(values), step


@pytest.fixture(scope="module")
def alone(sample_records, tmp_path_factory):
    """The run of one process."""
    run = str(tmp_path_factory.mktemp("alone") / "run")
    statuses, texts = job(1, sample_records, run)
    assert statuses == [0], texts
    return run


def assert_same_run(run, alone):
    found, step = weights(run)
    wanted, _ = weights(alone)
    begun = np.linalg.norm(wanted)
    assert step == train_worker.STEPS
    assert np.linalg.norm(found - wanted) < 1e-4 * begun
    rows, wanted_rows = (
        files.read_json(os.path.join(r, "history.json"), what="", advice="")["epochs"]
        for r in (run, alone)
    )
    assert len(rows) == len(wanted_rows)
    for row, wanted_row in zip(rows, wanted_rows, strict=True):
        for part in ("train", "validation"):
            assert row[part] == pytest.approx(wanted_row[part], rel=1e-3)


def test_two_workers_train_as_one_process(sample_records, alone, tmp_path):
    run = tmp_path / "run"
    statuses, texts = job(2, sample_records, run)
    assert statuses == [0, 0], texts
    assert_same_run(str(run), alone)
    assert {"best.keras", "final.keras", "config.json"} <= set(os.listdir(run))
    # The other worker never wrote there: nothing is there twice.
    lines = (run / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines if '"epoch"' in line]
    assert epochs == [1, 2, 3, 4]


@pytest.mark.slow
def test_three_workers_train_as_one_process(sample_records, alone, tmp_path):
    statuses, texts = job(3, sample_records, tmp_path / "run")
    assert statuses == [0, 0, 0], texts
    assert_same_run(str(tmp_path / "run"), alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_others_go_on(sample_records, alone, tmp_path):
    run = tmp_path / "run"
    statuses, texts = job(2, sample_records, run, "SIGTERM", "9")
    assert statuses == [75, 75], texts
    assert weights(run)[1] == 9
    statuses, texts = job(3, sample_records, run)
    assert statuses == [0, 0, 0], texts
    assert_same_run(str(run), alone)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_worker_ends_all_and_the_job_goes_on(
    which, sample_records, alone, tmp_path
):
    run = tmp_path / "run"
    statuses, texts = job(3, sample_records, run, "SIGKILL", "9", which=which)
    assert statuses.pop(which) == -9
    assert statuses == [errors.WorkerLostError.exit_status] * 2, texts
    for index in {0, 1, 2} - {which}:
        assert f"worker {which} (127.0.0.1" in texts[index]
        assert "Traceback" not in texts[index]
    assert weights(run)[1] == 8
    statuses, texts = job(2, sample_records, run)
    assert statuses == [0, 0], texts
    assert_same_run(str(run), alone)


@pytest.mark.slow
@pytest.mark.parametrize("what, status", [("stop", 0), ("fail", 1)])
def test_a_callback_of_the_chief_ends_all(
    what, status, sample_records, alone, tmp_path
):
    run = tmp_path / "run"
    statuses, texts = job(2, sample_records, run, what, "9", which=0)
    assert statuses == [status, status], texts
    assert ["the callback began" in text for text in texts] == [True, False]
    wanted = "callbacks[0] (Called), in on_steps"
    assert all(wanted in text and "Traceback" not in text for text in texts)
    assert weights(run)[1] == 9
    statuses, texts = job(2, sample_records, run)
    assert statuses == [0, 0], texts
    assert_same_run(str(run), alone)


@pytest.mark.slow
def test_what_the_chief_finds_wrong_ends_all_alike(sample_records, alone, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"train": {"task": "age"}}')
    statuses, texts = job(2, sample_records, run)
    assert statuses == [1, 1], texts
    assert all("contains a run of another configuration" in text for text in texts)
