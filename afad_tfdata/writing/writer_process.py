"""A writer's worker: ``python -m afad_tfdata.writing.writer_process PARENT``.

Its standard input is a socket.  First comes the writer's lock, which it holds from then
on; then a line of JSON, ``[root, work_dir]``; then shard numbers, one a line.  It
answers on standard output with lines of JSON: ``{"images": n}`` while it works,
``{"shard": number}`` when a shard is done, ``{"error": text}`` when it cannot go on.
A plain process and not a fork: it holds numpy and the decode library only, whatever the
caller has loaded.  It ends when its parent does: what it would write then is for the
next run to write.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.writing import plan, shard_writer

# The byte that the lock comes with.
LOCK = b"L"


def main(argv: list[str]) -> int:
    """Serves shards until its input ends."""
    parent = int(argv[0])
    shard_writer.prepare()
    channel = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    # The lock that comes here is held by being open, until this process ends.
    if socket.recv_fds(channel, len(LOCK), 1)[0] != LOCK:
        return 0  # There was nothing to write.
    lines = channel.makefile()
    root, directory = json.loads(lines.readline())
    work_plan = plan.load(directory)

    def say(**value: Any) -> None:
        if os.getppid() != parent:
            os._exit(1)
        try:
            print(json.dumps(value), flush=True)
        except BrokenPipeError:
            os._exit(1)

    for line in lines:
        say(images=0)
        task = work_plan.tasks[int(line)]
        try:
            shard_writer.write_payload(
                root, work_plan, task, directory, lambda count: say(images=count)
            )
        except errors.AfadError as error:
            say(error=str(error))
            return error.exit_status
        except MemoryError:
            say(error=f"a worker ran out of memory in {task.name}")
            return 1
        except Exception as error:  # A library that does not load, say.
            say(error=f"a worker failed in {task.name}: {errors.one_line(repr(error))}")
            return 1
        say(shard=task.number)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
