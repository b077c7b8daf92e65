"""Data sets on S3, on a server on this machine: `pip install 'moto[server]'`."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from afad_tfdata.common import tensorflow_io_extra
from tests.bin.command_line import assert_one_line, run
from tests.writing.data_sets import digests, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket():
    """A bucket's URL, with the environment set for it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    import boto3

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    program = os.path.join(os.path.dirname(sys.executable), "moto_server")
    server = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    values = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "S3_ENDPOINT": url,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="faces")
        yield "s3://faces"
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def test_write_and_read_from_the_commands(bucket, sample_tree, tmp_path):
    write(sample_tree, tmp_path / "local")
    flags = ["--image_size=24", "--num_shards=3", f"--work_dir={tmp_path}/work"]
    flags += [f"--data_dir={sample_tree}", f"--output_dir={bucket}/records"]
    result = run("write_records", *flags)
    assert result.returncode == 0, result.stderr
    assert os.listdir(tmp_path / "work") == []
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
    os.makedirs(tmp_path / "copy")
    for item in client.list_objects_v2(Bucket="faces")["Contents"]:
        name = item["Key"].removeprefix("records/")
        client.download_file("faces", item["Key"], str(tmp_path / "copy" / name))
    assert digests(tmp_path / "copy") == digests(tmp_path / "local")
    again = run("write_records", *flags)
    assert again.returncode == 0 and "finished already" in again.stderr
    other = run("write_records", *flags, "--seed=4")
    assert other.returncode == 1 and "differs in seed" in other.stderr
    result = run("inspect_records", f"--records_dir={bucket}/records", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["written"] == 240
    verify = ["inspect_records", f"--records_dir={bucket}/records", "--verify"]
    assert run(*verify).returncode == 0
    client.put_object(Bucket="faces", Key="records/mean.json", Body=b"{}")
    shard = next(n for n in os.listdir(tmp_path / "copy") if n.endswith("of-00003"))
    client.delete_object(Bucket="faces", Key=f"records/{shard}")
    result = run(*verify)
    assert result.returncode == 2
    assert "mean.json: differs" in result.stdout + result.stderr
    assert f"{shard}: is missing: there is no such" in result.stdout + result.stderr


def test_wrong_bucket_names_give_one_line(bucket, sample_tree, tmp_path):
    result = run("inspect_records", f"--records_dir={bucket}/nothing")
    assert_one_line(result, 1, "cannot read the manifest", "nothing")
    flags = [f"--data_dir={sample_tree}", f"--work_dir={tmp_path}"]
    result = run("write_records", *flags, "--output_dir=s3://no-bucket/x")
    assert result.returncode == 1
    assert "s3://no-bucket/x" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_train_and_freeze_from_the_commands(bucket, sample_tree, tmp_path):
    records = f"{bucket}/for-training"
    flags = ["--image_size=24", "--num_shards=3", f"--work_dir={tmp_path}/work"]
    flags += [f"--data_dir={sample_tree}", f"--output_dir={records}"]
    result = run("write_records", *flags)
    assert result.returncode == 0, result.stderr
    train = [f"--records_dir={records}", "--task=gender", "--backbone=small_cnn"]
    train += ["--weights=none", "--stage=tuning", "--epochs=1", "--image_size=24"]
    train += ["--schedule=constant"]  # So that the run can go on for longer.
    train += ["--global_batch_size=64", f"--run_dir={tmp_path}/run"]
    # The engine on the bucket, or on copies where TensorFlow has no s3://.
    result = run("train", *train)
    assert result.returncode == 0, result.stderr
    if tensorflow_io_extra.why_no_scheme("s3"):
        assert "the shards are copied to" in result.stderr
    else:
        assert "graph engine for train" in result.stderr
    # The mapped engine on what was fetched.
    cache = [f"--cache_dir={tmp_path}/cache", "--engine=mapped", "--epochs=2"]
    result = run("train", *train, *cache)
    assert result.returncode == 0, result.stderr
    assert "mapped engine for train" in result.stderr
    manifest = json.loads((tmp_path / "run" / "config.json").read_text())
    assert manifest["engine"] == "mapped"
    shards = [n for n in os.listdir(tmp_path / "cache") if n.startswith("shard-")]
    assert len(shards) >= 3
    evaluate = [f"--run_dir={tmp_path}/run", f"--records_dir={records}", *cache[:2]]
    result = run("evaluate", *evaluate, "--bootstrap_samples=0", "--nopictures")
    assert result.returncode == 0, result.stderr
    result = run(
        *("benchmark_input", f"--records_dir={records}", *cache[:2], "--seconds=0.2")
    )
    assert result.returncode == 0, result.stderr
    small = [*train, *cache, "--cache_dir_gib=1e-6", "--epochs=3"]
    assert_last_line(run("train", *small), 1, "--cache_dir may hold 0 MiB")
    # A frozen graph.
    freeze = [f"--run_dir={tmp_path}/run", "--output_name=faces"]
    freeze += [f"--mean_json={records}/mean.json"]
    result = run("freeze", *freeze, f"--output_dir={bucket}/graph")
    assert result.returncode == 0, result.stderr
    image = next(iter(sorted((pathlib.Path(sample_tree)).rglob("*.jpg"))))
    result = run("predict", f"--graph={bucket}/graph/faces.pb", str(image))
    assert result.returncode == 0, result.stderr
    assert_last_line(
        run("freeze", *freeze, "--output_dir=s3://no-bucket/graph"),
        1,
        "cannot",
        "no-bucket",
    )
    wrong = [f"--records_dir={bucket}/other", f"--run_dir={tmp_path}/new", *train[1:-1]]
    assert_last_line(run("train", *wrong), 1, "cannot read the manifest", "other")


def assert_last_line(result, status, *words):
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("afad-") and all(word in line for word in words), line
