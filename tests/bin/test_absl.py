"""What absl gives to every command: common flags, log lines, clean JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from afad_tfdata import __version__
from tests.bin.command_line import assert_one_line, run
from tests.bin.test_commands import _commands

# The flags that a command needs before it does anything.
_NEEDED = {
    "benchmark_input": ["--records_dir=a"],
    "cards": ["--records_dir=a"],
    "evaluate": ["--model=a", "--records_dir=b"],
    "freeze": ["--model=a", "--output_dir=b"],
    "inspect_records": ["--records_dir=a"],
    "make_sample": ["--output_dir=a"],
    "predict": ["--graph=a", "b.jpg"],
    "report": ["--records_dir=a"],
    "train": ["--records_dir=a", "--run_dir=b"],
    "write_records": ["--data_dir=.", "--output_dir=b"],
}


def _without_tensorflow(name: str, *flags: str) -> subprocess.CompletedProcess:
    code = (
        "import importlib, sys\n"
        f"sys.argv = ['x', *{list(flags)!r}]\n"
        f"module = importlib.import_module('afad_tfdata.bin.{name}')\n"
        "try:\n    module.run()\nexcept SystemExit as error:\n"
        "    assert not error.code, error.code\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result


@pytest.mark.parametrize("name", _commands())
def test_version_needs_no_tensorflow(name):
    shown = _without_tensorflow(name, "--version").stdout
    assert shown == f"afad-{name.replace('_', '-')} {__version__}\n"


@pytest.mark.parametrize("name", _commands())
def test_help_as_xml_needs_no_tensorflow(name):
    root = ElementTree.fromstring(_without_tensorflow(name, "--helpxml").stdout)
    assert root.findtext("program") == f"afad-{name.replace('_', '-')}"
    names = {flag.findtext("name") for flag in root.iter("flag")}
    assert {"json", "verbosity", "only_check_args"} <= names


@pytest.mark.parametrize("name", _commands())
def test_checking_flags_needs_no_tensorflow(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--only_check_args", "--json", *_NEEDED.get(name, [])]
    assert _without_tensorflow(name, *flags).stdout == ""
    assert os.listdir(tmp_path) == []


def test_checking_flags_finds_wrong_ones():
    result = run("train", "--only_check_args", "--task=height", "--run_dir=x")
    assert_one_line(result, 1, "--task", "height")


def test_help_ends_with_the_flags_of_every_command():
    text = run("inspect_records", "--help").stdout
    own, title, common = text.partition("\n\nflags of every command:\n")
    assert title and "--records_dir" in own and "--verbosity=N" in common
    short = run("inspect_records", "--helpshort").stdout
    assert short.startswith(own) and "--verbosity" not in short


def test_help_next_to_a_wrong_flag_is_shown():
    assert "usage:" in run("train", "--no_such_flag", "--help").stdout


def test_undefok(sample_records):
    flags = [f"--records_dir={sample_records}", "--of_others=3"]
    assert_one_line(run("inspect_records", *flags), 1, "of_others")
    assert run("inspect_records", *flags, "--undefok=of_others").returncode == 0


def _write(sample_tree, out, *flags: str) -> subprocess.CompletedProcess:
    more = ("--image_size=20", "--num_workers=1", *flags)
    result = run(
        "write_records", f"--data_dir={sample_tree}", *more, f"--output_dir={out}"
    )
    assert result.returncode == 0, result.stderr
    return result


def test_verbosity_silences_log_lines_and_changes_no_result(sample_tree, tmp_path):
    loud = _write(sample_tree, tmp_path / "loud")
    quiet = _write(sample_tree, tmp_path / "quiet", "-v=-1")
    assert loud.stderr and quiet.stderr == ""
    assert quiet.stdout == loud.stdout.replace("loud", "quiet")
    for path in sorted((tmp_path / "loud").glob("*.tfrecord*")):
        assert path.read_bytes() == (tmp_path / "quiet" / path.name).read_bytes()


def test_log_dir(sample_tree, tmp_path):
    logs = tmp_path / "logs"
    flag = f"--log_dir={logs}"
    assert _write(sample_tree, tmp_path / "a", flag).stderr == ""
    link = logs / "afad-write-records.INFO"
    assert "images" in link.read_text()
    (path,) = set(logs.iterdir()) - {link}
    assert path.name.startswith("afad-write-records.") and ".log.INFO." in path.name
    both = _write(sample_tree, tmp_path / "b", flag, "--alsologtostderr")
    assert "images" in both.stderr and len(list(logs.iterdir())) == 3
    only = _write(sample_tree, tmp_path / "c", flag, "--logtostderr")
    assert "images" in only.stderr and len(list(logs.iterdir())) == 3


_PRINTS = """
import importlib, os, sys
command = importlib.import_module("afad_tfdata.bin.command")
module = importlib.import_module("afad_tfdata.bin.{name}")
main = module.main
def noisy(config, arguments):
    print("Downloading data from a library")
    os.write(1, b"from C++\\n")
    os.system("echo from another program")
    return command.Output("text", {{"value": "\\u00e9"}})
