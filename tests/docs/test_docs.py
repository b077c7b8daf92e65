"""What docs/ and examples/ say is true: commands, flags, links, errors, code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import shlex
import subprocess

import pytest

from afad_tfdata import trainer
from afad_tfdata.common import options
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config
from tests import test_imports
from tests.docs import test_readme

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = sorted((_ROOT / "docs").glob("*.md"))
_PROGRAMS = sorted(
    p for p in (_ROOT / "examples").rglob("*") if p.suffix in (".sh", ".yaml")
)
# Flags of every command, and those of other programs that the docs name.
_COMMON = {"json", "flagfile", "help", "report"}
_OF_OTHERS = {"library", "graph", "pixels", "ntasks"}


def _names(paths: list[pathlib.Path]) -> list[str]:
    return [str(path.relative_to(_ROOT)) for path in paths]


def _specs(command: str) -> dict[str, options.OptionSpec]:
    module, config = test_readme._CONFIGS[command]
    where = importlib.import_module(f"afad_tfdata.{module}")
    return {spec.name: spec for spec in options.specs(getattr(where, config))}


def _commands(text: str) -> list[list[str]]:
    """Every ``afad-...`` in the text, with its flags."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"\n\s+- --", " --", text)  # A list in YAML.
    found = re.findall(
        r"(?<![\w=/-])afad-[a-z-]+(?=[\s`)]|$)(?:[ \t]+[^\n`|;&<>]*)?", text, re.M
    )
    commands = []
    for line in found:
        try:
            commands.append(shlex.split(line, comments=True))
        except ValueError:  # Prose with an apostrophe.
            commands.append(line.split())
    return commands


@pytest.mark.parametrize("name", _names([*_DOCS, *_PROGRAMS]))
def test_commands_and_flags_exist(name):
    for command, *arguments in _commands((_ROOT / name).read_text()):
        assert command in test_readme._CONFIGS, command
        known = _specs(command)
        for argument in arguments:
            if not argument.startswith("--") or argument == "--":
                continue
            flag, equals, value = argument[2:].partition("=")
            if flag in _COMMON:
                continue
            if flag not in known and flag.startswith("no"):
                flag = flag[2:]
                assert flag in known and known[flag].type is bool, argument
            assert flag in known, f"{command} {argument}"
            choices = known[flag].choices
            if choices and equals and "$" not in value:
                assert value in choices, f"{command} {argument}"


def test_there_is_something_to_check():
    assert len(_DOCS) >= 8
    assert len(_PROGRAMS) >= 4
    found = [c for path in _DOCS for c in _commands(path.read_text())]
    assert len([c for c in found if len(c) > 1]) >= 25


