#!/usr/bin/env python3
"""Speed of the input pipeline, compared with limits and the usual ways to read images.

    benchmarks/input.py [--images 4000] [--rounds 5] [--seconds 3] [--tree FOLDER]
                        [--batch_sizes 32 128 512] [--fresh] [--json FILE]
                        [--peers_python PYTHON]

Each contestant has a process of its own.  They run in turn, for several rounds, because
rates drift: compare only ratios within one run.  A line shows the median rate with the
smallest and the largest, the median share of the limit in the same round, the cores in
use, the memory (without mapped files) and the time to the first batch (without
imports).  All give shuffled batches of images of 150 x 150 pixels, 128 by default.

This package is measured in three ways: by ``next`` from Python; in a ``tf.function``,
as a training loop reads; and in the first pass, in which each pass over the data has a
new pipeline that knows nothing of the files, and whose start counts.

There are three limits: simplejpeg (accurate) and cv2.resize in two threads, from bytes
in memory into recycled arrays; the same without resizing; and rows gathered from a
memory map in two threads into recycled arrays.  The images are drawn faces.

``--fresh`` measures what a new job sees: each round starts each process anew and times
its first pass over the data, then its steady rate.  The clock starts with the call,
after the imports and after TensorFlow's own start; files are in the page cache.

``--peers_python`` names the interpreter of an environment with FFCV, DALI or PyTorch,
and adds their contestants: see input_peers.py.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import input_peers  # noqa: E402
import numpy as np  # noqa: E402

BATCH, SIZE, THREADS = 128, 150, 2
ROW = SIZE * SIZE * 3
STEPS_PER_CALL = 8  # As many as a training runs in one call, or fewer.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="faces to draw")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of a turn")
    parser.add_argument(
        "--tree", default="", help="folder of faces to read; default: drawn faces"
    )
    parser.add_argument(
        "--keep", default="", help="directory for the data sets, which is not removed"
    )
    parser.add_argument(
        "--only",
        default="",
        help=f"names, separated by semicolons, of: {'; '.join(CONTESTANTS)}",
    )
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[BATCH], help="images in a batch"
    )
    parser.add_argument("--fresh", action="store_true", help="time first passes")
    parser.add_argument("--json", default="", help="file for all results")
    parser.add_argument("--peers_python", default="", help="runs the other loaders")
    parser.add_argument("--contestant", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        name, place, batch_size, pass_images = arguments.contestant
        use_batch_size(int(batch_size))
        compete(name, place, int(pass_images))
        return
    place = arguments.keep or tempfile.mkdtemp(prefix="input-benchmark-")
    try:
        prepare(place, arguments.tree, arguments.images)
        wanted = arguments.only.split(";") if arguments.only else list(CONTESTANTS)
        peers = arguments.peers_python
        if peers:
            run_peers(peers, input_peers.__file__, place)
        else:
            wanted = [name for name in wanted if name not in input_peers.CONTESTANTS]
        found = {}
        for batch_size in arguments.batch_sizes:
            use_batch_size(batch_size)
            run = race_fresh if arguments.fresh else race
            found[batch_size] = run(
                place, wanted, arguments.rounds, arguments.seconds, peers
            )
        if arguments.json:
            with open(arguments.json, "w") as f:
                json.dump(found, f, indent=1)
    finally:
        if not arguments.keep:
            shutil.rmtree(place)


def use_batch_size(batch_size: int) -> None:
    """Sets the number of images in a batch, for all contestants of this process."""
    global BATCH
    BATCH = batch_size


def run_peers(python: str, *arguments: str) -> None:
    """Runs the interpreter of the other loaders, which gets this package's modules."""
    subprocess.run(
        [python, *arguments],
        check=True,
        env=peers_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def peers_environment() -> dict[str, str]:
    """Returns the environment in which other interpreters find this package."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {**os.environ, "PYTHONPATH": root}


def race(
    place: str, wanted: list[str], rounds: int, seconds: float, peers: str
) -> dict[str, list[dict]]:
    """Runs the contestants in turn, prints a table for each of their groups."""
    contestants: dict[str, Contestant] = {}
    for name in wanted:
        try:
            contestants[name] = Contestant(name, place, peers)
        except RuntimeError as error:
            print(f"{name}: left out: {error}")
    results: dict[str, list[dict]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            results[name].append(contestant.run(seconds))
    print_header(rounds, seconds)
    for group in ("original", "at size", "raw"):
        limit = f"{group}: limit"
        names = [name for name in results if name.startswith(f"{group}:")]
        if names:
            print(
                f"\n{group:<34}images/s  (min - max)        of limit  cores"
                "  MiB   first s"
            )
        for name in names:
            rates = [r["rate"] for r in results[name]]
            share = ""
            if limit in results:
                limits = [r["rate"] for r in results[limit]]
                ratios = [a / b for a, b in zip(rates, limits, strict=True)]
                share = f"{statistics.median(ratios):.3f}"
            cores = statistics.median(r["cores"] for r in results[name])
            print(
                f"  {name.split(': ')[1]:<30}{statistics.median(rates):>10,.0f}"
                f"  ({min(rates):>8,.0f} - {max(rates):>8,.0f})  {share:>6}"
                f"  {cores:5.2f}  {results[name][-1]['memory']:>6,.0f}"
                f"  {contestants[name].start['first']:6.2f}",
                flush=True,
            )
    for contestant in contestants.values():
        contestant.end()
    return results


def race_fresh(
    place: str, wanted: list[str], rounds: int, seconds: float, peers: str
) -> dict[str, list[dict]]:
    """Starts the contestants anew for each round; prints a table of first passes."""
    from afad_tfdata.reading import index_loading

    count = len(index_loading.load_split(os.path.join(place, "original"), "train"))
    results: dict[str, list[dict]] = {name: [] for name in wanted}
    for _ in range(rounds):
        for name in list(results):
            try:
                contestant = Contestant(name, place, peers, count)
            except RuntimeError as error:
                print(f"{name}: left out: {error}")
                del results[name]
                continue
            results[name].append({**contestant.start, **contestant.run(seconds)})
            contestant.end()
    print_header(rounds, seconds)
    print(
        f"\n{f'first pass over {count:,} images':<41}{'first s':>8}{'images/s':>9}"
        f"{'CPU us':>8}{'rest of it':>12}{'steady':>9}{'CPU us':>8}{'pass/steady':>13}"
    )
    for name, found in results.items():
        first, whole, rest, steady, pass_cpu, cpu = (
            statistics.median(r[key] for r in found)
            for key in ("first", "pass", "rest", "rate", "pass_cpu", "cpu")
        )
        share = statistics.median(r["pass"] / r["rate"] for r in found)
        print(
            f"  {name:<39}{first:>8.2f}{whole:>9,.0f}{pass_cpu * 1e6:>8.1f}"
            f"{rest:>12,.0f}{steady:>9,.0f}{cpu * 1e6:>8.1f}{share:>13.3f}"
        )
    return results


def print_header(rounds: int, seconds: float) -> None:
    """Prints the machine and the settings of a table."""
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores,"
        f" {datetime.date.today()}, {rounds} rounds of {seconds:g} s, batch {BATCH},"
        f" {SIZE} px"
    )


class Contestant:
    """A process that reads batches when it is told to."""

    def __init__(self, name: str, place: str, peers: str, pass_images: int = 0) -> None:
        is_peer = name in input_peers.CONTESTANTS
        self._process = subprocess.Popen(
            [
                *(peers if is_peer else sys.executable, __file__, "--contestant"),
                *(name, place, str(BATCH), str(pass_images)),
            ],
            env=peers_environment() if is_peer else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            text = self._process.stderr.read()  # type: ignore[union-attr]
            raise RuntimeError(
                text.strip().splitlines()[-1] if text else "its process ended"
            )
        self.start = json.loads(line)

    def run(self, seconds: float) -> dict:
        """Reads for so many seconds; what was measured."""
        print(seconds, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())  # type: ignore[union-attr]

    def end(self) -> None:
        """Ends the process, and waits for its end."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def compete(name: str, place: str, pass_images: int) -> None:
    """The process of a `Contestant`: prints a line at its start and for each turn.

    Args:
      name: Of the contestant.
      place: Directory of the data sets.
      pass_images: Images of its first pass, which is timed; 0 for one batch.
    """
    make, needs_tensorflow = CONTESTANTS[name]
    # Libraries may print to standard output; the parent must get our lines only.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if needs_tensorflow:
        import tensorflow as tf

        tf.constant(0)  # Starts the runtime, which the first batch must not pay for.
    elif name in input_peers.CONTESTANTS:
        input_peers.import_library(name)
    from afad_tfdata.common import resources

    used, began = cpu_seconds(), time.perf_counter()
    batches = make(place)
    images = first_images = next(batches)
    first = time.perf_counter() - began
    while images < pass_images:
        images += next(batches)
    took, used = time.perf_counter() - began, cpu_seconds() - used
    answer = {
        "first": first,
        "pass": images / took,
        "rest": (images - first_images) / (took - first),
        "pass_cpu": used / images,
    }
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        for _ in range(6):  # Batches that were prepared during the turns of the others.
            next(batches)
        before, began = cpu_seconds(), time.perf_counter()
        images = 0
        while (now := time.perf_counter()) < began + float(line):
            images += next(batches)
        used = cpu_seconds() - before
        answer = {
            "rate": images / (now - began),
            "cores": used / (now - began),
            "cpu": used / images,
            "memory": resources.own_memory_bytes() / (1 << 20),
        }
        print(json.dumps(answer), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # Threads of some contestants keep a process from ending.


def cpu_seconds() -> float:
    """CPU time of this process, and of those that it has started and that still run."""
    ticks = 0
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        for child in f.read().split():
            with contextlib.suppress(OSError), open(f"/proc/{child}/stat") as stat:
                # User and system time are the 14th and 15th field; the second one is
                # a name in brackets, and may contain spaces.
                ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def prepare(place: str, tree: str, count: int) -> None:
    """Writes records in five forms, and the faces as a folder for each class."""
    from afad_tfdata import records
    from afad_tfdata.images import drawn_faces

    if not tree:
        tree = os.path.join(place, "AFAD-Drawn")
        if not os.path.exists(tree):
            drawn_faces.make_sample(
                drawn_faces.SampleConfig(output_dir=tree, num_images=count)
            )
    for name, fields in {
        "original": {"dali_index": True},
        "jpeg": {"image_encoding": "jpeg", "dali_index": True},
        "raw": {"image_encoding": "raw"},
        "hdf5": {"format": "hdf5"},
        "hdf5_float": {"format": "hdf5", "hdf5_dtype": "float32"},
    }.items():
        config: dict[str, Any] = {"duplicates": "all", "conflicts": "all", **fields}
        records.write_records(
            records.WriteConfig(
                data_dir=tree,
                output_dir=os.path.join(place, name),
                image_size=SIZE,
                test_fraction=0.0,
                validation_fraction=0.0,
                **config,
            )
        )
    by_class = os.path.join(place, "by_class")
    if not os.path.exists(by_class):
        for directory, _, names in os.walk(tree):
            for name in (n for n in names if n.endswith(".jpg")):
                code = os.path.basename(directory)
                age = os.path.basename(os.path.dirname(directory))
                os.makedirs(os.path.join(by_class, code), exist_ok=True)
                target = os.path.join(by_class, code, f"{age}-{name}")
                os.symlink(os.path.abspath(os.path.join(directory, name)), target)


# The limits.


def limit_encoded(place: str, form: str) -> Iterator[int]:
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)  # OpenCV may start no threads of its own.
    data, _ = stored(place, form)

    def fill(batch: list[int], out: np.ndarray, scratch: np.ndarray) -> None:
        for row, record in zip(out, batch, strict=True):
            if form == "jpeg":
                simplejpeg.decode_jpeg(data[record], "RGB", buffer=row)
                continue
            image = simplejpeg.decode_jpeg(data[record], "RGB", buffer=scratch)
            cv2.resize(image, (SIZE, SIZE), row)

    return in_threads(len(data), fill)


def limit_rows(place: str, form: str) -> Iterator[int]:
    del form
    # One file of rows and nothing else, so that one call gathers a batch.
    path = os.path.join(place, "rows.bin")
    if not os.path.exists(path):
        data, _ = stored(place, "hdf5")
        with open(path, "wb") as f:
            f.writelines(data)
    rows = np.memmap(path, np.uint8, "r").reshape(-1, ROW)

    def fill(batch: list[int], out: np.ndarray, scratch: np.ndarray) -> None:
        np.take(rows, batch, axis=0, out=out.reshape(BATCH, ROW), mode="clip")

    return in_threads(len(rows), fill)


def stored(place: str, form: str) -> tuple[list[bytes], np.ndarray]:
    """The stored bytes of every image, and its age."""
    from afad_tfdata.reading import index_loading, memory_store

    source = index_loading.load_split(os.path.join(place, form), "train")
    return list(memory_store.stored_images(source)), source.entries["age"]


def in_threads(count: int, fill: Callable) -> Iterator[int]:
    """Batches that `THREADS` threads fill, each into two arrays of its own in turn."""
    from afad_tfdata.reading import array_pool

    wanted = threading.Semaphore(0)
    done = threading.Semaphore(0)

    def run(number: int) -> None:
        rng = np.random.default_rng(number)
        pool = array_pool.ArrayPool()
        arrays = [pool.take((BATCH, SIZE, SIZE, 3)) for _ in range(2)]
        scratch = np.empty(4096 * 4096 * 3, np.uint8)
        turn = 0
        while True:
            wanted.acquire()
            fill(rng.integers(0, count, BATCH).tolist(), arrays[turn], scratch)
            turn = 1 - turn
            done.release()

    for i in range(THREADS):
        threading.Thread(target=run, args=(i,), daemon=True).start()
    for _ in range(2 * THREADS):
        wanted.release()
    while True:
        done.acquire()
        wanted.release()
        yield BATCH


# This package.


def input_config(place: str, form: str, engine: str, decode: str = "accurate") -> Any:
    from afad_tfdata import input_fn

    return input_fn.InputConfig(
        records_dir=os.path.join(place, form),
        engine=engine,
        decode=decode,
        global_batch_size=BATCH,
        image_size=SIZE,
    )


def ours(place: str, form: str, engine: str) -> Iterator[int]:
    from afad_tfdata import input_fn

    for _ in input_fn.train_input_fn(input_config(place, form, engine)):
        yield BATCH


def ours_in_function(
    place: str, form: str, engine: str, decode: str = "accurate"
) -> Iterator[int]:
    import tensorflow as tf

    from afad_tfdata import input_fn

    batches = iter(input_fn.train_input_fn(input_config(place, form, engine, decode)))

    @tf.function
    def read() -> None:
        for _ in tf.range(STEPS_PER_CALL):
            next(batches)

    while True:
        read()
        yield STEPS_PER_CALL * BATCH


def ours_first_pass(place: str, form: str, engine: str) -> Iterator[int]:
    from afad_tfdata import input_fn
    from afad_tfdata.reading import shard_maps

    config = input_config(place, form, engine)
    steps = max(1, input_fn.num_examples(config, "train") // BATCH)
    while True:
        # As in a new process, whose files are in the page cache.
        shard_maps.forget_maps()
        batches = iter(input_fn.train_input_fn(config))
        for _ in range(steps):
            next(batches)
            yield BATCH
        del batches


# The usual ways.


def textbook(place: str, form: str) -> Iterator[int]:
    """TFRecords as in TensorFlow's guides: interleave, shuffle, map, batch."""
    import tensorflow as tf

    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "label/age": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: Any) -> Any:
        example = tf.io.parse_single_example(serialized, spec)
        image = tf.io.decode_jpeg(example["image/encoded"], channels=3)
        image = tf.image.resize(image, (SIZE, SIZE))
        return tf.cast(image, tf.uint8), example["label/age"]

    files = tf.data.Dataset.list_files(os.path.join(place, form, "*.tfrecord-*"))
    dataset = files.interleave(
        tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE
    )
    dataset = dataset.shuffle(10_000).repeat()
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    for _ in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        yield BATCH


def keras_directory(place: str, form: str) -> Iterator[int]:
    del form
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        os.path.join(place, "by_class"),
        image_size=(SIZE, SIZE),
        batch_size=BATCH,
        verbose=False,
    )
    for images, _ in dataset.repeat():
        yield images.shape[0]


