#!/usr/bin/env python3
"""Speed of writing records, compared with limits and the usual ways to write them.

    benchmarks/write.py [--images 4000] [--rounds 3] [--tree FOLDER]

Each contestant runs in a process of its own, in turn, for several rounds.  A line shows
the median rate with the smallest and the largest, the share of the limit with decoding
in the same run, the bytes on disk for each image, and the largest memory of all its
processes together.  The images are drawn faces; those beyond 2,000 are copies that a
JPEG comment makes distinct.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

IMAGE_SIZE = 150
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="faces to draw")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument(
        "--tree", default="", help="folder of faces to write; default: drawn faces"
    )
    parser.add_argument(
        "--only",
        default="",
        help=f"names, separated by commas, of: {', '.join(CONTESTANTS)}",
    )
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measure(*arguments.run)))
        return
    with tempfile.TemporaryDirectory() as place:
        tree = arguments.tree or draw(os.path.join(place, "faces"), arguments.images)
        wanted = arguments.only.split(",") if arguments.only else list(CONTESTANTS)
        results: dict[str, list[dict]] = {name: [] for name in wanted}
        for _ in range(arguments.rounds):
            for name in wanted:
                out = os.path.join(place, "out")
                command = [sys.executable, __file__, "--run", name, tree, out]
                answer = observe(command)
                shutil.rmtree(out, ignore_errors=True)
                if answer is None:
                    wanted = [other for other in wanted if other != name]
                else:
                    results[name].append(answer)
    table(results)


def table(results: dict[str, list[dict]]) -> None:
    """Prints a line for each contestant."""
    rates = {n: [r["rate"] for r in runs] for n, runs in results.items() if runs}
    limit = statistics.median(rates.get(LIMIT, [float("nan")]))
    print(f"{'':46}{'images/s':>9} {'(min-max)':>17} {'of limit':>9}", end="")
    print(f" {'bytes/image':>12} {'memory MB':>10}")
    for name, values in rates.items():
        run = results[name][0]
        median = statistics.median(values)
        spread = f"({min(values):,.0f}-{max(values):,.0f})"
        print(
            f"{CONTESTANTS[name][0]:46}{median:>9,.0f} {spread:>17}"
            f" {median / limit:>9.2f} {run['bytes']:>12,.0f} {run['memory']:>10,.0f}"
        )


def measure(name: str, tree: str, out: str) -> dict:
    """Runs one contestant in this process."""
    paths = sorted(
        os.path.join(folder, file)
        for folder, _, files in os.walk(tree)
        for file in files
        if file.endswith(".jpg")
    )
    for path in paths:  # So that every contestant finds a warm page cache.
        with open(path, "rb") as f:
            f.read()
    os.makedirs(out, exist_ok=True)
    function = CONTESTANTS[name][1]
    prepared = function(paths, tree, out)
    started = time.perf_counter()
    prepared()
    seconds = time.perf_counter() - started
    size = sum(
        os.path.getsize(os.path.join(folder, file))
        for folder, _, files in os.walk(out)
        for file in files
    )
    return {
        "rate": len(paths) / seconds,
        "bytes": size / len(paths),
    }


def observe(command: list[str]) -> dict | None:
    """Runs a contestant; its result, with the peak memory of its processes in MB."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(own_bytes, descendants(process.pid))))
        time.sleep(0.02)
    output, problem = process.communicate()
    if process.returncode:
        print(f"{command[-3]}: {problem.strip().splitlines()[-1]}")
        return None
    return {**json.loads(output.splitlines()[-1]), "memory": peak / 1e6}


def descendants(pid: int) -> list[int]:
    """A process, and the processes that it started."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as f:
                    found += map(int, f.read().split())
        except OSError:
            pass  # The process has just ended.
    return found


def own_bytes(pid: int) -> int:
    """Resident memory of a process, without pages of files, which processes share."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith("RssAnon"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def draw(folder: str, count: int) -> str:
    """Draws faces; those beyond 2,000 are copies with a JPEG comment."""
    from afad_tfdata.images import drawn_faces

    drawn = min(count, 2000)
    config = drawn_faces.SampleConfig(output_dir=folder, num_images=drawn, seed=1)
    first = drawn_faces.make_sample(config)
    for i in range(drawn, count):
        path = os.path.join(folder, first[i % drawn])
        with open(path, "rb") as f:
            data = f.read()
        comment = b"\xff\xfe\0\x0a" + b"%08d" % i
        copy = os.path.join(os.path.dirname(path), f"{900000 + i}-0.jpg")
        with open(copy, "wb") as f:
            f.write(data[:2] + comment + data[2:])
    return folder


