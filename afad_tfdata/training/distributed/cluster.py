"""Finds the machines of a training job in ``TF_CONFIG`` or in Slurm's variables.

::

    found = cluster.find()      # None: this process works alone
    found.addresses, found.index, found.is_chief

Worker 0 is the chief.  ``TF_CONFIG`` is a JSON text that each worker gets with its own
``index``::

    {"cluster": {"worker": ["a:4000", "b:4000"]},
     "task": {"type": "worker", "index": 0}}

A Slurm job step of several tasks (``srun --ntasks=4``) needs no ``TF_CONFIG``: Slurm
tells each task the hosts and the task's number.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf

# First port of the workers of a Slurm job, below the ports that systems choose
# themselves for outgoing connections.
_FIRST_PORT, _PORTS = 15_000, 10_000


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a job, two or more.

    Attributes:
      addresses: ``host:port`` of each worker, the chief's first.
      index: Which of them this process is.
      origin: Where this was read, for messages: ``TF_CONFIG`` or Slurm.
    """

    addresses: tuple[str, ...]
    index: int
    origin: str

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the job's files."""
        return self.index == 0


def find(environment: Mapping[str, str] | None = None) -> Cluster | None:
    """The cluster that ``TF_CONFIG`` or Slurm names; None for a process that is alone.

    Args:
      environment: Environment variables to read; by default those of the process.

    Raises:
      UsageError: ``TF_CONFIG`` or Slurm's variables are not valid.
    """
    environment = os.environ if environment is None else environment
    if text := environment.get("TF_CONFIG", "").strip():
        return _of_tf_config(text)
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdigit() and int(tasks) > 1:
        return _of_slurm(environment)
    return None


def refuse_several_workers(what: str) -> None:
    """Raises `UsageError` if this process is one of several workers of a cluster.

    For work that each of them would repeat.

    Args:
      what: The flag or command that runs in one process only.
    """
    if found := find():
        raise errors.UsageError(
            f"{what} runs on one machine, and {found.origin} names"
            f" {len(found.addresses)} workers: start it as one process"
        )


def _of_tf_config(text: str) -> Cluster | None:
    """The cluster that ``TF_CONFIG`` describes."""
    try:
        value = json.loads(text)
        jobs, task = value.get("cluster") or {}, value.get("task") or {}
        if not jobs:
            return None
        others = sorted(set(jobs) - {"chief", "worker"})
        if others:
            raise errors.UsageError(
                "TF_CONFIG: training takes the jobs chief and worker; got also"
                f" {', '.join(others)}: leave it out"
            )
        chiefs, workers = list(jobs.get("chief", ())), list(jobs.get("worker", ()))
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        addresses = tuple(str(address) for address in (*chiefs, *workers))
        if len(chiefs) > 1 or task["type"] not in jobs:
            raise ValueError("one chief at most, and a task of a job that is there")
        if not 0 <= index < len(addresses) or len(set(addresses)) != len(addresses):
            raise ValueError("an index within the job, and each address once")
        if not all(a.rpartition(":")[2].isdigit() for a in addresses):
            raise ValueError("each address as host:port")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.UsageError(
            'TF_CONFIG is JSON like {"cluster": {"worker": ["a:4000", "b:4000"]},'
            ' "task": {"type": "worker", "index": 0}}; got'
            f" {errors.one_line(text)} ({errors.one_line(repr(error))})"
        ) from error
    return Cluster(addresses, index, "TF_CONFIG") if len(addresses) > 1 else None


def _of_slurm(environment: Mapping[str, str]) -> Cluster:
    """The cluster that Slurm's variables describe."""
    job = environment.get("SLURM_JOB_ID", "0")
    base = _FIRST_PORT + (int(job) % _PORTS if job.isdigit() else 0)
    try:
        # Its numbers of GPUs are not used: each worker uses all that it sees.
        resolver: Any = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=base, gpus_per_node=1 << 10, gpus_per_task=1, auto_set_gpu=False
        )
        addresses = tuple(
            resolver.cluster_spec().task_address("worker", i)
            for i in range(int(environment["SLURM_STEP_NUM_TASKS"]))
        )
        # The resolver sorts hosts by name, so that n10 comes before n2, but Slurm
        # numbers tasks by its own list.  A task therefore looks for its own host.
        host = environment["SLURMD_NODENAME"]
        index = addresses.index(f"{host}:{base + int(environment['SLURM_LOCALID'])}")
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise errors.UsageError(
            "this is a Slurm job step of several tasks, but its variables do not say"
            f" where they run ({errors.one_line(repr(error))}): start one task, or"
            " name the workers in TF_CONFIG"
        ) from error
    return Cluster(addresses, index, "Slurm")