@pytest.mark.parametrize("name", _names(_DOCS))
def test_flags_in_the_text_exist(name):
    known = {f for command in test_readme._CONFIGS for f in _specs(command)} | _COMMON
    text = re.sub(r"^```.*?^```", "", (_ROOT / name).read_text(), flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+)`", text):
        for flag in re.findall(r"(?:^|\s)--([a-z_0-9]+)", code):
            plain = flag.removeprefix("no") if flag not in known else flag
            assert plain in known | _OF_OTHERS, f"--{flag} in {name}"


def _anchors(path: pathlib.Path) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


_ROOT_TEXTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


@pytest.mark.parametrize("name", [*_ROOT_TEXTS, *_names(_DOCS)])
def test_links_lead_somewhere(name):
    path = _ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.is_file(), f"{target} in {name}"
        if anchor:
            assert anchor in _anchors(there), f"{target} in {name}"


def test_paths_in_contributing_exist():
    text = (_ROOT / "CONTRIBUTING.md").read_text()
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"`([\w./]*\w(?:/|\.py|\.txt|\.cfg))`", text)
    places = (_ROOT, _ROOT / "afad_tfdata", _ROOT / "tests" / "robustness")
    assert len(found) >= 30
    for path in found:
        if path != "utils.py":  # The name that no module may have.
            assert any((place / path).exists() for place in places), path


@pytest.mark.parametrize("path", _PROGRAMS, ids=lambda p: p.name)
def test_scripts_are_shell(path):
    if path.suffix == ".sh":
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert path.stat().st_mode & 0o111, path


def _texts() -> list[str]:
    """Every string of the package; a formatted value becomes a gap."""
    found = []
    for path in (_ROOT / "afad_tfdata").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                found.append("\0".join(p if isinstance(p, str) else "" for p in parts))
    # In a logged text, %s marks a gap.
    return [re.sub(r"%[sd.\dg]+|\0+", "\0", text) for text in found]


def test_messages_in_troubleshooting_are_those_of_the_code():
    headings = re.findall(
        r"^### `(.+)`$", (_ROOT / "docs/troubleshooting.md").read_text(), re.M
    )
    assert len(headings) >= 20
    texts = _texts()
    for heading in headings:
        pieces = [re.escape(p.strip(" ")) for p in heading.split("...") if p.strip()]
        pattern = re.compile(r"[\s\S]*".join(pieces))
        assert any(pattern.search(text) for text in texts), heading


def _blocks(path: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("name", ["README.md", *_names(_DOCS)])
def test_python_blocks_use_public_names(name):
    for block in _blocks(_ROOT / name):
        check_public_names(block)


def check_public_names(code: str) -> None:
    """What is imported from the package, and its attributes, must be public."""
    tree = ast.parse(code)
    public = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "afad_tfdata":
            for alias in node.names:
                module = f"afad_tfdata.{alias.name}"
                assert module in test_imports._PUBLIC, module
                public[alias.name] = test_imports._PUBLIC[module]
    for node in ast.walk(tree):
        owner = getattr(node, "value", None)
        if isinstance(node, ast.Attribute) and isinstance(owner, ast.Name):
            if owner.id in public:
                assert node.attr in public[owner.id], ast.unparse(node)


@pytest.mark.parametrize("name", _names(_DOCS))
def test_names_in_python_blocks_exist(name):
    for block in _blocks(_ROOT / name):
        tree = ast.parse(block)
        modules = {
            alias.name: importlib.import_module(f"afad_tfdata.{alias.name}")
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "afad_tfdata"
            for alias in node.names
        }
        for node in ast.walk(tree):
            owner = getattr(node, "value", None)
            if isinstance(node, ast.Attribute) and isinstance(owner, ast.Name):
                if owner.id in modules:
                    assert hasattr(modules[owner.id], node.attr), ast.unparse(node)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(
                node.func, ast.Attribute
            ):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in modules:
                function = getattr(modules[owner.id], node.func.attr)
                known = inspect.signature(function).parameters
                for keyword in node.keywords:
                    assert keyword.arg in known, f"{ast.unparse(node.func)} in {name}"


def _run(block: str, records: str, **scope) -> dict:
    code = block.replace('"records"', repr(records)).replace('"records/', '"RECORDS/')
    code = code.replace('f"records/', 'f"RECORDS/').replace("RECORDS", records)
    code = code.replace("BATCH = 128", "BATCH = 8").replace(
        "start_step=1234", "start_step=3"
    )
    code = code.replace("tf.distribute.MirroredStrategy()", "two_replicas")
    exec(compile(code, "docs", "exec"), scope)  # noqa: S102
    return scope


@pytest.mark.parametrize(
    "title",
    ["# The input pipeline", "## In model.fit", "## In evaluation", "## Records of"],
)
def test_blocks_of_input_run(title, sample_records):
    _run(_block("docs/input.md", title), sample_records)


def test_model_fit_of_input_takes_a_step_of_a_split_smaller_than_a_batch(
    sample_records,
):
    """It was told 0 steps, and its epoch had no end."""
    block = _block("docs/input.md", "## In model.fit")
    scope = _run(block.replace("BATCH = 128", "BATCH = 256"), sample_records)
    assert int(scope["model"].optimizer.iterations) == 1


def test_custom_loop_of_input_runs(sample_records, two_replicas):
    block = _block("docs/input.md", "## In a custom loop")
    scope = _run(block, sample_records, two_replicas=two_replicas)
    assert 0 < float(scope["loss"]) < 100


def test_tf_keras_of_input_runs(sample_records):
    pytest.importorskip("tf_keras")
    _run(_block("docs/input.md", "## In a tf-keras"), sample_records)


@pytest.mark.parametrize(
    "library, title",
    [
        ("wandb", "### Weights and Biases"),
        ("mlflow", "### MLflow"),
        ("optuna", "### Optuna"),
    ],
)
def test_callbacks_of_training_run(
    library, title, sample_records, tmp_path, monkeypatch
):
    """Where the library is installed; without a network."""
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    small = {"image_size": 16, "epochs": 2, "steps_per_epoch": 2, "devices": "cpu"}
    block = _block("docs/training.md", title).replace("n_trials=20", "n_trials=1")
    block = block.replace("epochs=10,", f"**{small}, global_batch_size=8,")
    # Prunes every trial: no mean error is 0.
    block = block.replace(
        "MedianPruner(n_startup_trials=3)", "ThresholdPruner(upper=0)"
    )
    scope = _run(block, sample_records)
    if library == "optuna":
        (trial,) = scope["study"].trials
        assert trial.state.name == "PRUNED" and len(trial.intermediate_values) == 1
        return
    wandb = library == "wandb"
    made = scope["WandbLogger"]() if wandb else scope["MlflowLogger"]("file:m")
    config = trainer.TrainConfig(
        records_dir=sample_records,
        run_dir="run",
        backbone="small_cnn",
        stage="tuning",
        global_batch_size=8,
        **small,
    )
    trainer.train(config, callbacks=[made])
    left = "wandb/offline-run-*/*.wandb" if wandb else "m/*/*/metrics/validation/mae"
    found = list(tmp_path.glob(left))
    assert len(found) == 1


def test_reading_by_hand_as_format_says(sample_records, capsys):
    scope = _run(_block("docs/format.md", "## The index"), sample_records)
    assert scope["image"][:2] == b"\xff\xd8"
    assert "bytes" in capsys.readouterr().out


def _block(name: str, title: str) -> str:
    """The first Python block after a heading."""
    text = (_ROOT / name).read_text()
    found = re.search(
        rf"^{re.escape(title)}.*?^```python\n(.*?)^```", text, re.M | re.S
    )
    assert found, title
    return found.group(1)


def test_determinism_names_every_flag_that_may_change():
    text = (_ROOT / "docs/determinism.md").read_text()
    row = re.search(r"^\| at any time .*?\n.*?\n\| (.*?) \| (.*?) \|$", text, re.M)
    assert row
    free, restart = (set(re.findall(r"`--(\w+)`", cell)) for cell in row.groups())
    # --epochs is free under a condition only; --start_epoch is the heading.
    assert free == train_config.FREE_FIELDS - {"start_epoch"} | {"epochs"}
    assert restart == train_config.RESTART_FIELDS


def test_format_names_every_field():
    text = (_ROOT / "docs/format.md").read_text()
    cells = re.findall(r"^\| ([^|]+) \|", text, re.M)  # The first of each row.
    code = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    features = [
        v for n, v in vars(schema).items() if n.startswith(("IMAGE_", "LABEL_"))
    ]
    wanted = {
        *(f for f in features if isinstance(f, str)),
        *(schema.INDEX_DTYPE.names or ()),
        *(field.name for field in dataclasses.fields(schema.Manifest)),
        "checksum",
    }
    assert not wanted - code
    assert f"{schema.INDEX_DTYPE.itemsize} bytes a record" in text
