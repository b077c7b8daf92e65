"""Every flag that an error text names exists in the command that shows the text."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from afad_tfdata.common import options
from tests import test_imports
from tests.docs import test_readme

# Which commands show the errors of a module; the longest name that fits counts.
_SHOWN_BY = {
    "common": (),
    "cross_validation": ("afad-train",),
    "doctor": ("afad-doctor",),
    "evaluating": ("afad-evaluate",),
    "evaluation": ("afad-evaluate",),
    "freeze": ("afad-freeze",),
    "freezing": ("afad-freeze",),
    "freezing.graph_description": ("afad-predict",),
    "gpu_check": ("afad-gpu-check",),
    "images": (),
    "images.augmentation": ("afad-train",),
    "images.drawn_faces": ("afad-make-sample",),
    "cards": ("afad-cards",),
    "describing": ("afad-cards",),
    "images.face_crop": ("afad-write-records",),
    "images.face_detector": ("afad-predict", "afad-write-records"),
    "input_benchmark": ("afad-benchmark-input",),
    "input_fn": ("afad-train", "afad-evaluate", "afad-benchmark-input"),
    "metrics": ("afad-evaluate",),
    "models": ("afad-train",),
    "models.facts": ("afad-evaluate", "afad-freeze"),
    "models.input_range": ("afad-evaluate", "afad-freeze"),
    "models.output_checks": ("afad-evaluate", "afad-freeze"),
    "models.model_files": ("afad-train", "afad-evaluate", "afad-freeze"),
    "models.model_weights": ("afad-train", "afad-evaluate", "afad-freeze"),
    "predicting": ("afad-predict",),
    "prediction": ("afad-predict",),
    "reading": ("afad-train", "afad-evaluate", "afad-benchmark-input"),
    "reading.data_service": ("afad-data-service",),
    "records": ("afad-write-records",),
    "report": ("afad-report",),
    "reporting": ("afad-report",),
    "storage": (),
    "storage.joined_data_sets": ("afad-train", "afad-evaluate", "afad-benchmark-input"),
    "storage.schema": ("afad-train", "afad-evaluate", "afad-benchmark-input"),
    "trainer": ("afad-train",),
    "training": ("afad-train",),
    "training.distributed.strategies": ("afad-train", "afad-evaluate"),
    "training.run_dir": ("afad-train",),
    "writing": ("afad-write-records",),
    "writing.inspection": ("afad-inspect-records",),
}
# Flags that a command cannot have given wrongly, since the program decides them: their
# error texts never appear there.
_DECIDED = {
    "afad-train": {"files", "features", "mean_file"},
    "afad-evaluate": {
        *("balance", "cache", "data_service", "files", "features", "mean_file"),
        *("task", "image_size", "global_batch_size"),
    },
    "afad-benchmark-input": {
        *("data_service", "mean_file", "task", "global_batch_size"),
    },
}
_COMMON = {"help", "json", "flagfile"}


def _shown_by(module: str) -> tuple[str, ...]:
    name = module.removesuffix(".__init__")
    while name not in _SHOWN_BY:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return ()
    return _SHOWN_BY[name]


def _flags_of(command: str) -> dict[str, options.OptionSpec]:
    module, config = test_readme._CONFIGS[command]
    where = importlib.import_module(f"afad_tfdata.{module}")
    return {spec.name: spec for spec in options.specs(getattr(where, config))}


def _error_texts(source: str) -> list[str]:
    """The constant part of each text in a `raise` statement."""
    return [
        "".join(
            part.value
            for part in ast.walk(node.exc)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Raise) and node.exc is not None
    ]


def _named(text: str, shown_by: tuple[str, ...]) -> list[tuple[str, str]]:
    """Command and flag for each flag in a text.

    A flag after the names of commands is one of theirs, as in ``afad-train --epochs``;
    any other belongs to the commands that show the text.
    """
    found = []
    for match in re.finditer(r"(?<![\w-])--([a-z]\w*)", text):
        clause = re.split(r"[;)]|\. ", text[: match.start()])[-1]
        others = re.findall(r"afad-[a-z-]*[a-z]", clause)
        found += [(command, match[1]) for command in others or shown_by]
    return found


def _unknown(text: str, shown_by: tuple[str, ...]) -> list[str]:
    unknown = []
    for command, flag in _named(text, shown_by):
        known = _flags_of(command).keys() | _COMMON | _DECIDED.get(command, set())
        if flag not in known and flag.removeprefix("no") not in known:
            unknown.append(f"{command} --{flag}")
    return unknown


@pytest.mark.parametrize("module", test_imports._FILES)
def test_flags_in_errors_exist(module):
    for text in _error_texts(test_imports._FILES[module].read_text()):
        assert not _unknown(text, _shown_by(module)), text


def test_a_flag_that_does_not_exist_is_found():
    source = 'raise ValueError(f"{x} is wrong: raise --no_such_flag")'
    (text,) = _error_texts(source)
    assert _unknown(text, ("afad-train",)) == ["afad-train --no_such_flag"]
    assert _unknown("see afad-freeze --epochs", ("afad-train",)) == [
        "afad-freeze --epochs"
    ]
    assert not _unknown("use --nojit, or --epochs=3", ("afad-train",))
    assert not _unknown("(see afad-freeze --onnx); --epochs", ("afad-train",))


def test_decided_flags_are_none_of_the_command():
    for command, flags in _DECIDED.items():
        assert not flags & _flags_of(command).keys(), command


def test_every_folder_with_error_texts_has_a_command():
    for module, path in test_imports._FILES.items():
        if not _shown_by(module) and not module.startswith("bin."):
            texts = " ".join(_error_texts(path.read_text()))
            assert not _named(texts, ("any",)), module
