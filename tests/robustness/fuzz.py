"""Passes arbitrary bytes to everything that reads files or flags.

    python -m tests.robustness.fuzz [--targets=tar,index] [--minutes=10] [--jobs=1]

A target is a function of bytes that may raise only the package's own errors, and these
with a message of one line.  If atheris is installed, it chooses the bytes by the code
that they reach; otherwise they are seeds with random damage.  Each target runs in a
process of its own, with a limit of its memory and of the time for one input.
`test_fuzz` tries a few hundred inputs for every target.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_ROOT = pathlib.Path(__file__).parents[2]
_INPUT_SECS, _MEMORY_BYTES = 20, 3 << 30
# Modules of the package by the names that the targets use.
_MODULES = {
    "archive_members": "writing.archive_members",
    "augment": "images.augmentation",
    "checkpoint_format": "training.checkpoint_format",
    "checkpoints": "training.checkpoints",
    "codec": "images.codec",
    "errors": "common.errors",
    "files": "common.files",
    "foreign_features": "reading.foreign_features",
    "input_config": "reading.config",
    "label_scan": "writing.labels.label_scan",
    "cell_values": "writing.labels.cell_values",
    "schema": "storage.schema",
    "published_splits": "writing.published_splits",
    "gender_codes": "writing.gender_codes",
    "tfrecord": "storage.tfrecord",
    "train_config": "training.config",
    "write_config": "writing.config",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A function that reads bytes.

    Attributes:
      read: The function; it may raise `AfadError` or one of `errors`.
      seeds: Inputs from which others are made; the first is read without an error.
      errors: Further errors that are right, because all callers catch them.
    """

    read: Callable[[bytes], Any]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = ()


def package() -> Any:
    """The modules under test, imported late so that atheris can instrument them."""
    found = types.SimpleNamespace()
    for name, path in _MODULES.items():
        setattr(found, name, importlib.import_module(f"afad_tfdata.{path}"))
    return found


def check(target: Target, data: bytes) -> None:
    """Runs a target on one input; raises what the target must not raise."""
    from afad_tfdata.common import errors

    try:
        target.read(data)
    except (errors.AfadError, *target.errors) as error:
        assert str(error).strip(), "an error without a message"
        assert "\n" not in str(error), f"a message of several lines: {error}"


# The targets: each gets the modules under test and a directory of its own.


def _images(afad: Any, place: str) -> Target:
    from tests import bad_files

    afad.codec.load_decoders()

    def read(data: bytes) -> None:
        header = afad.codec.read_header(data)
        afad.codec.check_header(header, as_stored=True, max_pixels=100_000)
        image = afad.codec.decode(data, header)
        assert image.ndim == 3 and image.dtype == np.uint8
        assert afad.codec.check_whole(data, header) == image.shape[:2]

    seeds = [data for data, _ in bad_files.contents().values() if data]
    seeds.insert(0, bad_files.encoded(bad_files.picture(), "JPEG"))
    return Target(read, seeds, (afad.codec.ImageError,))


def _manifest(afad: Any, place: str) -> Target:
    from tests.storage import small_manifest

    def read(data: bytes) -> None:
        with open(os.path.join(place, "manifest.json"), "wb") as f:
            f.write(data)
        assert afad.schema.load_manifest(place) == small_manifest.build_manifest()

    return Target(read, [afad.schema.manifest_bytes(small_manifest.build_manifest())])


