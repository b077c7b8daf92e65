"""Servers of ``tf.data`` service: machines that read and decode for a training.

One dispatcher knows the workers and hands shards out to them; the training takes
batches from all workers::

    afad-data-service --host=a --port=5000                            # the dispatcher
    afad-data-service --host=b --port=5001 --dispatcher=grpc://a:5000   # a worker
    afad-train --data_service=grpc://a:5000 ...

Shards are handed out while they last: without failures each example comes once in an
epoch, from whichever worker was free.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from afad_tfdata.common import errors, options, preemption
from afad_tfdata.common.lazy import tf

_LOOK_SECS = 0.2
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataServiceConfig:
    """Which server, and where it is reached."""

    dispatcher: str = options.option(
        "", "grpc://HOST:PORT: be a worker of this dispatcher; default: be one."
    )
    host: str = options.option(
        "localhost", "Name of this machine, under which the others reach it."
    )
    port: int = options.option(0, "0: any that is free; the log names it.")
    work_dir: str = options.option(
        "", "Where a dispatcher keeps what it needs to be started again."
    )

    def __post_init__(self) -> None:
        if self.dispatcher:
            parse(self.dispatcher, flag="dispatcher")
        if self.dispatcher and self.work_dir:
            raise errors.UsageError(
                "--work_dir is the dispatcher's: leave it out with --dispatcher"
            )
        if not 0 <= self.port < 1 << 16:
            raise errors.UsageError(f"--port lies in [0, 65535]; got {self.port}")


def parse(address: str, *, flag: str = "data_service") -> str:
    """``host:port`` of ``grpc://host:port``; `UsageError` for another form."""
    if not re.fullmatch(r"grpc://[^/\s]+:\d{1,5}", address):
        raise errors.UsageError(
            f"--{flag} takes an address like grpc://host:5000; got {address!r}"
        )
    return address.removeprefix("grpc://")


def serve(config: DataServiceConfig) -> str:
    """Serves until a signal asks for the end.

    Returns:
      What was served, for people.

    Raises:
      UsageError: The port is taken.
    """
    try:
        what, server = _start(config)
    except (tf.errors.OpError, RuntimeError) as error:
        raise errors.UsageError(
            f"cannot serve at port {config.port}: {errors.one_line(error)}; take"
            " another --port"
        ) from error
    _log.info("%s; SIGTERM ends it", what)
    while not preemption.requested():
        time.sleep(_LOOK_SECS)
    del server
    return f"{what}: ended by {preemption.reason()}"


def _start(config: DataServiceConfig) -> tuple[str, Any]:
    service = tf.data.experimental.service
    if not config.dispatcher:
        server = service.DispatchServer(
            service.DispatcherConfig(
                port=config.port,
                protocol="grpc",
                work_dir=config.work_dir or None,
                fault_tolerant_mode=bool(config.work_dir),
            )
        )
        port = server.target.rpartition(":")[2]
        return f"dispatcher at grpc://{config.host}:{port}", server
    port = config.port or "%port%"
    address = f"{config.host}:{port}"
    server = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=parse(config.dispatcher, flag="dispatcher"),
            worker_address=address,
            port=config.port,
            protocol="grpc",
            data_transfer_address=address,
        )
    )
    return f"worker of {config.dispatcher}", server


def distribute(epochs: Sequence[Any], address: str) -> Any:
    """Epochs that the service's workers read, one after the other, endlessly.

    Args:
      epochs: Data sets whose first stage counts shards; TensorFlow operations only.
      address: ``grpc://host:port`` of the dispatcher.

    Returns:
      The same elements; in an epoch in another order.
    """
    service = tf.data.experimental.service
    read = service.distribute(
        processing_mode=service.ShardingPolicy.DYNAMIC,
        service=f"grpc://{parse(address)}",
        compression=None,  # Pixels do not get smaller by much.
    )
    served = [epoch.apply(read) for epoch in epochs]
    return functools.reduce(lambda a, b: a.concatenate(b), served).repeat()