# The command takes its name from the file of its function.
noisy.__code__ = noisy.__code__.replace(co_filename=main.__code__.co_filename)
module.main = noisy
sys.argv = ["x", "--json", *{flags!r}]
module.run()
"""


@pytest.mark.parametrize("name", _commands())
def test_json_is_all_on_standard_output(name):
    code = _PRINTS.format(name=name, flags=_NEEDED.get(name, []))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"value": "\u00e9"}
    for line in ("Downloading data", "from C++", "from another program"):
        assert line in result.stderr


_IMPORT = """
import os, sys, types
from importlib import abc, machinery
from afad_tfdata.common import lazy_imports

class Fake(abc.MetaPathFinder, abc.Loader):
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            return machinery.ModuleSpec(name, self)
    def exec_module(self, module):
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called"
                    b" are written to STDERR\\n"
                    b"I0000 00:00:1.2     7 port.cc:153] oneDNN operations are on"
                    b"\\nF0000 an error that counts\\n")
        {then}
        module.value = 3

sys.meta_path.insert(0, Fake())
lazy_imports.hide_start_lines()
print(lazy_imports.tf.value)
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize(
    ("then", "level", "status"),
    [("", "", 0), ("os.abort()", "", -6), ("raise ImportError", "", 1), ("", "0", 0)],
)
def test_start_lines_of_tensorflow_are_hidden_and_errors_are_not(then, level, status):
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(then=then or "pass")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.returncode == status, result.stderr
    assert "F0000 an error that counts\n" in result.stderr
    assert ("oneDNN" in result.stderr) == bool(level)
    assert ("InitializeLog" in result.stderr) == bool(level)
    assert result.stderr.endswith("after\n") == (not then)


def test_flags_of_a_run_continue_it(sample_records, tmp_path):
    flags = [
        *(f"--records_dir={sample_records}", f"--run_dir={tmp_path / 'a, run'}"),
        *("--task=gender", "--backbone=small_cnn", "--weights=none", "--epochs=1"),
        "--schedule=constant",  # Its number of epochs may be raised.
        *("--stage=tuning", "--global_batch_size=8", "--noaugment_preview", "--json"),
    ]
    first = run("train", *flags)
    assert first.returncode == 0, first.stderr
    path = tmp_path / "a, run" / "flags.txt"
    before = path.read_text()
    assert before.splitlines() == sorted(before.splitlines())
    assert "--json" not in before and "--backbone=small_cnn\n" in before
    assert "--seed" not in before  # It has its default.
    again = run("train", f"--flagfile={path}", "--epochs=2", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["epochs"] == 2, again.stderr
    assert path.read_text() == before.replace("--epochs=1", "--epochs=2")
    refused = run("train", f"--flagfile={path}", "--seed=9")
    assert refused.returncode == 1
    assert path.read_text() == before.replace("--epochs=1", "--epochs=2")
