"""Fixtures: drawn faces, records of them, and strategies on logical CPU devices.

TensorFlow is set up once for the whole session, before any test uses it.  A second
MirroredStrategy in one process would reuse the first one's collective keys, so no test
creates one: `replicas` is the object that ``--devices=cpu:2`` gives.  There are two
devices; test_three_replicas starts a session of its own with `DEVICES_VARIABLE` set.
"""

from __future__ import annotations

import logging
import os
import pathlib

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests never download: an attempt fails at once, and not after minutes.
os.environ.setdefault("TFDS_DATA_DIR", os.devnull)

from afad_tfdata.images import drawn_faces  # noqa: E402

NUM_FACES = 240
DEVICES_VARIABLE = "AFAD_TEST_DEVICES"
NUM_DEVICES = int(os.environ.get(DEVICES_VARIABLE, "2"))


@pytest.fixture(scope="session", autouse=True)
def logical_devices():
    """Names of the logical CPU devices, created before TensorFlow's runtime starts."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
    )
    tf.config.set_visible_devices([], "GPU")
    return [device.name for device in tf.config.list_logical_devices("CPU")]


@pytest.fixture(autouse=True)
def same_log_levels():
    """A command sets log levels, and here it runs in the process of the tests."""
    loggers = [logging.getLogger(), logging.getLogger("afad_tfdata")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def one_replica(logical_devices):
    """The default strategy: one device, no replication."""
    import tensorflow as tf

    return tf.distribute.get_strategy()


@pytest.fixture(scope="session")
def replicas(logical_devices):
    """The process's one MirroredStrategy, over all logical CPU devices."""
    from afad_tfdata.training.distributed import strategies

    # Through the package, which keeps it: a run with --devices=cpu:2 gets this object.
    return strategies.create_strategy(f"cpu:{len(logical_devices)}")


@pytest.fixture(scope="session")
def two_replicas(replicas):
    """`replicas`, for tests that need exactly two."""
    assert replicas.num_replicas_in_sync == 2
    return replicas


@pytest.fixture(scope="session")
def sample_tree(tmp_path_factory) -> str:
    """A tree of `NUM_FACES` drawn faces, in folders like AFAD's.  Do not change it."""
    directory = tmp_path_factory.mktemp("faces") / "AFAD-Drawn"
    drawn_faces.make_sample(
        drawn_faces.SampleConfig(
            output_dir=str(directory), num_images=NUM_FACES, seed=5
        )
    )
    return str(directory)


@pytest.fixture(scope="session")
def sample_records(sample_tree, tmp_path_factory) -> str:
    """A TFRecord data set of `sample_tree` with original JPEGs.  Do not change it."""
    from afad_tfdata import records

    directory: pathlib.Path = tmp_path_factory.mktemp("records") / "tfrecord"
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=str(directory),
            image_size=48,
            num_shards=3,
            num_workers=1,
        )
    )
    return str(directory)
