"""A writer process, which `writer_pool` starts.

It gets the number of its parent and the descriptor of a socket, on which the parent
sends

1. the writer's lock, which the process keeps until it ends;
2. a line of JSON, ``[root, work_dir]``;
3. the numbers of shards, one a line.

It answers on the same socket with lines of JSON: ``{"images": n}`` while it works,
``{"shard": number}`` after each shard, and ``{"error": text}`` before it gives up.
Libraries may print what they like on its standard output.

It is a new process and not a fork, so that it loads only numpy and the library that
decodes, whatever its parent has loaded.  It ends when its parent ends.  The next run
writes the missing shards.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.writing import payloads, plan

# A file descriptor can only be sent together with at least one byte.
LOCK_BYTE = b"L"


def main(argv: list[str]) -> int:
    """Writes payloads until its input ends; returns the exit status."""
    parent, descriptor = map(int, argv)
    payloads.prepare()
    channel = socket.socket(fileno=descriptor)
    # The received descriptor stays open until this process ends, and keeps the lock.
    if socket.recv_fds(channel, len(LOCK_BYTE), 1)[0] != LOCK_BYTE:
        return 0  # There was nothing to write.
    lines = channel.makefile()
    root, directory = json.loads(lines.readline())
    work_plan = plan.load(directory)

    def send(**value: Any) -> None:
        # If the parent was killed, this process has another parent.
        if os.getppid() != parent:
            os._exit(1)
        try:
            channel.sendall(f"{json.dumps(value)}\n".encode())
        except OSError:  # The parent has ended, or has closed the socket.
            os._exit(1)

    for line in lines:
        send(images=0)
        task = work_plan.tasks[int(line)]
        try:
            payloads.write(
                root, work_plan, task, directory, lambda count: send(images=count)
            )
        except errors.AfadError as error:
            send(error=str(error))
            return error.exit_status
        except MemoryError:
            send(error=f"a writer process ran out of memory in {task.name}")
            return 1
        except Exception as error:  # A library cannot be loaded, for example.
            reason = errors.one_line(repr(error))
            send(error=f"a writer process failed in {task.name}: {reason}")
            return 1
        send(shard=task.number)
    return 0