def _sealed_manifest(afad: Any, place: str) -> Target:
    """A manifest of any JSON content, with a checksum that fits."""
    from tests.storage import small_manifest

    def read(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            value.pop("checksum", None)
            value["checksum"] = afad.files.json_checksum(value)
        with open(os.path.join(place, "manifest.json"), "w") as f:
            json.dump(value, f)
        afad.schema.load_manifest(place)

    return Target(
        read,
        [afad.schema.manifest_bytes(small_manifest.build_manifest()), b"{}", b"[]"],
    )


def _index(afad: Any, place: str) -> Target:
    """An index of any content, with the size and digest that the manifest names."""
    from tests.storage import small_manifest

    manifest = small_manifest.build_manifest()
    split = manifest.splits["train"]
    path = os.path.join(place, split.index.name)
    np.save(path, np.zeros(split.num_examples, afad.schema.INDEX_DTYPE))
    with open(path, "rb") as f:
        seed = f.read()

    def read(data: bytes) -> None:
        with open(path, "wb") as f:
            f.write(data)
        named = dataclasses.replace(
            split.index, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        splits = {**manifest.splits, "train": dataclasses.replace(split, index=named)}
        index = afad.schema.load_index(
            place, dataclasses.replace(manifest, splits=splits), "train"
        )
        assert index.shape == (split.num_examples,)

    return Target(read, [seed])


def _record(afad: Any, place: str) -> Target:
    encoded, _ = afad.tfrecord.encode_record(
        b"not an image",
        image_format="jpeg",
        height=3,
        width=4,
        filename=b"18/111/1-0.jpg",
        sha256=bytes(32),
        age=18,
        gender=0,
    )

    def read(data: bytes) -> None:
        with contextlib.suppress(afad.tfrecord.RecordError):
            afad.tfrecord.check_record(data)
        afad.tfrecord.parse_example(data)

    return Target(read, [encoded[12:-4], encoded], (afad.tfrecord.RecordError,))


def _tar(afad: Any, place: str) -> Target:
    import io
    import lzma
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("18/111/1-0.jpg", "../x.jpg", "a" * 120 + "/é.jpg"):
            info = tarfile.TarInfo(f"AFAD-Lite/{name}")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"bytes"))
    plain = buffer.getvalue()

    def read(data: bytes) -> None:
        suffix = ".tar.xz" if data[:3] == b"\xfd7z" else ".tar"
        path = os.path.join(place, f"faces{suffix}")
        with open(path, "wb") as f:
            f.write(data)
        afad.archive_members.scan([path], {"111": 0})

    return Target(read, [plain[:4096] + bytes(1024), plain, lzma.compress(plain)])


def _split_file(afad: Any, place: str) -> Target:
    def read(data: bytes) -> None:
        for suffix in ("csv", "json"):
            path = os.path.join(place, f"protocol.{suffix}")
            with open(path, "wb") as f:
                f.write(data)
            with contextlib.suppress(afad.errors.UsageError):
                afad.published_splits.load(path)
        afad.published_splits.load(path)

    csv = b"path,split\n18/111/1-0.jpg,train\n18/112/2-0.jpg,test\n"
    return Target(read, [b'{"18/111/1-0.jpg": "train", "18/112/2-0.jpg": "test"}', csv])


def _labels_csv(afad: Any, place: str) -> Target:
    path = os.path.join(place, "labels.csv")

    def read(data: bytes) -> None:
        with open(path, "wb") as f:
            f.write(data)
        afad.label_scan.scan(
            path, place, afad.cell_values.Genders("111:male,112:female")
        )

    return Target(
        read,
        [
            b"path,age,gender,split\na.jpg,18,111,train\n",
            b"path,age,gender\n\xff,1,2",
            b"sep=;\r\nPath;Age;Sex\r\nfaces\\a.jpg;25,5;F\r\n;;\r\n",
            "\ufeffpath\tage\tgender\na.jpg\t(25, 32)\tm\n".encode("utf-16-le"),
        ],
    )