def tfds(place: str, form: str) -> Iterator[int]:
    import tensorflow as tf
    import tensorflow_datasets as datasets

    builder = datasets.builder_from_directory(os.path.join(place, form))
    dataset = builder.as_dataset(split="train", shuffle_files=True)

    def resize(example: Any) -> Any:
        image = tf.image.resize(example["image"]["encoded"], (SIZE, SIZE))
        return tf.cast(image, tf.uint8), example["label"]["age"]

    dataset = dataset.shuffle(10_000).repeat()
    dataset = dataset.map(resize, num_parallel_calls=tf.data.AUTOTUNE)
    for _ in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        yield BATCH


def original_generator(place: str, form: str, augment: bool) -> Iterator[int]:
    """The original project's generator: h5py, a loop over images, Keras' generator.

    It reads batches from a float32 file, in the file's order.  For each image it splits
    the channels, subtracts their means and merges them.  `ImageDataGenerator` augments.
    """
    import cv2
    import h5py

    generator = None
    if augment:
        from tf_keras.preprocessing import image as keras_image

        generator = keras_image.ImageDataGenerator(
            rotation_range=20,
            zoom_range=0.15,
            width_shift_range=0.2,
            height_shift_range=0.2,
            shear_range=0.15,
            horizontal_flip=True,
            fill_mode="nearest",
        )
    directory = os.path.join(place, form)
    paths = sorted(
        os.path.join(directory, name)
        for name in os.listdir(directory)
        if name.endswith(".h5")
    )
    with open(os.path.join(directory, "mean.json")) as f:
        mean = json.load(f)
    while True:
        for path in paths:
            with h5py.File(path, "r") as f:
                for start in range(0, len(f["data"]), BATCH):
                    images = f["data"][start : start + BATCH]
                    labels = f["labels"][start : start + BATCH]
                    found = []
                    for image in images:
                        red, green, blue = cv2.split(image.astype("float32"))
                        red -= mean["R"]
                        green -= mean["G"]
                        blue -= mean["B"]
                        found.append(cv2.merge([red, green, blue]) / 127.5)
                    images = np.array(found)
                    if generator is not None:
                        images, labels = next(
                            generator.flow(images, labels, batch_size=BATCH)
                        )
                    yield len(images)


