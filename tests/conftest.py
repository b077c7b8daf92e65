"""Fixtures: drawn faces, records of them, and strategies on logical CPU devices.

TensorFlow is set up once for the whole run, before any test touches it.  A second
MirroredStrategy in one process would reuse the first one's collective keys, hence the
session-scoped fixtures.  There are two devices; a run with another number in
`DEVICES_VARIABLE` is started by test_three_replicas.
"""

from __future__ import annotations

import os
import pathlib

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests never download: a look-up that forgets this fails at once and not in minutes.
os.environ.setdefault("TFDS_DATA_DIR", os.devnull)

from afad_tfdata.images import drawn_faces  # noqa: E402

NUM_FACES = 240
DEVICES_VARIABLE = "AFAD_TEST_DEVICES"
NUM_DEVICES = int(os.environ.get(DEVICES_VARIABLE, "2"))


@pytest.fixture(scope="session", autouse=True)
def logical_devices():
    """Logical CPU devices, made before TensorFlow starts its runtime."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
    )
    tf.config.set_visible_devices([], "GPU")
    return [device.name for device in tf.config.list_logical_devices("CPU")]


@pytest.fixture(scope="session")
def one_replica(logical_devices):
    """The default strategy: one device, no replication."""
    import tensorflow as tf

    return tf.distribute.get_strategy()


@pytest.fixture(scope="session")
def replicas(logical_devices):
    """MirroredStrategy over all logical CPU devices."""
    import tensorflow as tf

    names = [f"CPU:{i}" for i in range(len(logical_devices))]
    return tf.distribute.MirroredStrategy(names)


@pytest.fixture(scope="session")
def two_replicas(replicas):
    """MirroredStrategy over both logical CPU devices."""
    assert replicas.num_replicas_in_sync == 2
    return replicas


@pytest.fixture(scope="session")
def sample_tree(tmp_path_factory) -> str:
    """A tree of `NUM_FACES` drawn faces, filed as AFAD is.  Do not change it."""
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