def _flags(afad: Any, place: str) -> Target:
    """A command line, one argument a line, for the parser of every kind of config."""
    from bin import command

    classes = [
        afad.write_config.WriteConfig,
        afad.train_config.TrainConfig,
        afad.input_config.InputConfig,
    ]

    def read(data: bytes) -> None:
        argv = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
        if any("flagfile" in argument for argument in argv):
            return  # It could read any file of this machine.
        for config_class in classes:
            with contextlib.suppress(afad.errors.UsageError):
                command._parse_command_line(
                    config_class, ["afad", *argv], takes_arguments=True
                )
        for argument in argv:
            for parse in (
                afad.augment.parse,
                afad.gender_codes.parse,
                afad.foreign_features.parse_features,
            ):
                with contextlib.suppress(afad.errors.UsageError):
                    parse(argument)
        command._parse_command_line(classes[0], ["afad", *argv], takes_arguments=True)

    return Target(
        read,
        [
            b"--data_dir=faces\n--output_dir=records\n--num_shards=3",
            b"--records_dir=r\n--run_dir=run\n--augment=rotation=10,zoom=0.1,flip=true",
            b"--gender_codes=111:male,112:female\n--shard_range=0:3\n--seed=-1",
            b"image=image/encoded,age=label\n--learning_rate=1e400\n--nojson\n--\n-x",
        ],
    )


def _checkpoint(afad: Any, place: str) -> Target:
    path = os.path.join(place, "step-0000000001.ckpt")
    wanted = np.arange(6).reshape(2, 3)
    afad.checkpoints.save(path, {"a": wanted}, {"step": 1})
    with open(path, "rb") as f:
        seed = f.read()

    def read(data: bytes) -> None:
        with open(path, "wb") as f:
            f.write(data)
        with contextlib.suppress(afad.errors.DataError):
            afad.checkpoints.load_state(path)
        loaded = afad.checkpoints.load(path)
        if data == seed:
            np.testing.assert_array_equal(loaded.arrays["a"], wanted)

    return Target(read, [seed, first_checkpoint(wanted)])


def _sealed_checkpoint(afad: Any, place: str) -> Target:
    """A checkpoint of any content, with a digest that fits."""
    path = os.path.join(place, "step-0000000001.ckpt")
    wanted = np.arange(6).reshape(2, 3)
    arrays = {"model/0": wanted, "model/1": wanted.astype(np.complex128)}
    afad.checkpoints.save(path, arrays, {"step": 1}, {"model/0": "conv/kernel"})
    with open(path, "rb") as f:
        seed = f.read()

    def read(data: bytes) -> None:
        if data.startswith(b"AFADCKP1"):
            data += hashlib.sha256(data).digest()
        with open(path, "wb") as f:
            f.write(data)
        sealed = afad.checkpoint_format
        # The digest is forged, so that every checkpoint passes this check.
        right, sealed._digest = sealed._digest, lambda _, metadata: metadata["sha256"]
        try:
            with contextlib.suppress(afad.errors.DataError):
                afad.checkpoints.load_state(path)
            loaded = afad.checkpoints.load(path)
        finally:
            sealed._digest = right
        assert isinstance(loaded.state, dict)
        assert all(isinstance(name, str) for name in loaded.arrays)
        assert sum(a.nbytes for a in loaded.arrays.values()) <= len(data)

    return Target(read, [seed, first_checkpoint(wanted)[:-32]])


def first_checkpoint(array: np.ndarray) -> bytes:
    """A checkpoint of one array in the format of version 0.1.0."""
    table = [["a", array.dtype.str, list(array.shape), 0]]
    header = json.dumps({"arrays": table, "state": {"step": 1}}).encode()
    body = b"AFADCKP1" + len(header).to_bytes(8, "little") + header + array.tobytes()
    return body + hashlib.sha256(body).digest()


TARGETS: dict[str, Callable[[Any, str], Target]] = {
    "images": _images,
    "manifest": _manifest,
    "sealed_manifest": _sealed_manifest,
    "index": _index,
    "record": _record,
    "tar": _tar,
    "split_file": _split_file,
    "labels_csv": _labels_csv,
    "flags": _flags,
    "checkpoint": _checkpoint,
    "sealed_checkpoint": _sealed_checkpoint,
}


# Running them.


