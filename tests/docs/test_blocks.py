"""Every block of code in the docs runs, or this file says why it cannot.

The blocks run in one process, each in a folder that contains what a reader has at that
point: faces, records, a run and a graph.  Only sizes differ: small networks, images and
numbers of epochs.  ``make docs-code`` runs them, in CI, too.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import shlex
import shutil

import pytest

from afad_tfdata.common import options
from tests.docs import test_readme

_ROOT = pathlib.Path(__file__).parents[2]
_PAGES = [
    "README.md",
    *(f"docs/{p.name}" for p in sorted((_ROOT / "docs").glob("*.md"))),
]

# Blocks of Python that other tests run.
_ELSEWHERE = {
    "README.md ## As a library": "test_readme.test_python_block_runs",
    "docs/format.md ## The index": "test_docs.test_reading_by_hand_as_format_says",
    "docs/input.md # The input pipeline": "test_docs.test_blocks_of_input_run",
    "docs/input.md ## In model.fit": "test_docs.test_blocks_of_input_run",
    "docs/input.md ## In evaluation": "test_docs.test_blocks_of_input_run",
    "docs/input.md ## Records of another program": "test_docs.test_blocks_of_input_run",
    "docs/input.md ## In a tf-keras project": "test_docs.test_tf_keras_of_input_runs",
    "docs/input.md ## In a custom loop with MirroredStrategy": (
        "test_docs.test_custom_loop_of_input_runs"
    ),
    **{
        f"docs/training.md ### {title}": "test_docs.test_callbacks_of_training_run"
        for title in ("Weights and Biases", "MLflow", "Optuna")
    },
}
# Blocks in a language that nothing here runs, or that need a network.
_NOT_RUN = {
    "docs/training.md ## Networks of keras-hub": "downloads a preset of 330 MB",
    "docs/freezing.md ## OpenCV [cpp]": "needs OpenCV's headers and a compiler",
    **{
        f"docs/freezing.md ## C# and ML.NET [csharp]{number}": "needs .NET"
        for number in ("", " 2", " 3")
    },
}
# Lines of shell, by their beginning.
_LINES_NOT_RUN = {
    "pip install": "asks a package index over the network",
    "afad-predict --graph=graph/faces.pb --find_faces": (
        "the detector finds no drawn faces; tests/test_prediction.py has another one"
    ),
    "afad-write-records --data_dir=photos": "likewise; tests/writing/ has another one",
    "afad-gpu-check": "takes minutes; .ci/run runs it",
    "afad-data-service": "runs until it is stopped; tests/reading/ starts and stops it",
    "afad-train --data_service": "needs these servers",
    "afad-train --records_dir=records --run_dir=run --task=age_gender --image_size": (
        "needs a preset of keras-hub; tests/training/test_hub_runs.py trains one"
    ),
    "afad-write-records --data_dir=faces --output_dir=records --runner=beam": (
        "needs Beam, which the tests' environment lacks; wheel-check-all runs it"
    ),
    "afad-write-records --data_dir=faces --output_dir=gs:": "needs a bucket",
    "afad-train --records_dir=s3:": "needs a bucket",
    "examples/tf_c_client.py": "needs the C library; tests/test_prediction.py runs it",
    "examples/slurm/": "needs Slurm",
    "sbatch": "needs Slurm",
    "make bundle": "downloads gigabytes; tests/examples/ packs a small one",
    "bash run.sh": "needs what make bundle writes",
    ".venv/bin/python benchmarks/input.py": "measures for minutes",
    "python -m tests.robustness": "takes minutes; tests/robustness/ runs a part of it",
    "export TF_CONFIG": "starts nothing",
}
# What makes a training short; afad-train's other flags are those of the block.
_SMALL = {
    "backbone": "small_cnn",
    "weights": "none",
    "epochs": 1,
    "warmup_epochs": 1,
    "global_batch_size": 16,
    "hidden_units": 8,
    "tensorboard": False,
    "devices": "cpu",
}


def _blocks() -> dict[str, str]:
    """Every block by page, heading and language; a number tells equal ones apart."""
    found: dict[str, str] = {}
    for name in _PAGES:
        heading = ""
        text = (_ROOT / name).read_text()
        for part in re.finditer(
            r"^```(\w*)\n(.*?)^```|^(#+ [^\n]+)$", text, re.M | re.S
        ):
            if part[3]:
                heading = part[3]
                continue
            language = "" if part[1] == "python" else f" [{part[1]}]"
            key = wanted = f"{name} {heading}{language}"
            number = 1
            while key in found:
                number += 1
                key = f"{wanted} {number}"
            found[key] = part[2]
    return found


_ALL = _blocks()
_PYTHON = [k for k in _ALL if "[" not in k and k not in {*_ELSEWHERE, *_NOT_RUN}]
_SHELL = [k for k in _ALL if "[sh]" in k]


def _lines(block: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", block)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _is_run(line: str) -> bool:
    return not any(line.startswith(start) for start in _LINES_NOT_RUN)


def test_every_block_is_run_or_has_a_reason():
    assert len(_PYTHON) >= 8 and len(_SHELL) >= 25
    assert set(_ALL) == {*_PYTHON, *_SHELL, *_ELSEWHERE, *_NOT_RUN}
    for place in set(_ELSEWHERE.values()):
        module, _, function = place.partition(".")
        assert hasattr(importlib.import_module(f"tests.docs.{module}"), function)
    lines = [line for key in _SHELL for line in _lines(_ALL[key])]
    for line in filter(_is_run, lines):
        assert re.match(r"afad-|python -c ", line), line
    for start in _LINES_NOT_RUN:
        assert any(line.startswith(start) for line in lines), start


def _typed(spec: options.OptionSpec, text: str) -> object:
    if spec.type is list:
        return text.split(",")
    return {int: int, float: float}.get(spec.type, str)(text)


def _parse(command: str, arguments: list[str]) -> tuple[dict, list[str]]:
    """The flags by name, and the other arguments."""
    module, config = test_readme._CONFIGS[command]
    where = importlib.import_module(f"afad_tfdata.{module}")
    known = {spec.name: spec for spec in options.specs(getattr(where, config))}
    values, rest = {}, []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            rest.append(argument)
        elif equals:
            values[name] = _typed(known[name], text)
        else:
            values[name.removeprefix("no") if name not in known else name] = (
                name in known
            )
    return values, rest


def _run(command: str, values: dict, rest: list[str]) -> None:
    module, config = test_readme._CONFIGS[command]
    where = importlib.import_module(f"afad_tfdata.{module}")
    program = importlib.import_module(
        f"afad_tfdata.bin.{command.removeprefix('afad-').replace('-', '_')}"
    )
    made = options.from_dict(getattr(where, config), values, where="the docs")
    assert program.main(made, rest).exit_status == 0, values


def _run_shell(block: str) -> None:
    begun: set[str] = set()
    for line in filter(_is_run, _lines(block)):
        command, *arguments = shlex.split(line, comments=True)
        if command == "python":
            exec(arguments[1], {})  # noqa: S102
            continue
        values, rest = _parse(command, arguments)
        if command == "afad-write-records":
            values["num_workers"] = 1
            values.setdefault("num_shards", 4)
            if values["output_dir"] not in begun:
                shutil.rmtree(values["output_dir"], ignore_errors=True)
            begun.add(values["output_dir"])
        elif command == "afad-train":
            _train(values, new=values["run_dir"] not in begun)
            begun.add(values["run_dir"])
            continue
        elif command == "afad-benchmark-input":
            values.update(seconds=0.1, batch_size=16)
        _run(command, values, rest)


def _train(values: dict, *, new: bool) -> None:
    """Trains shortly; for --start_epoch there is a run to go back in."""
    small = {**values, **_SMALL}
    if new:
        shutil.rmtree(values["run_dir"], ignore_errors=True)
    if "start_epoch" in values:
        if new:
            before = {n: v for n, v in small.items() if n != "learning_rate"}
            _run("afad-train", {**before, "start_epoch": 0}, [])
        small.update(start_epoch=1, epochs=2)
    _run("afad-train", small, [])


@pytest.fixture(scope="module")
def place(sample_tree, sample_records, tmp_path_factory):
    """What a reader has: faces, records, a run, a graph, and a model of Keras."""
    import keras
    import tensorflow_datasets  # noqa: F401 - it changes TensorFlow's log level

    folder = tmp_path_factory.mktemp("docs")
    for name in ("AFAD-Full", "faces", "data"):
        shutil.copytree(sample_tree, folder / name)
    images = sorted((folder / "faces").rglob("*.jpg"))
    shutil.copy(images[0], folder / "photo.jpg")
    (folder / "UTKFace").mkdir()
    for number, image in enumerate(images):
        age, gender = image.parts[-3], int(image.parts[-2] == "112")
        name = f"{age}_{gender}_0_20170109{number:09d}.jpg.chip.jpg"
        shutil.copy(image, folder / "UTKFace" / name)
    for name in ("records", "other"):
        shutil.copytree(sample_records, folder / name)
    here = os.getcwd()
    os.chdir(folder)
    try:
        train = {"records_dir": "records", "run_dir": "run", "task": "age_gender"}
        _run("afad-train", {**train, **_SMALL}, [])
        shutil.copy("run/best.keras", "mine.keras")
        for name in ("first", "second"):
            shutil.copytree("run", name)
        freeze = {"run_dir": "run", "output_dir": "graph", "output_name": "faces"}
        _run("afad-freeze", {**freeze, "with_preprocessing": True}, [])
        pixels = {"data_dir": "faces", "output_dir": "pixels", "format": "hdf5"}
        _run("afad-write-records", {**pixels, "image_size": 48, "num_shards": 6}, [])
        os.makedirs("model/gender")
        inputs = keras.Input((48, 48, 3))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        outputs = keras.layers.Dense(1, activation="sigmoid", name="dense_3")(x)
        keras.Model(inputs, outputs).save("model/gender/epochs_62.h5")
        os.makedirs("hdf5/gender")
        shutil.copy("records/mean.json", "hdf5/gender/mean.json")
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def own_place(place, tmp_path, monkeypatch):
    shutil.copytree(place, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.mark.slow
@pytest.mark.parametrize("key", _SHELL)
def test_shell_runs(key, own_place):
    if not any(map(_is_run, _lines(_ALL[key]))):
        pytest.skip("no line of it can be run here")
    _run_shell(_ALL[key])


def _call_labels(scope):
    _run("afad-cards", {"records_dir": "records", "dataset": "afad"}, [])
    rows = list(scope["labels"]())
    assert len(rows) > 100 and len(rows[0]) == 3


def _call_write(scope):
    from afad_tfdata import models

    scope["write"](models.load("mine.keras"))
    assert os.path.getsize("graph/faces.pb") > 1000


def _call_tf1(scope):
    import numpy as np

    ages, genders = scope["load"]("graph/faces.pb")(np.zeros((2, 48, 48, 3)))
    assert ages.shape == genders.shape == (2, 1)


def _call_opencv(scope):
    import json

    cv2 = pytest.importorskip("cv2")
    mean = json.loads(pathlib.Path("records/mean.json").read_text())
    predict = scope["load"]("graph/faces.pb", 48, mean)
    age, probability = predict(cv2.imread("photo.jpg"))
    assert 0 < age < 100 and 0 <= probability <= 1


def _call_copy(scope):
    scope["copy"]("mine.keras", "copied.keras")
    assert os.path.getsize("copied.keras") > 1000


def _call_train_own(scope):
    from afad_tfdata import input_fn, models

    config = input_fn.InputConfig(
        records_dir="records",
        task="gender",
        global_batch_size=scope["config"].global_batch_size,
    )
    network = models.ModelConfig(
        backbone="small_cnn", weights="none", task="gender", image_size=48
    )
    train = input_fn.train_input_fn(config).take(2)
    validation = input_fn.eval_input_fn(config, split="validation")
    result = scope["train_own"](models.build_model(network), train, validation)
    assert result.text()


# What is done with the functions that a block defines; the other blocks do something
# by themselves.
_CALLS = {
    "docs/cards.md ## What loads through Croissant": _call_labels,
    "docs/freezing.md ## What can be frozen": _call_write,
    "docs/freezing.md ## TensorFlow 1.15": _call_tf1,
    "docs/freezing.md ## OpenCV": _call_opencv,
    "docs/training.md ## What a model says of itself": _call_copy,
    "docs/training.md ## With your own parts": _call_train_own,
}


@pytest.mark.slow
@pytest.mark.parametrize("key", _PYTHON)
def test_python_runs(key, own_place):
    scope: dict = {}
    exec(compile(_ALL[key], key, "exec"), scope)  # noqa: S102
    if call := _CALLS.get(key):
        call(scope)
    else:
        assert not re.search(r"^def (?!whole_photo)", _ALL[key], re.M), "never called"
