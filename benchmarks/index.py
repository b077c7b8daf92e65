#!/usr/bin/env python3
"""Start and memory of the input pipeline with a simulated index of millions of records.

    benchmarks/index.py [--records 10000000] [--form jpeg] [--work_dir DIRECTORY]

The index is a real one.  The shards are not: with ``--form=jpeg`` all records share the
bytes of a few drawn faces, and with ``--form=hdf5`` the shards are holes, which read as
black images of 32 pixels.  A fresh process then reads the first batch at several steps,
and says how long each took, with the largest amount of memory beside mapped files.  It
also computes an epoch of the order, and counts the records that are missing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import zlib

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402

BATCH, SHARDS = 128, 64
SIDE = 32  # Of the black images.
FACES = 200  # Faces whose bytes all JPEG records share.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--form", choices=("jpeg", "hdf5"), default="jpeg")
    parser.add_argument("--work_dir", default="", help="where the index is kept")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.work_dir)
        return
    with tempfile.TemporaryDirectory(prefix="index-benchmark-") as temporary:
        place = arguments.work_dir or temporary
        if not os.path.exists(os.path.join(place, "manifest.json")):
            write(place, arguments.records, arguments.form)
        print(
            f"{arguments.records:,} records, {arguments.form}, batches of {BATCH}:"
            f" {len(os.sched_getaffinity(0))} {platform.machine()} cores,"
            f" {datetime.date.today()}",
            flush=True,
        )
        command = [sys.executable, __file__, "--read", f"--work_dir={place}"]
        subprocess.run(command, check=True)


def write(place: str, count: int, form: str) -> None:
    """Writes a manifest, an index, and shards that take little space."""
    from afad_tfdata.common import files
    from afad_tfdata.storage import schema

    os.makedirs(place, exist_ok=True)
    entries = np.zeros(count, schema.INDEX_DTYPE)
    entries["shard"] = np.arange(count) * SHARDS // count
    entries["place"] = np.arange(count)
    entries["age"] = 15 + np.arange(count) % 60
    entries["gender"] = np.arange(count) % 2
    if form == "jpeg":
        size, sizes = 150, _write_faces(place, entries)
    else:
        size, sizes = SIDE, _write_holes(place, entries)
    path = os.path.join(place, "many-train.index.npy")
    np.save(path, entries)
    shards = tuple(
        # Readers compare sizes; only afad-inspect-records compares digests of shards.
        schema.Shard(_name(i), int((entries["shard"] == i).sum()), sizes[i], "0" * 64)
        for i in range(SHARDS)
    )
    index = schema.Shard(
        os.path.basename(path), count, os.path.getsize(path), files.sha256(path)
    )
    ages = {str(age): count // 120 for age in range(15, 75)}
    split = schema.Split(count, shards, index, {"male": ages, "female": ages})
    manifest = schema.Manifest(
        name="many",
        format="tfrecord" if form == "jpeg" else "hdf5",
        image_encoding="original" if form == "jpeg" else "raw",
        image_size=size,
        config={"seed": 1},
        class_names=("male", "female"),
        gender_codes={"111": 0, "112": 1},
        resize={"method": "bilinear"},
        pixel={}
        if form == "jpeg"
        else {"dtype": "uint8", "channels": "last", "compression": "none"},
        mean={"R": 120.0, "G": 110.0, "B": 100.0},
        found=count,
        written=count,
        rejected=0,
        passed_over=0,
        splits={"train": split},
    )
    with open(os.path.join(place, schema.MANIFEST_NAME), "wb") as f:
        f.write(schema.manifest_bytes(manifest))


def _name(shard: int) -> str:
    return f"many-train-{shard:05}-of-{SHARDS:05}"


def _write_faces(place: str, entries: np.ndarray) -> list[int]:
    """Writes the same faces into each shard; all entries share them."""
    from afad_tfdata.images import drawn_faces

    faces = [drawn_faces.draw(face, 1) for face in drawn_faces.faces(FACES, 1)]
    encoded = [drawn_faces.encode_jpeg(face) for face in faces]
    which = np.arange(len(entries)) % FACES
    lengths = np.array([len(data) for data in encoded])
    entries["image_offset"] = (np.cumsum(lengths) - lengths)[which]
    entries["image_length"] = lengths[which]
    entries["crc32"] = np.array([zlib.crc32(d) for d in encoded], np.uint32)[which]
    entries["height"] = np.array([face.shape[0] for face in faces])[which]
    entries["width"] = np.array([face.shape[1] for face in faces])[which]
    for shard in range(SHARDS):
        with open(os.path.join(place, _name(shard)), "wb") as f:
            f.write(b"".join(encoded))
    return [int(lengths.sum())] * SHARDS


def _write_holes(place: str, entries: np.ndarray) -> list[int]:
    """Makes files of the size of their rows, without a byte in them."""
    row = SIDE * SIDE * 3
    starts = np.searchsorted(entries["shard"], np.arange(SHARDS + 1))
    entries["image_offset"] = (np.arange(len(entries)) - starts[entries["shard"]]) * row
    entries["image_length"], entries["crc32"] = row, zlib.crc32(bytes(row))
    entries["height"] = entries["width"] = SIDE
    sizes = [int(size) * row for size in np.diff(starts)]
    for shard, size in enumerate(sizes):
        with open(os.path.join(place, _name(shard)), "wb") as f:
            f.truncate(size)
    return sizes


def read(place: str) -> None:
    """The fresh process: prints a line for each start, and one for the order."""
    import tensorflow as tf

    from afad_tfdata import input_fn
    from afad_tfdata.reading import order
    from afad_tfdata.storage import schema

    tf.constant(0)  # Starts the runtime, which the first batch must not pay for.
    peak = PeakMemory()
    config = input_fn.InputConfig(records_dir=place, global_batch_size=BATCH)
    print("\n| first step | first batch, s | CPU, s | memory beside maps, MiB |")
    print("|---|---|---|---|")
    for step in (0, 50_000, 10**9):
        peak.reset()
        began, worked = time.perf_counter(), time.process_time()
        batches = iter(input_fn.train_input_fn(config, start_step=step))
        next(batches)
        took = time.perf_counter() - began, time.process_time() - worked
        print(f"| {step:,} | {took[0]:.2f} | {took[1]:.2f} | {peak.mebibytes():,.0f} |")
    began = time.perf_counter()
    for _ in range(300):
        next(batches)
    rate = 300 * BATCH / (time.perf_counter() - began)
    print(
        f"\n{rate:,.0f} images/s from there on; {peak.mebibytes():,.0f} MiB beside maps"
    )
    count = schema.load_manifest(place).splits["train"].num_examples
    shuffle, seen = order.Order(count, config.seed), np.zeros(count, bool)
    began = time.perf_counter()
    for first in range(0, count, 1 << 20):
        positions = np.arange(first, min(first + (1 << 20), count)) + 7 * count
        seen[shuffle.records(positions).numpy()] = True
    took = time.perf_counter() - began
    print(f"epoch 7: {count - seen.sum():,} of {count:,} records missing, {took:.1f} s")
    sys.stdout.flush()
    os._exit(0)


class PeakMemory:
    """The largest amount of anonymous memory beyond that at the start."""

    def __init__(self) -> None:
        self._start = self._peak = _anonymous_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, _anonymous_bytes())
            time.sleep(0.002)

    def reset(self) -> None:
        """Forgets the peak."""
        self._peak = _anonymous_bytes()

    def mebibytes(self) -> float:
        """The peak since the last reset."""
        self._peak = max(self._peak, _anonymous_bytes())
        return (self._peak - self._start) / (1 << 20)


def _anonymous_bytes() -> int:
    with open("/proc/self/status") as f:
        (line,) = (line for line in f if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
