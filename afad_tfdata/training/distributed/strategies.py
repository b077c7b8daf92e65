"""Devices by name, as a ``tf.distribute`` strategy.

====================  ======================================================
``--devices``         what trains
====================  ======================================================
(empty)               every GPU that TensorFlow sees, else the CPU
``cpu``               the CPU
``cpu:2``             two logical devices on the CPU, to try out replication
``gpu:0,gpu:1``       these GPUs
====================  ======================================================

One device gets no mirrored strategy: the same numbers without the copies.  A process
has one strategy for each set of devices, since a second MirroredStrategy on the same
devices reuses the first one's collective keys.

Under several workers the flag names the devices of each, and one
MultiWorkerMirroredStrategy holds all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.distributed import cluster

ALL_REDUCE = ("auto", "nccl", "hierarchical", "one_device")

_log = logging.getLogger(__name__)
_made: dict[tuple[str, ...], tf.distribute.Strategy] = {}


def create_strategy(
    devices: str = "", *, all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """The strategy for these devices.

    Args:
      devices: As in the module's table.
      all_reduce: How gradients are summed over GPUs: ``nccl``, or
        ``hierarchical`` or ``one_device`` where NCCL does not work; ``auto`` leaves
        the choice to TensorFlow.

    Returns:
      A ``tf.distribute.Strategy``; the same object for the same devices.

    Raises:
      UsageError: A device that is not here, or a text that names none.
    """
    names = _device_names(devices)
    if names in _made:
        return _made[names]
    if len(names) == 1:
        # On a GPU, OneDeviceStrategy copies batches to it ahead of time; the default
        # strategy would copy when the step asks for them.
        strategy = (
            tf.distribute.get_strategy()
            if names[0] == "CPU:0" and not tf.config.list_logical_devices("GPU")
            else tf.distribute.OneDeviceStrategy(f"/{names[0]}")
        )
    else:
        strategy = tf.distribute.MirroredStrategy(
            list(names), cross_device_ops=_cross_device_ops(all_reduce)
        )
        if all_reduce == "auto" and names[0].startswith("GPU"):
            strategy = _checked(strategy, names)
    _made[names] = strategy
    return strategy


def create_worker_strategy(
    found: cluster.Cluster, devices: str = "", *, all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """The strategy of all workers of a job; waits until they are there.

    Args:
      found: The job.
      devices: Of this worker, as in the module's table without ``cpu:2``; as many on
        each worker.
      all_reduce: ``nccl``, or anything else than ``auto`` for a ring over the network
        (``hierarchical`` and ``one_device`` are ways within one machine).

    Raises:
      UsageError: A device that is not here, or several on the CPU.
    """
    if re.fullmatch(r"cpu:([2-9]|\d\d+)", devices.replace(" ", "").lower()):
        raise errors.UsageError(
            f"--devices={devices} makes logical devices, which several workers cannot"
            " have: take --devices=cpu, and more workers"
        )
    names = _device_names(devices)
    gpus = tf.config.list_physical_devices("GPU")
    used = [gpus[int(n.partition(":")[2])] for n in names if n.startswith("GPU")]
    tf.config.set_visible_devices(used, "GPU")
    choices = tf.distribute.experimental.CommunicationImplementation
    way = {"auto": choices.AUTO if used else choices.RING, "nccl": choices.NCCL}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(found.addresses)}),
        task_type="worker",
        task_id=found.index,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(
        resolver,
        tf.distribute.experimental.CommunicationOptions(
            implementation=way.get(all_reduce, choices.RING)
        ),
    )


def spans_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether some replicas are in other processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def describe(strategy: tf.distribute.Strategy) -> str:
    """One line: the number of replicas and where they are."""
    try:
        workers = strategy.extended.worker_devices
    except RuntimeError:  # The default strategy does not know; it takes the first.
        kinds = [d.device_type for d in tf.config.list_logical_devices()]
        workers = ["GPU:0" if "GPU" in kinds else "CPU:0"]
    devices = [device.split("device:")[-1] for device in workers]
    where = ", ".join(devices)
    if spans_workers(strategy):
        where += f" of {strategy.num_replicas_in_sync // len(devices)} workers"
    return f"{strategy.num_replicas_in_sync} replica(s) on {where}"


def mirrored_model(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """The model itself if the strategy has its variables, else a mirrored copy."""
    if strategy.num_replicas_in_sync == 1:
        return model
    # A Keras variable wraps the TensorFlow variable, which knows its strategy; one that
    # was created outside of any scope has no such attribute.
    if all(
        getattr(getattr(v, "value", v), "distribute_strategy", None) is strategy
        for v in model.variables
    ):
        return model
    _log.info("the model was created outside the strategy's scope: training a copy")
    with strategy.scope():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    return copy


def local_value(
    strategy: tf.distribute.Strategy, variable: keras.Variable | tf.Variable
) -> Any:
    """The value of a Keras or TensorFlow variable on the first local replica.

    Returns:
      numpy array; for a mirrored variable every replica holds the same.
    """
    value = getattr(variable, "value", variable)
    if callable(value):  # tf.Variable.value is a method, keras.Variable's a property.
        value = variable
    return strategy.experimental_local_results(value)[0].numpy()


def local_values(
    strategy: tf.distribute.Strategy, variables: Iterable[keras.Variable]
) -> Iterator[tuple[str, np.ndarray]]:
    """Path and `local_value` of each variable, one at a time."""
    for variable in variables:
        yield variable.path, local_value(strategy, variable)


def _device_names(devices: str) -> tuple[str, ...]:
    gpus = tf.config.list_physical_devices("GPU")
    _grow_memory(gpus)
    text = devices.replace(" ", "").lower()
    if not text:
        return tuple(f"GPU:{i}" for i in range(len(gpus))) or ("CPU:0",)
    if text == "cpu":
        return ("CPU:0",)
    if match := re.fullmatch(r"cpu:([1-9]\d?)", text):
        count = int(match.group(1))
        _make_logical_cpus(count)
        return tuple(f"CPU:{i}" for i in range(count))
    names = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"gpu:(\d+)", part)):
            raise errors.UsageError(
                "--devices takes names like gpu:0,gpu:1 or cpu or cpu:2 (two logical"
                f" devices); got {devices!r}"
            )
        if int(match.group(1)) >= len(gpus):
            raise errors.UsageError(
                f"--devices names {part}, but TensorFlow sees {len(gpus)} GPU(s) here;"
                " afad-doctor tells why"
            )
        names.append(f"GPU:{match.group(1)}")
    if len(set(names)) != len(names):
        raise errors.UsageError(f"--devices names a device twice: {devices!r}")
    return tuple(names)


def _make_logical_cpus(count: int) -> None:
    """Splits the CPU, which TensorFlow allows before its first use only."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        current = tf.config.get_logical_device_configuration(cpu)
        if current is None or len(current) < count:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
    except RuntimeError:
        pass  # Already running: what is there must do.
    have = len(tf.config.list_logical_devices("CPU"))
    if have < count:
        raise errors.UsageError(
            f"--devices=cpu:{count} needs {count} logical CPU devices; this process"
            f" already runs with {have}: ask for them before TensorFlow is first used"
        )


