"""A writer's worker: ``python -m afad_tfdata.write_worker ROOT WORK_DIR PARENT``.

Reads shard numbers from standard input, one a line, and answers on standard output
with lines of JSON: ``{"images": n}`` while it works, ``{"shard": number}`` when a shard
is done, ``{"error": text}`` when it cannot go on.  A plain process and not a fork: it
holds numpy and the decode library only, whatever the caller has loaded.  It ends when
its parent does: what it would write then is for the next run to write.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from afad_tfdata import errors, plan, shard_writer


def main(argv: list[str]) -> int:
    """Serves shards until its input ends."""
    root, directory, parent = argv
    work_plan = plan.load(directory)

    def say(**value: Any) -> None:
        if os.getppid() != int(parent):
            os._exit(1)
        try:
            print(json.dumps(value), flush=True)
        except BrokenPipeError:
            os._exit(1)

    for line in sys.stdin:
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
