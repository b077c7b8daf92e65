"""The processes that this package starts do not import from the user's folder."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import afad_tfdata
from afad_tfdata.common import child_process

_PACKAGE = pathlib.Path(afad_tfdata.__file__).parent
# Calls `probe.main` of a package in a folder that is only on sys.path.
_PROGRAM = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from afad_tfdata.common import child_process
command = child_process.command("afad_tfdata.probe:main", "one", "two")
sys.exit(subprocess.run(command).returncode)
"""
_PROBE = """
import importlib, json, sys
def main(arguments):
    files = {}
    for name in ("random", "queue", "json", "numpy", "cv2", "own_module"):
        try:
            files[name] = importlib.import_module(name).__file__
        except ImportError:
            files[name] = None
    print(json.dumps([arguments, __file__, files]))
    return 3
"""


def _library(root: pathlib.Path) -> pathlib.Path:
    """A folder with a small package of the same name; nothing of it is installed."""
    package = root / "library" / "afad_tfdata"
    (package / "common").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "common" / "__init__.py").touch()
    shutil.copy(child_process.__file__, package / "common")
    (package / "probe.py").write_text(_PROBE)
    return root / "library"


def test_a_users_modules_do_not_replace_the_library(tmp_path):
    library = _library(tmp_path)
    folder = tmp_path / "folder"
    (folder / "cv2").mkdir(parents=True)
    (folder / "cv2" / "__init__.py").write_text("print('my own vision')")
    for name in ("random", "queue", "json", "own_module", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"print('my own {name}')\n")
    for name in ("random", "queue", "own_module"):
        (library / f"{name}.py").write_text(f"print('my own {name}')\n")
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM, str(library)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    arguments, probe, modules = json.loads(done.stdout.splitlines()[-1])
    assert arguments == ["one", "two"]
    assert probe == str(library / "afad_tfdata" / "probe.py")
    assert modules["own_module"] is None
    assert modules["numpy"]
    for path in modules.values():
        assert path is None or not path.startswith(str(tmp_path))


def test_what_was_installed_into_another_folder_is_found(tmp_path):
    """As on clusters, whose PYTHONPATH names a folder for each package."""
    library = _library(tmp_path)
    target = tmp_path / "target"
    (target / "own_module-1.0.dist-info").mkdir(parents=True)
    (target / "own_module.py").touch()
    (target / "random.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(library)],
        cwd=library,
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    _, _, modules = json.loads(done.stdout.splitlines()[-1])
    assert modules["own_module"] == str(target / "own_module.py")
    assert not modules["random"].startswith(str(tmp_path))


def test_every_process_of_ours_starts_this_way():
    starts = [
        path.relative_to(_PACKAGE)
        for path in sorted(_PACKAGE.rglob("*.py"))
        if "sys.executable" in path.read_text()
    ]
    assert starts == [pathlib.Path("common/child_process.py")]
