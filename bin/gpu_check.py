#!/usr/bin/env python3
"""Tries and measures training on this machine's GPUs, and prints one table.

It compares results, replicas, resuming and speed with their targets.  The exit status
is 1 if a target is missed.  It needs neither a network nor data.
"""

from afad_tfdata import gpu_check
from afad_tfdata.bin import command

EXAMPLE = "afad-gpu-check --output_dir=gpu_check"


def main(config: gpu_check.GpuCheckConfig, arguments: list[str]) -> command.Output:
    """Runs the GPU check."""
    del arguments
    result = gpu_check.check(config)
    return command.Output(result.text(), result.to_dict(), int(bool(result.missed)))


def run() -> None:
    """Entry point of ``afad-gpu-check``."""
    command.run(main, gpu_check.GpuCheckConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
