"""Imports point one way, folder by folder, and only the commands know absl."""

from __future__ import annotations

import ast
import configparser
import importlib
import pathlib
import subprocess
import sys

import pytest

import afad_tfdata

_PACKAGE = pathlib.Path(afad_tfdata.__file__).parent
_BIN = _PACKAGE.parent / "bin"
_HEAVY = {"tensorflow", "keras", "matplotlib", "h5py", "cv2", "simplejpeg", "absl"}

# From the ground up.  A module may import from its own floor's folder and from floors
# below, never from a floor above or from another folder of its own floor.  A front door
# is on the floor of the folder behind it.
_FLOORS = (
    ("common",),
    ("storage", "images"),
    ("writing", "reading", "models", "metrics"),
    ("training",),
    ("freezing",),
    ("predicting", "measuring", "evaluating"),
    ("describing",),
    ("reporting",),
    ("commands",),
    ("bin",),
)
_FRONT_DOORS = {
    "__init__": "common",
    "schema": "storage",
    "preprocess": "images",
    "augment": "images",
    "faces": "images",
    "records": "writing",
    "input_fn": "reading",
    "trainer": "training",
    "freeze": "freezing",
    "gpu_check": "measuring",
    "cards": "describing",
    "cross_validation": "commands",
    "doctor": "commands",
    "evaluation": "evaluating",
    "input_benchmark": "commands",
    "prediction": "predicting",
    "report": "reporting",
}
_RANK = {folder: rank for rank, floor in enumerate(_FLOORS) for folder in floor}

# What other programs may import, with the names in it.  Whatever is not here may
# change without notice.
_PUBLIC = {
    "afad_tfdata": {"__version__"},
    "afad_tfdata.records": {"WriteConfig", "write_records"},
    "afad_tfdata.input_fn": {
        *("InputConfig", "train_input_fn", "eval_input_fn"),
        *("num_examples", "readable_errors", "open_records", "Batches"),
    },
    "afad_tfdata.trainer": {
        *("TrainConfig", "TrainResult", "train"),
        *("TrainEvent", "StopTraining"),
    },
    "afad_tfdata.freeze": {"FreezeConfig", "freeze"},
    "afad_tfdata.evaluation": {"EvaluateConfig", "evaluate"},
    "afad_tfdata.prediction": {"PredictConfig", "Predictions", "predict"},
    "afad_tfdata.report": {"ReportConfig", "write_report"},
    "afad_tfdata.schema": {"Manifest", "load_manifest", "load_index"},
    "afad_tfdata.preprocess": {"normalize", "resize", "decode_and_resize"},
    "afad_tfdata.augment": {"AugmentConfig", "augment_images"},
    "afad_tfdata.faces": {
        *("FaceCrop", "cut_faces", "find_faces", "load_detector"),
    },
    "afad_tfdata.common.errors": {
        *("AfadError", "UsageError", "DataError"),
        *("PreemptedError", "WorkerLostError"),
    },
    "afad_tfdata.models": {
        *("ModelConfig", "build_model", "load", "save", "training_model"),
    },
}


def _files() -> dict[str, pathlib.Path]:
    """Every module by its dotted name within the package; those of bin/ as bin.NAME."""
    found = {
        ".".join(path.relative_to(_PACKAGE).with_suffix("").parts): path
        for path in sorted(_PACKAGE.rglob("*.py"))
    }
    return found | {f"bin.{path.stem}": path for path in sorted(_BIN.glob("*.py"))}


_FILES = _files()


def _folder(module: str) -> str:
    """The folder that a module belongs to."""
    first, _, rest = module.partition(".")
    return first if rest else _FRONT_DOORS[first]


def _imports(tree: ast.Module, *, nested: bool) -> set[str]:
    """What a file imports: our modules by dotted name, others by package."""
    found: set[str] = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports name the whole path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            found.add(_ours(rest) if package == "afad_tfdata" else package)
    return found


def _ours(name: str) -> str:
    """The module behind a name within the package."""
    if name in _FILES:
        return name
    if f"{name}.__init__" in _FILES:
        return f"{name}.__init__"
    head = name.rpartition(".")[0]  # A name in a module.
    return _ours(head) if head else "__init__"


def _misplaced(module: str, imports: set[str]) -> list[str]:
    """Which of a module's imports point upwards or sideways."""
    own = _folder(module)
    wrong = []
    for other in imports & set(_FILES):
        theirs = _folder(other)
        if other == "__init__" or own == theirs:
            continue
        if _RANK[theirs] >= _RANK[own]:
            wrong.append(other)
    return sorted(wrong)


_IMPORTS = {
    module: _imports(ast.parse(path.read_text()), nested=True)
    for module, path in _FILES.items()
}


