"""Starts functions of this package in Python processes of their own.

::

    command = child_process.command("afad_tfdata.writing.writer_processes:main", "7")
    subprocess.run(command)                  # calls writer_processes.main(["7"]) there

Such a process sees the standard library, what is installed, and this package.  It does
not see the folder in which the command was called, nor that of the caller's program: a
``random.py`` or ``queue.py`` there would replace a module of the standard library.  For
that reason the process is not started by ``python -m``.  It finds this package even if
the package is not installed, but only on the caller's ``sys.path``.

Results must not be sent on its standard output, because site packages and libraries
print there, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import sys


def command(function: str, *arguments: str) -> list[str]:
    """The command line of a child process that calls a function of this package.

    Args:
      function: ``module:name``; it gets a list of the arguments, and returns the exit
        status.
      *arguments: For the function.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    start = json.dumps([_installed_paths(), package, function])
    # -I isolates the process: it ignores the caller's folder, PYTHONPATH and other
    # settings of Python in the environment.
    python = [sys.executable, "-I", *_interpreter_flags()]
    return [*python, os.path.abspath(__file__), start, *arguments]


def _interpreter_flags() -> list[str]:
    """Flags of this interpreter that an isolated child process would not inherit."""
    flags = []
    if sys.flags.utf8_mode:
        flags += ["-X", "utf8"]  # It decides how the names of files are decoded.
    if sys.dont_write_bytecode:
        flags.append("-B")
    if sys.pycache_prefix:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return flags


def _installed_paths() -> list[str]:
    """The directories of ``sys.path`` that packages were installed into, in order."""
    found = [os.path.abspath(path) for path in sys.path if path]
    return [path for path in dict.fromkeys(found) if _is_installed_path(path)]


def _is_installed_path(directory: str) -> bool:
    """Whether an installer has put packages into a directory of ``sys.path``.

    Clusters and notebooks have such directories anywhere on PYTHONPATH.
    """
    if os.path.basename(directory) in ("site-packages", "dist-packages"):
        return True
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    return any(name.endswith(".dist-info") for name in names)


def _start_child() -> int:
    """Runs in the child process: sets its path, and calls the function."""
    installed, package, function = json.loads(sys.argv[1])
    # The standard library stays first; then what is installed, in the caller's order;
    # then what the installation's .pth files name.
    library = itertools.takewhile(lambda path: not _is_installed_path(path), sys.path)
    sys.path[:] = dict.fromkeys([*library, *installed, *sys.path])
    name = os.path.basename(package)
    spec = importlib.util.spec_from_file_location(
        name,
        os.path.join(package, "__init__.py"),
        submodule_search_locations=[package],
    )
    if spec is None or spec.loader is None:  # Never for a path that ends with .py.
        raise ImportError(f"{package} cannot be loaded")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module_name, _, function_name = function.partition(":")
    called = getattr(importlib.import_module(module_name), function_name)
    return called(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(_start_child())
