"""Local copies of remote shards; TensorFlow's file system in memory is the remote."""

from __future__ import annotations

import itertools
import os
import threading
import types

import numpy as np
import pytest

from afad_tfdata import input_fn
from afad_tfdata.common import errors, files, remote_files
from afad_tfdata.reading import engine_choice, index_loading, shard_cache
from afad_tfdata.storage import schema

_numbers = itertools.count()


@pytest.fixture
def remote(sample_records):
    """A remote copy of the sample records."""
    import tensorflow as tf

    shard_cache._checked.clear()
    directory = f"ram://records-{next(_numbers)}"
    for name in os.listdir(sample_records):
        if os.path.isfile(os.path.join(sample_records, name)):
            with tf.io.gfile.GFile(f"{directory}/{name}", "wb") as f:
                f.write(files.read_bytes(os.path.join(sample_records, name)))
    return directory


@pytest.fixture
def fetched(monkeypatch):
    """Names of the shards that were fetched."""
    names, fetch = [], shard_cache._fetch_shard

    def counted(path, *more):
        names.append(os.path.basename(path))
        fetch(path, *more)

    monkeypatch.setattr(shard_cache, "_fetch_shard", counted)
    return names


def shards_of(records_dir, split="train"):
    return schema.load_manifest(records_dir).split(split).shards


def test_the_mapped_engine_reads_remote_records(remote, sample_records, tmp_path):
    def batches(records_dir, **more):
        config = input_fn.InputConfig(
            records_dir=records_dir,
            image_size=16,
            global_batch_size=16,
            engine="mapped",
            **more,
        )
        dataset = input_fn.train_input_fn(config).take(12)
        return [f["image"] for f, _ in dataset.as_numpy_iterator()]

    with pytest.raises(errors.UsageError, match="name a --cache_dir"):
        batches(remote)
    cached = batches(remote, cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(cached, batches(sample_records))


@pytest.mark.parametrize(
    ("is_remote", "named", "warned"), [(0, 1, True), (0, 0, False), (1, 1, False)]
)
def test_a_cache_for_local_records_is_said_not_to_be_used(
    is_remote, named, warned, remote, sample_records, tmp_path, caplog
):
    config = input_fn.InputConfig(
        records_dir=remote if is_remote else str(sample_records),
        cache_dir=str(tmp_path) if named else "",
    )
    engine_choice.create(
        config, index_loading.open_index(config, "train"), shuffled=True
    )
    assert ("--cache_dir is not used for train" in caplog.text) == warned


def test_threads_fetch_each_shard_once(remote, fetched, tmp_path):
    shards = shards_of(remote)
    threads = [
        threading.Thread(
            target=shard_cache.fetch_shards, args=(remote, shards, str(tmp_path), 0)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == sorted(shard.name for shard in shards)
    for shard in shards:
        assert files.sha256(f"{tmp_path}/shard-{shard.sha256}") == shard.sha256


@pytest.mark.parametrize("same_size", [True, False])
def test_a_damaged_file_is_fetched_again(same_size, remote, fetched, tmp_path, caplog):
    shards = shards_of(remote)
    path = shard_cache.fetch_shards(remote, shards, str(tmp_path), 0)[0]
    shard_cache._checked.clear()  # As another process sees it.
    with open(path, "r+b") as f:
        f.write(b"other") if same_size else f.truncate(5)
    fetched.clear()
    shard_cache.fetch_shards(remote, shards, str(tmp_path), 0)
    assert fetched == [shards[0].name] and "is damaged" in caplog.text
    assert files.sha256(path) == shards[0].sha256


def test_a_remote_shard_of_other_content_is_refused(remote, tmp_path):
    shards = shards_of(remote)
    files.write_atomic(f"{remote}/{shards[0].name}", b"x" * shards[0].num_bytes)
    with pytest.raises(errors.DataError, match="another SHA-256 than the manifest"):
        shard_cache.fetch_shards(remote, shards, str(tmp_path), 0)
    assert os.listdir(tmp_path) == [".lock"]


def test_files_used_longest_ago_are_removed_for_room(remote, fetched, tmp_path):
    train, test = shards_of(remote), shards_of(remote, "test")
    old = shard_cache.fetch_shards(remote, test, str(tmp_path), 0)
    for path in old:
        os.utime(path, (1, 1))
    (tmp_path / "fetching-shard-of-a-killed-process").write_bytes(b"half")
    needed = sum(shard.num_bytes for shard in train)
    kept = shard_cache.fetch_shards(remote, train, str(tmp_path), needed / (1 << 30))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".lock", *(os.path.basename(path) for path in kept)]
    )
    with pytest.raises(errors.UsageError, match="raise --cache_dir_gib"):
        shard_cache.fetch_shards(remote, train, str(tmp_path), (needed - 1) / (1 << 30))


def test_local_records_are_not_copied(sample_records, tmp_path):
    source = index_loading.load_split(sample_records, "train", str(tmp_path / "cache"))
    assert source.paths[0].startswith(sample_records)
    assert not (tmp_path / "cache").exists()


def test_records_that_tensorflow_cannot_open_are_copied_to_the_users_cache(
    remote, fetched, tmp_path, monkeypatch, caplog
):
    def refuse(path):
        raise errors.UsageError(f"{path} needs the file system")

    own = types.SimpleNamespace(gfile=refuse)
    monkeypatch.setattr(index_loading, "remote_files", own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level("INFO"):
        index = index_loading.load_split(remote, "train")
    assert index.local and fetched
    assert all(path.startswith(str(tmp_path)) for path in index.paths)
    assert "the shards are copied to" in caplog.text
    # Data servers on other machines would not find the copies.
    config = input_fn.InputConfig(records_dir=remote, data_service="grpc://a:5000")
    with pytest.raises(
        errors.UsageError, match="--data_service.*--cache_dir"
    ) as caught:
        index_loading.open_index(config, "train")
    assert "\n" not in str(caught.value)


def test_reading_from_s3_is_remembered_for_the_end_of_the_process(monkeypatch):
    """tensorflow-io aborts in an ordinary exit after its operations used S3."""
    monkeypatch.setattr(remote_files, "_used", set())
    monkeypatch.setattr(
        remote_files.tensorflow_io_extra, "require_scheme", lambda path: None
    )
    assert index_loading._needed_shard_cache("s3://bucket/records") == ""
    assert remote_files.aborts_at_exit()
