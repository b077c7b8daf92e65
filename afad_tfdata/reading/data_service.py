"""Servers of a ``tf.data`` service: machines that read and decode for a training.

One dispatcher knows the data servers and distributes shards to them; the training takes
batches from all data servers::

    afad-data-service --host=a --port=5000                              # dispatcher
    afad-data-service --host=b --port=5001 --dispatcher=grpc://a:5000   # data server
    afad-train --data_service=grpc://a:5000 ...

When a data server has read a shard, it asks for the next one.  If no server fails, each
example comes exactly once in an epoch.

TensorFlow calls a data server a worker.  In this package, a worker is a process of a
training job.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import socket
import time
from collections.abc import Sequence

from afad_tfdata.common import (
    errors,
    grpc_proxy,
    options,
    preemption,
    remote_files,
    tensorflow_io_extra,
)
from afad_tfdata.common.lazy_imports import tf

# The main thread checks for a signal at this interval.
_POLL_SECS = 0.2
# A dispatcher that does not answer is named in the log at this interval.
_WARNING_SECS = 30.0
_CONNECTION_TIMEOUT_SECS = 2.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataServiceConfig:
    """Which server to run, and at which address."""

    dispatcher: str = options.option(
        "",
        "Address grpc://HOST:PORT of the dispatcher that this data server works for."
        " Without this flag, the process is a dispatcher itself.",
    )
    host: str = options.option(
        "localhost", "Name under which the other machines reach this one."
    )
    port: int = options.option(
        0, "Port to listen at; 0 takes any free port, and the log names it."
    )
    work_dir: str = options.option(
        "",
        "Directory in which a dispatcher keeps its state, so that it can be started"
        " again. Without this flag, the state is lost with the process.",
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.dispatcher:
            parse_address(self.dispatcher, flag="dispatcher")
        if self.dispatcher and self.work_dir:
            raise errors.UsageError(
                "--work_dir is for a dispatcher: leave it out with --dispatcher"
            )
        if not 0 <= self.port < 1 << 16:
            raise errors.UsageError(
                f"--port must be between 0 and 65535; got {self.port}"
            )


def parse_address(address: str, *, flag: str = "data_service") -> str:
    """Returns the ``host:port`` in the ``grpc://host:port`` of a ``tf.data`` service.

    Args:
      address: As the user gave it.
      flag: The flag that contains the address, for the error.

    Raises:
      UsageError: The address has another form.
    """
    parts = re.fullmatch(r"grpc://[^/\s]+:(\d{1,5})", address)
    if not parts or int(parts[1]) >= 1 << 16:
        raise errors.UsageError(
            f"--{flag} takes an address like grpc://host:5000; got {address!r}"
        )
    return address.removeprefix("grpc://")


def serve(config: DataServiceConfig) -> str:
    """Runs a server of a ``tf.data`` service until a signal asks the process to stop.

    Returns:
      A summary: which server ran, and why it stopped.

    Raises:
      PreemptedError: A data server was stopped before its dispatcher answered.
      UsageError: The port is taken.
    """
    try:
        what, server = _start_server(config)
    except (tf.errors.OpError, RuntimeError) as error:
        raise errors.UsageError(
            f"cannot serve at port {config.port}: {errors.one_line(error)}; choose"
            " another --port"
        ) from error
    _log.info("%s; SIGTERM stops it", what)
    while not preemption.requested():
        time.sleep(_POLL_SECS)
    # A server of TensorFlow stops when its object is deleted.
    del server
    return f"{what}: stopped by {preemption.reason()}"


def _await_dispatcher(address: str) -> None:
    """Returns when a dispatcher accepts connections at ``host:port``.

    TensorFlow waits for it too, but says nothing, and no signal ends its wait.  If
    gRPC connects through a proxy, only TensorFlow waits.

    Raises:
      PreemptedError: A signal asked the process to stop.
    """
    if grpc_proxy.is_used():
        return
    host, port = address.rsplit(":", 1)
    next_warning = time.monotonic()
    while True:
        try:
            # [::1] is an address of IPv6 as gRPC writes it; sockets take it bare.
            target = (host.removeprefix("[").removesuffix("]"), int(port))
            socket.create_connection(target, _CONNECTION_TIMEOUT_SECS).close()
            return
        except (OSError, OverflowError, UnicodeError) as error:
            reason = errors.one_line(error)
        if preemption.requested():
            raise errors.PreemptedError(
                f"no dispatcher answered at grpc://{address} ({reason}), and"
                f" {preemption.reason()} asked to stop"
            )
        if time.monotonic() >= next_warning:
            _log.warning(
                "waiting for the dispatcher: cannot connect to grpc://%s: %s; start it"
                " there, or stop this process and correct the address",
                address,
                reason,
            )
            next_warning = time.monotonic() + _WARNING_SECS
        time.sleep(_POLL_SECS)


def _start_server(
    config: DataServiceConfig,
) -> tuple[
    str,
    tf.data.experimental.service.DispatchServer
    | tf.data.experimental.service.WorkerServer,
]:
    """Starts a dispatcher or data server, and returns its name and the server."""
    grpc_proxy.ignore_http_proxy()
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
    dispatcher = parse_address(config.dispatcher, flag="dispatcher")
    _await_dispatcher(dispatcher)
    # Trainings say later which records to read.  TensorFlow must know s3:// by then.
    # Without tensorflow-io, a data server reads only what TensorFlow itself can open.
    if not tensorflow_io_extra.why_no_scheme("s3"):
        remote_files.gfile("s3://")
    # TensorFlow replaces %port% with the free port that it found.
    port = config.port or "%port%"
    address = f"{config.host}:{port}"
    server = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=dispatcher,
            worker_address=address,
            port=config.port,
            protocol="grpc",
            # Without this, trainings get the name localhost.
            data_transfer_address=address,
        )
    )
    return f"data server of {config.dispatcher}", server


def read_by_servers(epochs: Sequence[tf.data.Dataset], address: str) -> tf.data.Dataset:
    """Returns endless epochs, one after the other, that the data servers read.

    Args:
      epochs: Data sets whose first transformation has one element for each shard.  They
        consist of TensorFlow operations only.
      address: ``grpc://host:port`` of the dispatcher.

    Returns:
      The same elements, in another order within each epoch.

    Raises:
      PreemptedError: A signal asked to stop before the dispatcher answered.
    """
    dispatcher = parse_address(address)
    grpc_proxy.ignore_http_proxy()
    _await_dispatcher(dispatcher)
    service = tf.data.experimental.service
    read = service.distribute(
        processing_mode=service.ShardingPolicy.DYNAMIC,
        service=f"grpc://{dispatcher}",
        # Compression takes time on both machines, and hardly makes pixels smaller.
        compression=None,
    )
    served = [epoch.apply(read) for epoch in epochs]
    return functools.reduce(lambda a, b: a.concatenate(b), served).repeat()
