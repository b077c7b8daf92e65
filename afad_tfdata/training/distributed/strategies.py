"""Turns the names of devices into a ``tf.distribute`` strategy.

====================  ======================================================
``--devices``         what trains
====================  ======================================================
(empty)               every GPU that TensorFlow sees, else the CPU
``cpu``               the CPU
``cpu:2``             two logical devices on the CPU, to try out replication
``gpu:0,gpu:1``       these GPUs
====================  ======================================================

For a single device, no mirrored strategy is made: results are the same, and nothing is
copied.  A process has one strategy for each set of devices, because a second
MirroredStrategy on the same devices would reuse the collective keys of the first.

In a job of several workers, the flag names the devices of each worker, and one
MultiWorkerMirroredStrategy contains all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from afad_tfdata.common import eager, errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training.distributed import cluster

ALL_REDUCE = ("auto", "nccl", "hierarchical", "one_device")

_log = logging.getLogger(__name__)
# The strategies of this process by the names of their devices, each with the way in
# which it sums gradients.
_made: dict[tuple[str, ...], tuple[tf.distribute.Strategy, str]] = {}


def create_strategy(
    devices: str = "", *, all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """Creates the strategy that trains on these devices.

    Args:
      devices: As in the module's table.
      all_reduce: How gradients are summed over GPUs: ``nccl``, or
        ``hierarchical`` or ``one_device`` where NCCL does not work; ``auto`` leaves
        the choice to TensorFlow.

    Returns:
      A ``tf.distribute.Strategy``; the same object for the same devices.  A warning
      says if that object sums gradients in another way than asked for.

    Raises:
      UsageError: A device does not exist here, the text names no device, or the caller
        builds a graph or is in the scope of a strategy.
    """
    eager.require()
    names = device_names(devices)
    if names in _made:
        strategy, made_with = _made[names]
        if len(names) > 1 and all_reduce not in ("auto", made_with):
            _log.warning(
                "--all_reduce=%s has no effect: this process already uses these devices"
                " with --all_reduce=%s; start another process",
                all_reduce,
                made_with,
            )
        return strategy
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
            replaced = _without_broken_nccl(strategy, names)
            if replaced is not strategy:
                strategy, all_reduce = replaced, "hierarchical"
    _made[names] = strategy, all_reduce
    return strategy


def create_worker_strategy(
    found: cluster.Cluster, devices: str = "", *, all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """Creates the strategy of all workers of a job, after waiting for them to start.

    Args:
      found: The job.
      devices: The devices of this worker, as in the module's table without ``cpu:2``.
        All workers must have the same number of devices.
      all_reduce: ``auto``, ``nccl``, or another value for a ring over the network:
        ``hierarchical`` and ``one_device`` only exist within one machine.

    Raises:
      UsageError: A device does not exist here, or several CPU devices are asked for.
    """
    if re.fullmatch(r"cpu:([2-9]|\d\d+)", devices.replace(" ", "").lower()):
        raise errors.UsageError(
            f"--devices={devices} creates logical devices, which do not work with"
            " several workers: use --devices=cpu and start more workers"
        )
    names = device_names(devices)
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
    """Whether some replicas of a strategy are in other processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """The number of a strategy's replicas in this process."""
    if strategy.num_replicas_in_sync == 1:
        return 1
    return len(strategy.extended.worker_devices)


def describe_strategy(strategy: tf.distribute.Strategy) -> str:
    """One line: the number of a strategy's replicas and where they are."""
    devices = _local_devices(strategy)
    where = ", ".join(devices)
    if spans_workers(strategy):
        where += f" of {strategy.num_replicas_in_sync // len(devices)} workers"
    return f"{strategy.num_replicas_in_sync} replica(s) on {where}"


def uses_gpus(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy's replicas in this process are on GPUs."""
    return any(device.startswith("GPU") for device in _local_devices(strategy))


def _local_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """The devices of a strategy's replicas in this process, as ``GPU:0``."""
    try:
        workers = strategy.extended.worker_devices
    except RuntimeError:  # The default strategy names no device; it uses the first.
        kinds = [d.device_type for d in tf.config.list_logical_devices()]
        workers = ["GPU:0" if "GPU" in kinds else "CPU:0"]
    return [device.split("device:")[-1] for device in workers]


def local_value(
    strategy: tf.distribute.Strategy, variable: keras.Variable | tf.Variable
) -> Any:
    """The value of a strategy's variable on the first replica of this process.

    Returns:
      A numpy array.  All replicas of a mirrored variable have the same value.
    """
    value = getattr(variable, "value", variable)
    if callable(value):  # tf.Variable.value is a method, keras.Variable's a property.
        value = variable
    return strategy.experimental_local_results(value)[0].numpy()


def local_values(
    strategy: tf.distribute.Strategy, variables: Iterable[keras.Variable]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path and the `local_value` of each of a strategy's variables."""
    for variable in variables:
        yield variable.path, local_value(strategy, variable)


def device_names(devices: str) -> tuple[str, ...]:
    """The devices of a strategy, from ``--devices``: TensorFlow's names, as ``GPU:0``.

    Creates logical CPU devices, and lets the memory of GPUs grow.

    Args:
      devices: As in the module's table.

    Raises:
      UsageError: A device does not exist here, or the text names no device.
    """
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
                " afad-doctor shows why"
            )
        names.append(f"GPU:{match.group(1)}")
    if len(set(names)) != len(names):
        raise errors.UsageError(f"--devices names a device twice: {devices!r}")
    return tuple(names)


def _make_logical_cpus(count: int) -> None:
    """Splits the CPU for a strategy; TensorFlow allows this before it is first used."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        current = tf.config.get_logical_device_configuration(cpu)
        if current is None or len(current) < count:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
    except RuntimeError:
        pass  # TensorFlow is already running: check whether it has enough devices.
    have = len(tf.config.list_logical_devices("CPU"))
    if have < count:
        raise errors.UsageError(
            f"--devices=cpu:{count} needs {count} logical CPU devices, but TensorFlow"
            f" already runs with {have} in this process: create the strategy before"
            " TensorFlow is first used"
        )


def _grow_memory(gpus: list[Any]) -> None:
    """Lets a strategy's GPUs allocate memory as needed, and leave some to others."""
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # TensorFlow is already running: its setting cannot be changed.


def _without_broken_nccl(
    strategy: tf.distribute.Strategy, names: tuple[str, ...]
) -> tf.distribute.Strategy:
    """The strategy itself if its GPUs sum correctly, else one without NCCL.

    On some machines NCCL starts, but then fails or sums wrongly, because there is too
    little shared memory or no peer access.  One small sum shows that at once.
    """

    def total() -> Any:
        """A sum over the GPUs."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones([1]))

    try:
        run = tf.function(strategy.run, autograph=False)
        results = strategy.experimental_local_results(run(total))
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
    """How the replicas of a strategy sum gradients, by the name of the way."""
    return {
        "auto": lambda: None,
        "nccl": tf.distribute.NcclAllReduce,
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
        "one_device": tf.distribute.ReductionToOneDevice,
    }[all_reduce]()