CONTESTANTS: dict[str, tuple[Callable[[str], Iterator[int]], bool]] = {
    "original: limit": (lambda p: limit_encoded(p, "original"), False),
    "original: mapped": (lambda p: ours(p, "original", "mapped"), True),
    "original: mapped in a tf.function": (
        lambda p: ours_in_function(p, "original", "mapped"),
        True,
    ),
    "original: mapped first pass": (
        lambda p: ours_first_pass(p, "original", "mapped"),
        True,
    ),
    "original: graph": (lambda p: ours(p, "original", "graph"), True),
    "original: tf.data textbook": (lambda p: textbook(p, "original"), True),
    "original: Keras directory": (lambda p: keras_directory(p, ""), True),
    "original: TFDS": (lambda p: tfds(p, "original"), True),
    "at size: limit": (lambda p: limit_encoded(p, "jpeg"), False),
    "at size: mapped": (lambda p: ours(p, "jpeg", "mapped"), True),
    "at size: mapped in a tf.function": (
        lambda p: ours_in_function(p, "jpeg", "mapped"),
        True,
    ),
    "at size: mapped decode=fast": (
        lambda p: ours_in_function(p, "jpeg", "mapped", "fast"),
        True,
    ),
    "at size: mapped first pass": (
        lambda p: ours_first_pass(p, "jpeg", "mapped"),
        True,
    ),
    "at size: graph": (lambda p: ours(p, "jpeg", "graph"), True),
    "at size: tf.data textbook": (lambda p: textbook(p, "jpeg"), True),
    "raw: limit": (lambda p: limit_rows(p, ""), False),
    "raw: mapped HDF5": (lambda p: ours(p, "hdf5", "mapped"), True),
    "raw: mapped HDF5 in a tf.function": (
        lambda p: ours_in_function(p, "hdf5", "mapped"),
        True,
    ),
    "raw: mapped HDF5 first pass": (
        lambda p: ours_first_pass(p, "hdf5", "mapped"),
        True,
    ),
    "raw: TFRecord in a tf.function": (
        lambda p: ours_in_function(p, "raw", "mapped"),
        True,
    ),
    "raw: TFRecord first pass": (
        lambda p: ours_first_pass(p, "raw", "mapped"),
        True,
    ),
    "raw: mapped TFRecord": (lambda p: ours(p, "raw", "mapped"), True),
    "raw: graph HDF5": (lambda p: ours(p, "hdf5", "graph"), True),
    "raw: original generator": (
        lambda p: original_generator(p, "hdf5_float", False),
        False,
    ),
    "raw: original augmenting": (
        lambda p: original_generator(p, "hdf5_float", True),
        True,
    ),
}
for _name in input_peers.CONTESTANTS:
    CONTESTANTS[_name] = (
        lambda place, name=_name: input_peers.batches(name, place, BATCH),
        False,
    )

if __name__ == "__main__":
    main()