def test_every_module_has_a_floor():
    for module in _FILES:
        assert _folder(module) in _RANK, module
    folders = {p.name for p in _PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert folders | {"bin", "commands"} == set(_RANK)
    doors = {p.stem for p in _PACKAGE.glob("*.py")}
    assert doors == set(_FRONT_DOORS)


@pytest.mark.parametrize("module", _FILES)
def test_imports_point_downwards(module):
    assert not _misplaced(module, _IMPORTS[module])


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("common.files", "from afad_tfdata.storage import schema"),
        ("storage.schema", "from afad_tfdata.images import codec"),
        ("reading.order", "from afad_tfdata.training import step"),
        ("reading.order", "from afad_tfdata.writing.plan import Plan"),
        ("writing.plan", "def f():\n    import afad_tfdata.input_fn"),
        ("freeze", "from afad_tfdata import evaluation"),
        ("training.step", "from afad_tfdata import freeze"),
        ("evaluation", "from afad_tfdata.bin import command"),
    ],
)
def test_an_import_upwards_is_found(module, line):
    assert _misplaced(module, _imports(ast.parse(line), nested=True))


def test_an_import_downwards_is_not():
    for module, line in (
        ("writing.plan", "from afad_tfdata.storage import schema"),
        ("bin.train", "from afad_tfdata.training import config as train_config"),
        ("freezing.model_source", "from afad_tfdata.training import checkpoints"),
        ("training.run", "from afad_tfdata import input_fn"),
    ):
        assert not _misplaced(module, _imports(ast.parse(line), nested=True))


def test_no_module_imports_itself_in_a_circle():
    for module in _FILES:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            for name in _IMPORTS.get(waiting.pop(), set()) & set(_FILES):
                assert name != module, module
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)


def test_freezing_does_not_know_the_trainer():
    for module in _FILES:
        if _folder(module) in ("freezing", "reading") or module == "prediction":
            assert "trainer" not in _IMPORTS[module], module


def test_only_the_commands_know_absl():
    for module, imports in _IMPORTS.items():
        assert module.startswith("bin.") or "absl" not in imports, module


@pytest.mark.parametrize("module", _FILES)
def test_importing_a_module_loads_nothing_heavy(module):
    # layers_of_0_1_0.py subclasses Keras layers; it is imported inside functions only.
    if module in ("models.layers_of_0_1_0", "common.lazy_imports", "bin.absl_flags"):
        pytest.skip("is there to import it")
    imports = _imports(ast.parse(_FILES[module].read_text()), nested=False)
    assert not imports & (_HEAVY | {"models.layers_of_0_1_0"})


def test_public_names_are_there():
    for name, wanted in _PUBLIC.items():
        module = importlib.import_module(name)
        missing = {n for n in wanted if not hasattr(module, n)}
        assert not missing, f"{name}: {missing}"


def test_modules_are_attributes_of_the_package():
    """In a new process, and without loading anything heavy."""
    code = (
        "import sys, afad_tfdata\n"
        "assert 'afad_tfdata.records' not in sys.modules\n"
        "for name in afad_tfdata.__all__:\n"
        "    assert name in dir(afad_tfdata), name\n"
        "    assert getattr(afad_tfdata, name).__name__.endswith(name), name\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert not hasattr(afad_tfdata, 'recrods')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    public = {name.partition(".")[2] for name in _PUBLIC} - {"", "common.errors"}
    assert public == set(afad_tfdata.__all__)


def test_every_folder_is_installed():
    config = configparser.ConfigParser()
    config.read(_PACKAGE.parent / "setup.cfg")
    installed = set(config["options"]["packages"].split())
    folders = {path.parent for path in _PACKAGE.rglob("__init__.py")}
    wanted = {
        ".".join(("afad_tfdata", *f.relative_to(_PACKAGE).parts)) for f in folders
    }
    assert installed == wanted | {"afad_tfdata.bin"}


def test_modules_are_of_a_size_to_be_read():
    for module, path in _FILES.items():
        assert len(path.read_text().splitlines()) <= 600, module


def test_nothing_that_is_read_can_run_code():
    """Pickles and their like run what they contain when they are loaded."""
    running = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib"}
    running |= {"marshal", "shelve", "jsonpickle"}
    for path in sorted([*_PACKAGE.rglob("*.py"), *_BIN.rglob("*.py")]):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Call):
                # __import__("pickle") and importlib.import_module("pickle").
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found = {str(name).partition(".")[0] for name in names} & running
            assert not found, f"{path}:{node.lineno} uses {found}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                value = getattr(node.value, "value", None)
                assert value is False, f"{path}:{node.value.lineno} allows pickles"
