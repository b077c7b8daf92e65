"""Cores and memory that this process may use, within the limits of its container."""

from __future__ import annotations

import math
import os
import resource

# Files of control groups, version 2 and version 1: the limit, and the memory in use.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
# The CPU time that may be used in each period, and that period, in microseconds: one
# file in version 2, two files in version 1.
_CPU_MAX = "/sys/fs/cgroup/cpu.max"
_CPU_CFS = (
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
)


def available_bytes() -> int:
    """Bytes of memory that this process can still allocate, within its container."""
    found = [
        limit - used + _droppable_bytes(os.path.dirname(used_file))
        for limit_file, used_file in _LIMITS
        if (limit := _kernel_number(limit_file))
        and (used := _kernel_number(used_file)) is not None
    ]
    try:
        with open("/proc/meminfo") as f:
            values = dict(line.split(":", 1) for line in f)
        found.append(int(values["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        # Not Linux: half of all memory is a guess that is rarely too high.
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(0, min(found))


def cores() -> int:
    """The cores that this process may use: the machine's, or the container's quota."""
    # Batch systems and containers pin a process to a part of the machine's cores.
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity.
        count = os.cpu_count() or 1
    quota = _cpu_quota()
    # Rounded up, so that a part of a core is used as well: 1.5 cores get two threads.
    return max(1, min(count, math.ceil(quota))) if quota else count


def own_memory_bytes() -> int:
    """The memory of this process without mapped files, in bytes."""
    try:
        with open("/proc/self/status") as f:
            values = dict(line.split(":", 1) for line in f)
        return int(values["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not on Linux: the largest use so far, with mapped files.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mib(num_bytes: float) -> str:
    """An amount of memory in MiB, for a message."""
    return f"{num_bytes / (1 << 20):,.0f} MiB"


def _cpu_quota() -> float:
    """The cores that a container allows on average; 0 for no limit."""
    try:
        with open(_CPU_MAX) as f:
            quota, period = f.read().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass  # No control groups, or those of version 1.
    allowed, period_1 = (_kernel_number(path) for path in _CPU_CFS)
    # -1 stands for no limit.
    return allowed / period_1 if allowed and period_1 and allowed > 0 else 0.0


def _droppable_bytes(group: str) -> int:
    """The memory of a container that is cached files, which the kernel can drop."""
    try:
        with open(os.path.join(group, "memory.stat")) as f:
            values = dict(line.split() for line in f)
        return int(values.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


def _kernel_number(path: str) -> int | None:
    """The number in a file of the kernel, such as the memory limit of a container."""
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):  # "max" stands for no limit.
        return None
