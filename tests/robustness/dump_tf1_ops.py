"""Writes afad_tfdata/tf1_ops.json: the operations that TensorFlow 1.15 knows.

``python -m tests.robustness.dump_tf1_ops DIR`` reads them off the runtime that
``tests/robustness/tf1_runtime.py DIR`` unpacked.  The table has, by operation, its
attributes, each with the values it may take: DataType numbers for types, strings for
strings, null for no limit.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import tensorflow as tf

PATH = pathlib.Path(__file__).parents[2] / "afad_tfdata/freezing/tf1_ops.json"


def table(serialized: bytes) -> dict[str, dict[str, list | None]]:
    """The content of the table, from a serialized OpList."""
    # The public way to that protocol buffer is the field that holds one.
    operations = tf.compat.v1.MetaGraphDef().meta_info_def.stripped_op_list
    operations.ParseFromString(serialized)
    return {
        op.name: {attr.name: _allowed(attr) for attr in op.attr}
        for op in sorted(operations.op, key=lambda op: op.name)
    }


def op_list(wheel_dir: str) -> bytes:
    """The registry of the runtime, read in a process without another TensorFlow."""
    code = (
        "import sys; from tests.robustness import tf1_runtime;"
        "sys.stdout.buffer.write(tf1_runtime.Runtime(sys.argv[1]).op_list())"
    )
    command = [sys.executable, "-c", code, wheel_dir]
    done = subprocess.run(command, cwd=PATH.parents[2], stdout=-1, check=True)
    return done.stdout


def dumps(content: dict) -> str:
    """One operation a line, so that a change shows as one."""
    lines = [
        f"{json.dumps(name)}:{json.dumps(attrs, separators=(',', ':'))}"
        for name, attrs in content.items()
    ]
    return "{" + ",\n".join(lines) + "}\n"


def _allowed(attr) -> list | None:
    if not attr.HasField("allowed_values"):
        return None
    allowed = attr.allowed_values.list
    return sorted(allowed.type) or sorted(v.decode() for v in allowed.s)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.robustness.dump_tf1_ops DIR")
    PATH.write_text(dumps(table(op_list(sys.argv[1]))))
    print(PATH)