def read_files(paths, tree, out):
    def run():
        for path in paths:
            with open(path, "rb", buffering=0) as f:
                f.read()

    return run


def decode_limit(paths, tree, out):
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)  # OpenCV may start no threads of its own.

    def decode(part):
        for path in part:
            with open(path, "rb", buffering=0) as f:
                data = f.read()
            image = simplejpeg.decode_jpeg(
                data, "RGB", fastdct=False, fastupsample=False
            )
            small = cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE))
            # By channel, which is the fastest way in OpenCV.
            [cv2.sumElems(channel) for channel in cv2.split(small)]

    def run():
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(decode, [paths[i::THREADS] for i in range(THREADS)]))

    return run


def ours(**flags):
    def prepare(paths, tree, out):
        from afad_tfdata import records

        config = records.WriteConfig(
            data_dir=tree, output_dir=out, num_workers=THREADS, **flags
        )
        return lambda: records.write_records(config)

    return prepare


def tfds_builder(paths, tree, out):
    import numpy as np
    import tensorflow_datasets as tfds

    class Afad(tfds.core.GeneratorBasedBuilder):
        """AFAD, written as in the guide of TFDS."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "age": np.int64,
                "gender": tfds.features.ClassLabel(names=["male", "female"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for path in paths:
                age, gender, name = path.split("/")[-3:]
                yield (
                    f"{age}/{gender}/{name}",
                    {"image": path, "age": int(age), "gender": int(gender) - 111},
                )

    builder = Afad(data_dir=out)
    return builder.download_and_prepare


def example_loop(paths, tree, out):
    import tensorflow as tf

    def run():
        with tf.io.TFRecordWriter(os.path.join(out, "faces.tfrecord")) as writer:
            for path in paths:
                age, gender, _ = path.split("/")[-3:]
                with open(path, "rb") as f:
                    data = f.read()
                feature = {
                    "image": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[data])
                    ),
                    "age": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[int(age)])
                    ),
                    "gender": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[int(gender) - 111])
                    ),
                }
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())

    return run


def float_packer(paths, tree, out):
    """The original project's packer: a float32 file for each of its random splits.

    Keras loads and resizes the images (nearest neighbour), lists collect the means of
    each image, and a thousand images at a time go from a list to the file.
    """
    import random

    import h5py
    import numpy as np
    from keras.utils import img_to_array, load_img

    def write_split(name, paths):
        shape = (len(paths), IMAGE_SIZE, IMAGE_SIZE, 3)
        means, images, labels, start = [], [], [], 0
        with h5py.File(os.path.join(out, f"{name}.hdf5"), "w") as f:
            data = f.create_dataset("data", shape, dtype="float32")
            targets = f.create_dataset("labels", (len(paths),), dtype="int")
            for i, path in enumerate(paths):
                image = load_img(path, target_size=shape[1:3], interpolation="nearest")
                array = img_to_array(image)
                if name == "training":
                    means.append(array.mean(axis=(0, 1)))
                images.append(array)
                labels.append(int(path.split("/")[-2] != "111"))
                if len(images) == 1000 or i + 1 == len(paths):
                    data[start : start + len(images)] = images
                    targets[start : start + len(images)] = labels
                    images, labels, start = [], [], i + 1
        return np.mean(means, axis=0) if means else None

    def run():
        mixed = random.Random(1).sample(paths, len(paths))
        for name, share in (("test", 0.2), ("validation", 0.2), ("training", 1.0)):
            count = int(len(mixed) * share)
            write_split(name, mixed[:count])
            mixed = mixed[count:]

    return run


LIMIT = "decode"
# By name: the label in the table, and a function that returns what is timed.
CONTESTANTS = {
    "read": ("limit: read every file, 1 thread", read_files),
    LIMIT: ("limit: read, decode, resize, sum, 2 threads", decode_limit),
    "original": ("afad_tfdata, TFRecord, original", ours()),
    "jpeg": ("afad_tfdata, TFRecord, jpeg", ours(image_encoding="jpeg")),
    "raw": ("afad_tfdata, TFRecord, raw", ours(image_encoding="raw")),
    "hdf5": ("afad_tfdata, HDF5", ours(format="hdf5")),
    "example": ("tf.train.Example loop, nothing checked", example_loop),
    "tfds": ("TFDS builder, nothing checked", tfds_builder),
    "packer": ("original project: Keras, float32 HDF5", float_packer),
}


if __name__ == "__main__":
    main()
