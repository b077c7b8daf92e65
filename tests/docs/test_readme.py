"""The README's commands and flags exist, and its Python block runs."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import shlex

import pytest

from afad_tfdata.common import options

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIGS = {
    "afad-make-sample": ("images.drawn_faces", "SampleConfig"),
    "afad-write-records": ("writing.config", "WriteConfig"),
    "afad-inspect-records": ("writing.inspection", "InspectConfig"),
    "afad-cards": ("cards", "CardsConfig"),
    "afad-train": ("training.config", "TrainConfig"),
    "afad-evaluate": ("evaluation", "EvaluateConfig"),
    "afad-freeze": ("freeze", "FreezeConfig"),
    "afad-predict": ("prediction", "PredictConfig"),
    "afad-report": ("report", "ReportConfig"),
    "afad-benchmark-input": ("input_benchmark", "BenchmarkConfig"),
    "afad-gpu-check": ("gpu_check", "GpuCheckConfig"),
    "afad-doctor": ("doctor", "DoctorConfig"),
    "afad-data-service": ("reading.data_service", "DataServiceConfig"),
}


def _commands(text: str) -> list[list[str]]:
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"afad-[a-z-]+( |$)", line)
    ]


@pytest.mark.parametrize("name", ["README.md", "examples/demo.sh"])
def test_commands_and_flags_exist(name):
    commands = _commands((_ROOT / name).read_text())
    assert len(commands) >= 7
    for command, *arguments in commands:
        module, config = _CONFIGS[command]
        known = {
            spec.name: spec
            for spec in options.specs(
                getattr(importlib.import_module(f"afad_tfdata.{module}"), config)
            )
        }
        for argument in arguments:
            if argument.startswith("--"):
                flag, _, value = argument[2:].partition("=")
                assert flag in known, f"{command} {argument}"
                choices = known[flag].choices
                assert not choices or value in choices, f"{command} {argument}"


def test_every_command_is_in_the_table():
    table = re.findall(r"^\| `(afad-[a-z-]+)`", (_ROOT / "README.md").read_text(), re.M)
    assert sorted(table) == sorted(_CONFIGS)


def test_the_two_commands_come_first():
    blocks = re.findall(r"^    (make \w+)", (_ROOT / "README.md").read_text(), re.M)
    assert blocks[:2] == ["make demo", "make test"]


def test_python_block_runs(sample_records, monkeypatch):
    """The block as printed, on drawn records and one device."""
    block = re.search(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), re.S)
    assert block
    code = block.group(1).replace('"records"', repr(sample_records))
    code = code.replace("global_batch_size=128, image_size=150", "global_batch_size=8")
    code = code.replace(
        "tf.distribute.MirroredStrategy()", "tf.distribute.get_strategy()"
    )
    ast.parse(code)
    scope: dict = {}
    exec(code, scope)  # noqa: S102
    assert scope["images"].shape == (8, 48, 48, 3)
    assert abs(float(scope["images"].numpy().mean())) < 0.5
    features, labels = next(iter(scope["batches"]))
    assert features["image"].shape == (8, 48, 48, 3)
    assert set(labels) == {"age", "gender"}
