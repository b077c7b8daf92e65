"""Writes afad_tfdata/freezing/tf1_ops.json: the operations of TensorFlow 1.15.

    python -m tests.robustness.dump_tf1_ops DIR

DIR is where ``python -m tests.robustness.tf1_runtime DIR`` unpacked that version.  For
each operation the table has its attributes, and for each attribute the values that it
may take: DataType numbers for types, strings for strings, null for any value.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import tensorflow as tf

PATH = pathlib.Path(__file__).parents[2] / "afad_tfdata/freezing/tf1_ops.json"


def table(serialized: bytes) -> dict[str, dict[str, list | None]]:
    """The content of the table, from a serialized OpList."""
    # TensorFlow does not export the OpList message; this field of another one is one.
    operations = tf.compat.v1.MetaGraphDef().meta_info_def.stripped_op_list
    operations.ParseFromString(serialized)
    return {
        op.name: {attr.name: _allowed(attr) for attr in op.attr}
        for op in sorted(operations.op, key=lambda op: op.name)
    }


def op_list(wheel_dir: str) -> bytes:
    """The operations of the runtime, read in a process without another TensorFlow."""
    code = (
        "import sys; from tests.robustness import tf1_runtime;"
        "sys.stdout.buffer.write(tf1_runtime.Runtime(sys.argv[1]).op_list())"
    )
    command = [sys.executable, "-c", code, wheel_dir]
    done = subprocess.run(
        command, cwd=PATH.parents[2], stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def dumps(content: dict) -> str:
    """JSON with one operation a line, so that a diff shows which ones changed."""
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


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="where tf1_runtime unpacked TensorFlow 1.15")
    options = parser.parse_args()
    PATH.write_text(dumps(table(op_list(options.directory))))
    print(PATH)


if __name__ == "__main__":
    main()
