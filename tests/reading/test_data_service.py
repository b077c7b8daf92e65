"""The tf.data service gives each example once in an epoch; its command serves one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from afad_tfdata import input_fn
from afad_tfdata.common import errors
from afad_tfdata.reading import data_service
from tests.bin.command_line import assert_one_line, run

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "address", ["a:5000", "grpc://a", "http://a:1", "grpc://a:b", "grpc://a:65536"]
)
def test_an_address_is_grpc_host_and_port(address):
    with pytest.raises(errors.UsageError, match="an address like grpc://host:5000"):
        input_fn.InputConfig(records_dir="records", data_service=address)


@pytest.mark.parametrize(
    "fields", [{"engine": "mapped"}, {"cache": "encoded"}, {"balance": "age"}]
)
def test_what_a_service_cannot_do_is_refused(fields):
    with pytest.raises(errors.UsageError, match="--data_service reads shards in turn"):
        input_fn.InputConfig(
            records_dir="records", data_service="grpc://a:5000", **fields
        )


def test_two_data_servers_give_each_example_once_in_an_epoch(sample_records, caplog):
    import tensorflow as tf

    tf.random.set_seed(1)  # As a training does.  Passes must still differ.
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    servers = [
        service.WorkerServer(service.WorkerConfig(dispatcher_address=address))
        for _ in range(2)
    ]
    plain = input_fn.InputConfig(
        records_dir=sample_records, global_batch_size=16, image_size=16, engine="graph"
    )
    config = input_fn.InputConfig(
        records_dir=sample_records,
        global_batch_size=16,
        image_size=16,
        data_service=dispatcher.target,
    )
    count = input_fn.num_examples(plain, "train")
    steps = -(-2 * count // 16)

    def names(dataset):
        return [
            image.tobytes()
            for features, _ in dataset.take(steps).as_numpy_iterator()
            for image in features["image"]
        ]

    served = names(input_fn.train_input_fn(config))
    wanted = set(names(input_fn.train_input_fn(plain))[:count])
    assert len(wanted) == count  # The images differ.
    epochs = served[:count], served[count : 2 * count]
    for epoch in epochs:
        assert len(set(epoch)) == count and set(epoch) == wanted
    assert epochs[0] != epochs[1]
    assert "repeats nothing exactly" in caplog.text
    del servers


def test_servers_connect_where_an_http_proxy_is_set():
    """gRPC once asked the proxy for the machine itself, and waited for ever."""
    code = (
        "import os\n"
        "from afad_tfdata.reading import data_service\n"
        "config = data_service.DataServiceConfig\n"
        "text, dispatcher = data_service._start_server(config())\n"
        "address = text.split()[-1]\n"
        "worker = data_service._start_server(config(dispatcher=address))\n"
        "print('connected', flush=True)\n"
        "os._exit(0)\n"
    )
    nobody = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **nobody, "PYTHONPATH": str(_ROOT)}
    for name in ("grpc_proxy", "no_proxy", "no_grpc_proxy"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert result.stdout == "connected\n"


@pytest.mark.parametrize("command", ["data_service", "train"])
def test_a_process_whose_dispatcher_is_not_there_says_so_and_can_be_stopped(
    command, sample_records, tmp_path
):
    with socket.socket() as unused:  # Bound, so that no other process gets the port.
        unused.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{unused.getsockname()[1]}"
        flags = {
            "data_service": [f"--dispatcher={address}", "--host=127.0.0.1"],
            "train": [f"--data_service={address}", f"--records_dir={sample_records}"]
            + [f"--run_dir={tmp_path}/run", "--backbone=small_cnn", "--epochs=1"]
            + ["--global_batch_size=32", "--image_size=16"],
        }[command]
        process = subprocess.Popen(
            [sys.executable, str(_ROOT / "bin" / f"{command}.py"), *flags],
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        too_long = threading.Timer(200, process.kill)
        too_long.start()
        try:
            for line in process.stderr:
                if f"cannot connect to {address}" in line:
                    break
            process.terminate()
            assert process.wait(60) == 75
            last = process.stderr.read().splitlines()[-1]
            assert f"no dispatcher answered at {address}" in last
            assert "SIGTERM" in last
        finally:
            too_long.cancel()
            process.kill()
            process.wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_dispatcher_that_starts_later_is_found(host):
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        timer = threading.Timer(0.5, late.listen)
        began = time.monotonic()
        timer.start()
        data_service._await_dispatcher(f"{host}:{port}")
        assert time.monotonic() - began >= 0.5
        timer.join()


def test_a_dispatcher_behind_a_proxy_of_grpc_is_left_to_tensorflow(monkeypatch):
    """Only the proxy reaches it, so that an attempt of our own would never succeed."""
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    data_service._await_dispatcher("dispatcher.invalid:5000")


@contextlib.contextmanager
def server(*flags):
    """A server's process, and the line in which it logs its address."""
    process = subprocess.Popen(
        [sys.executable, str(_ROOT / "bin" / "data_service.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if "SIGTERM stops it" in line:
                break
        yield process, line
    finally:
        process.kill()


@pytest.mark.slow
def test_a_training_gets_batches_from_other_processes(sample_records, tmp_path):
    with contextlib.ExitStack() as stack:
        dispatcher, line = stack.enter_context(server("--host=127.0.0.1"))
        address = re.search(r"grpc://127\.0\.0\.1:\d+", line).group()
        flags = [f"--dispatcher={address}", "--host=127.0.0.1"]
        for _ in range(2):
            stack.enter_context(server(*flags))
        time.sleep(1)
        train = [f"--records_dir={sample_records}", f"--run_dir={tmp_path}/run"]
        train += ["--backbone=small_cnn", "--weights=none", "--stage=tuning"]
        train += ["--epochs=2", "--global_batch_size=32", "--image_size=16"]
        result = run("train", *train, f"--data_service={address}")
        assert result.returncode == 0, result.stderr
        assert "batches come from" in result.stderr
        assert "2 epochs" in result.stdout
        dispatcher.terminate()
        assert dispatcher.wait(30) == 0


def test_wrong_flags_of_the_command_are_one_line():
    assert_one_line(
        run("data_service", "--dispatcher=a:1"), 1, "--dispatcher takes an address"
    )
    with pytest.raises(errors.UsageError, match="--work_dir is for a dispatcher"):
        data_service.DataServiceConfig(dispatcher="grpc://a:1", work_dir="w")


def test_a_data_server_knows_the_stores_that_tensorflow_io_opens(monkeypatch):
    opened = []
    monkeypatch.setattr(data_service.remote_files, "gfile", opened.append)
    monkeypatch.setattr(data_service.tensorflow_io_extra, "why_no_scheme", lambda _: "")
    dispatcher = data_service.DataServiceConfig()
    _, server = data_service._start_server(dispatcher)
    assert not opened  # It reads nothing.
    server_config = data_service.DataServiceConfig(
        dispatcher=f"grpc://{server.target.split('://')[1]}"
    )
    data_service._start_server(server_config)
    assert opened == ["s3://"]