def main() -> int:
    """Runs the targets, and prints a table; 1 if one raised what it must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets", default=",".join(TARGETS), help="names, separated by commas"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="time for each target"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="how many targets run at a time"
    )
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return _run(arguments.run, 60 * arguments.minutes)
    names = arguments.targets.split(",")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda name: _observe(name, arguments.minutes), names)
        bad = 0
        print("| target | inputs | found |\n|---|---|---|", flush=True)
        for name, (inputs, outcome) in zip(names, results, strict=True):
            bad += outcome != "nothing"
            print(f"| {name} | {inputs:,} | {outcome} |", flush=True)
    return int(bad > 0)


def _observe(name: str, minutes: float) -> tuple[int, str]:
    """Runs a target in a process of its own; the number of inputs and what it found."""
    command = [sys.executable, "-m", "tests.robustness.fuzz", f"--run={name}"]
    ended = subprocess.run(
        [*command, f"--minutes={minutes}"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    counts = re.findall(r"^(?:#|DONE )(\d+)", ended.stdout, re.MULTILINE)
    inputs = int(counts[-1]) if counts else 0
    if ended.returncode == 0:
        return inputs, "nothing"
    with open(f"fuzz-{name}.log", "w") as f:
        f.write(ended.stdout)
    return inputs, f"status {ended.returncode}: see fuzz-{name}.log"


def _run(name: str, secs: float) -> int:
    """Runs one target in this process."""
    try:
        import atheris
    except ImportError:
        atheris = None
    instrumented = contextlib.nullcontext()
    if atheris is not None:
        include = ["afad_tfdata", "tarfile", "csv"]
        instrumented = atheris.instrument_imports(include=include)
    with instrumented:
        afad = package()
    with tempfile.TemporaryDirectory() as place:
        os.makedirs(os.path.join(place, "seeds"))
        os.makedirs(os.path.join(place, "files"))
        target = TARGETS[name](afad, os.path.join(place, "files"))
        target.read(target.seeds[0])
        if atheris is None:
            return _damage(target, secs)
        for number, seed in enumerate(target.seeds):
            with open(os.path.join(place, "seeds", str(number)), "wb") as f:
                f.write(seed)
        atheris.Setup(
            [
                *(sys.argv[0], os.path.join(place, "seeds")),
                f"-max_total_time={int(secs)}",
                f"-timeout={_INPUT_SECS}",
                f"-rss_limit_mb={_MEMORY_BYTES >> 20}",
                f"-artifact_prefix=fuzz-{name}-",
                f"-max_len={4 * max(map(len, target.seeds))}",
            ],
            lambda data: check(target, data),
        )
        atheris.Fuzz()
    return 0


def _damage(target: Target, secs: float) -> int:
    """Tries seeds with random damage, without atheris."""
    # Address space, of which TensorFlow's libraries reserve much more than they use.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES << 3, _MEMORY_BYTES << 3))
    rng, end, inputs = random.Random(1), time.monotonic() + secs, 0
    for data in _damaged(rng, target.seeds):
        if time.monotonic() > end:
            break
        began = time.monotonic()
        try:
            check(target, data)
        except BaseException:
            print(f"#{inputs} input: {data!r}", flush=True)
            raise
        if time.monotonic() > began + _INPUT_SECS:
            print(f"#{inputs} slow: {data!r}", flush=True)
            return 1
        inputs += 1
    print(f"DONE {inputs}")
    return 0


def _damaged(rng: random.Random, seeds: Sequence[bytes]) -> Iterator[bytes]:
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data) + 1)
            way = rng.randrange(5)
            if way == 0:
                data[at : at + 1] = rng.randbytes(1)
            elif way == 1:
                data[at : at + rng.randrange(1, 9)] = b""
            elif way == 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
            elif way == 3:
                part = data[at : at + rng.randrange(1, 40)]
                begin = rng.randrange(len(data) + 1)
                data[begin:begin] = part
            elif data[at : at + 1]:
                data[at] ^= 1 << rng.randrange(8)
        yield bytes(data)


if __name__ == "__main__":
    sys.exit(main())
