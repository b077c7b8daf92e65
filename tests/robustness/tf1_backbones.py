"""Every backbone frozen, and run in the TensorFlow 1.15 runtime and in OpenCV.

``make test-tf1-all`` runs this program.  Each backbone gets random weights, the batch
statistics of random images, and the smallest image size from ``--min_size`` that it
takes, in a process of its own.  The outputs are compared with those of Keras, and the
lines of the table in ``docs/freezing.md`` are printed::

    python -m tests.robustness.tf1_backbones --wheel_dir=.venv/tf1 --only=VGG19,ResNet50

The exit status is 1 if 1.15 or OpenCV returned something else than Keras.  That OpenCV
does not read a graph is no error: the table says so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

# If a backbone refuses a size, the next one is tried.
SIZES = (32, 64, 71, 75, 96, 128, 224, 331)
BATCH = 2


def measure(name, min_size, wheel_dir):
    """One backbone: its size in pixels, and differences by reader and by label."""
    from afad_tfdata.common import errors
    from afad_tfdata.common.lazy_imports import keras
    from afad_tfdata.freezing import model_source, verification, verification_images
    from tests.freezing import small_graphs
    from tests.robustness import tf1_runtime

    for size in (s for s in SIZES if s >= min_size):
        try:
            model = small_graphs.build(backbone=name, image_size=size)
            break
        except errors.UsageError as error:
            refused = error
            keras.backend.clear_session()
    else:
        raise refused
    small_graphs.calibrate(model, small_graphs.noise(8, size))
    source = model_source.from_model(model)
    with tempfile.TemporaryDirectory() as directory:
        path, nodes = small_graphs.frozen_file(_Directory(directory), source)
        images = small_graphs.noise(BATCH, size)
        expected = verification_images.expected_outputs(source, images)
        case = verification.Case("random", images, expected, is_image=False)
        rounding = verification_images.own_difference(source, [case])
        feeds = {"root_input": images}
        found = tf1_runtime.run(wheel_dir, path, feeds, list(nodes.values()))
        result = {
            "backbone": name,
            "size": size,
            "megabytes": os.path.getsize(path) / 1e6,
            "expected": {k: float(np.ptp(v)) for k, v in expected.items()},
            "rounding": rounding,
            "tf1": differences(found, nodes, expected),
        }
        one = {label: value[:1] for label, value in expected.items()}
        read = by_opencv(path, images[:1], list(nodes.values()))
        result["opencv"] = (
            read if isinstance(read, str) else differences(read, nodes, one)
        )
    return result


class _Directory(str):
    """What `small_graphs.frozen_file` needs of a path."""

    def __truediv__(self, name):
        return os.path.join(self, name)


def differences(found, nodes, expected):
    """The largest difference by label."""
    return {
        label: float(
            np.abs(found[node].reshape(-1) - expected[label].reshape(-1)).max()
        )
        for label, node in nodes.items()
    }


def by_opencv(path, images, names):
    """Outputs by name; the reason where OpenCV does not read the graph."""
    import cv2

    try:
        net = cv2.dnn.readNetFromTensorflow(path)
        net.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        outputs = net.forward(names)
    except cv2.error as error:
        return str(error.err or error).strip().replace("\n", " ")
    arrays = [o[0] if isinstance(o, list | tuple) else o for o in outputs]
    return dict(zip(names, map(np.asarray, arrays), strict=True))


# OpenCV's convolutions round more than those of TensorFlow.
_ROUNDING = {"tf1": 1, "opencv": 20}


def allowed(result, reader, label):
    """What rounding explains: for 1.15, as freezing does for random input."""
    unit = 1e-5 * (72 if label == "age" else 1)
    return max(_ROUNDING[reader] * unit, 4 * result["rounding"][label])


def wrong(result):
    """The readers that returned something else than Keras."""
    return [
        reader
        for reader in ("tf1", "opencv")
        if not isinstance(result[reader], str)
        and any(v > allowed(result, reader, k) for k, v in result[reader].items())
    ]


def row(result):
    """A line of the table."""
    tf1, cv = result["tf1"], result["opencv"]
    read = "not read" if isinstance(cv, str) else f"{cv['age']:.1e}, {cv['gender']:.1e}"
    if "opencv" in wrong(result):
        read = f"wrong: {read}"
    own = result["rounding"]
    return (
        f"| {result['backbone']} | {result['size']} | {tf1['age']:.1e} |"
        f" {tf1['gender']:.1e} | {own['age']:.1e}, {own['gender']:.1e} | {read} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wheel_dir", required=True)
    parser.add_argument("--min_size", type=int, default=64)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--json_file", default="", help="one line for each backbone")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.min_size, args.wheel_dir)))
        return 0
    from afad_tfdata.models import backbones

    # The package's own networks are in the list too.
    names = args.only.split(",") if args.only else backbones.names()
    print("| backbone | pixels | age | gender | rounding | OpenCV |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    failed = []
    for name in names:
        # A process for each: TensorFlow does not give back the memory of a network.
        command = [sys.executable, "-m", "tests.robustness.tf1_backbones"]
        command += [f"--one={name}", f"--wheel_dir={args.wheel_dir}"]
        command += [f"--min_size={args.min_size}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            print(f"{name}: {done.stderr[-800:]}", file=sys.stderr, flush=True)
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        if wrong(result):
            failed.append(name)
        if args.json_file:
            with open(args.json_file, "a", encoding="utf-8") as f:
                f.write(json.dumps(result) + "\n")
        print(row(result), flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} equal Keras", flush=True)
    if failed:
        print(f"not equal: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