def _grow_memory(gpus: list[Any]) -> None:
    """Lets a GPU be shared: memory is taken as needed and not all at once."""
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # Already running; its setting stays.


def _checked(
    strategy: tf.distribute.Strategy, names: tuple[str, ...]
) -> tf.distribute.Strategy:
    """The strategy if its GPUs can sum, else one that sums without NCCL.

    On some machines NCCL starts and then fails, or sums wrongly, for want of shared
    memory or peer access: one small sum shows that at once.
    """

    def total() -> Any:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones([1]))

    try:
        results = strategy.experimental_local_results(tf.function(strategy.run)(total))
        if all(float(result[0]) == len(names) for result in results):
            return strategy
        reason = "it sums wrongly"
    except tf.errors.OpError as error:
        reason = errors.one_line(error.message)
    _log.warning(
        "the GPUs cannot sum by NCCL (%s): --all_reduce=hierarchical is used", reason
    )
    return tf.distribute.MirroredStrategy(
        list(names), cross_device_ops=_cross_device_ops("hierarchical")
    )


def _cross_device_ops(all_reduce: str) -> Any:
    return {
        "auto": lambda: None,
        "nccl": tf.distribute.NcclAllReduce,
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
        "one_device": tf.distribute.ReductionToOneDevice,
    }[all_reduce]()
