"""The programs in bin/: quick help, one-line errors, flags from configs, JSON."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys

import pytest

from tests.bin.command_line import BIN, ROOT, assert_one_line, run


def _commands() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    return sorted(
        line.split("=")[1].split(":")[0].split(".")[-1] for line in lines if line
    )


def test_every_program_is_a_command():
    programs = {p.stem for p in BIN.glob("*.py")} - {
        *("__init__", "command", "absl_flags", "report_flag", "streams")
    }
    assert set(_commands()) == programs
    for name in programs:
        assert os.access(BIN / f"{name}.py", os.X_OK), name
        length = len((BIN / f"{name}.py").read_text().splitlines())
        assert 15 <= length <= 40, (name, length)


@pytest.mark.parametrize("name", _commands())
def test_help_needs_no_tensorflow(name):
    code = (
        "import importlib, sys\n"
        f"sys.argv = ['x', '--help']\n"
        f"module = importlib.import_module('afad_tfdata.bin.{name}')\n"
        "try:\n    module.run()\nexcept SystemExit as error:\n"
        "    assert not error.code\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"usage: afad-{name.replace('_', '-')} [flags]" in result.stdout
    assert "--flagfile=FILE" in result.stdout
    example = result.stdout.partition("\nexample:\n")[2].splitlines()
    assert example and all(line.startswith("  ") for line in example)
    assert f"afad-{name.replace('_', '-')}" in example[-1]


def test_a_value_for_a_flag_that_takes_none_is_one_line():
    result = run("inspect_records", "--nojson=1")
    assert_one_line(result, 1, "--nojson=1 does not take an argument", "--help")


@pytest.mark.parametrize("name", _commands())
def test_an_unknown_flag_is_one_line(name):
    result = run(name, "--no_such_flag=1")
    assert_one_line(result, 1, "no_such_flag", "--help")


def test_programs_run_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "afad_tfdata.bin.write_records", "--help"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "usage: afad-write-records" in result.stdout


@pytest.mark.parametrize("name", ["train", "predict"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("--seed=1\n".encode("utf-8-sig"), "without one"),
        ("--seed=1\n".encode("utf-16"), "save it as UTF-8"),
        (None, "cannot read --flagfile: [Errno 2] No such file"),
    ],
    ids=["byte order mark", "UTF-16", "none"],
)
def test_a_flag_file_that_cannot_be_read_is_one_line(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / "flags").write_bytes(content)
    assert_one_line(run(name, f"--flagfile={tmp_path}/flags"), 1, said)


def test_flagfile_and_json(sample_tree, tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text(f"--data_dir={sample_tree}\n--image_size=20\n--num_workers=1\n")
    out = tmp_path / "out"
    result = run(
        "write_records", f"--flagfile={flagfile}", f"--output_dir={out}", "--json"
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["image_size"] == 20
    result = run("inspect_records", f"--records_dir={out}", "--json", "--verify")
    assert json.loads(result.stdout)["faults"] == []


def test_verify_ends_with_status_2(sample_records, tmp_path):
    import shutil

    shutil.copytree(sample_records, tmp_path / "copy")
    name = sorted(os.listdir(tmp_path / "copy"))[1]
    assert "tfrecord" in name
    with open(tmp_path / "copy" / name, "ab") as f:
        f.write(b"x")
    result = run("inspect_records", f"--records_dir={tmp_path}/copy", "--verify")
    assert result.returncode == 2
    assert name in result.stdout


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("write_records", ["--data_dir=/no/dir", "--output_dir=x"], ["/no/dir"]),
        ("write_records", ["--data_dir=.", "--format=zip"], ["tfrecord, hdf5", "zip"]),
        ("write_records", ["--data_dir=.", "--image_size=big"], ["image_size", "big"]),
        ("write_records", ["folder"], ["takes no arguments", "folder"]),
        ("inspect_records", ["--records_dir=/no/dir"], ["/no/dir/manifest.json"]),
        ("inspect_records", [], ["--records_dir is missing"]),
        ("train", ["--records_dir=/no/dir", "--run_dir=x"], ["/no/dir"]),
        ("train", ["--run_dir=x", "--task=height"], ["--task", "height"]),
        ("evaluate", ["--model=/no/model.keras", "--records_dir=/no/dir"], ["/no/"]),
        ("freeze", ["--model=/no/model.keras", "--output_dir=x"], ["/no/model"]),
        ("predict", ["--graph=/no/graph.pb", "a.jpg"], ["/no/graph.pb"]),
        ("benchmark_input", ["--records_dir=/no/dir"], ["/no/dir/manifest.json"]),
    ],
)
def test_wrong_input_is_one_line(name, flags, words, tmp_path):
    assert_one_line(run(name, *flags, cwd=tmp_path), 1, *words)


def test_an_earlier_name_of_a_flag_works_and_is_not_shown(sample_records):
    result = run(
        "inspect_records", f"--records_dir={sample_records}", "--num_workers=2"
    )
    assert result.returncode == 0, result.stderr
    shown = run("inspect_records", "--help").stdout
    assert "--num_threads" in shown and "--num_workers" not in shown


def test_help_names_the_part_that_flags_belong_to():
    text = run("train", "--help").stdout
    titles = ("flags:", "flags of the input:", "flags of the model:", "more flags:")
    places = [text.index(f"\n\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert text.index("--run_dir") < places[1] < text.index("--records_dir=")
    assert text.index("--records_dir=") < places[2] < text.index("--hidden_units")


@pytest.mark.parametrize("name", _commands())
def test_help_is_whole_sentences(name):
    lines = run(name, "--help").stdout.partition("flags")[2].splitlines()
    texts: dict[str, str] = {}
    for line in lines:
        if line.startswith("  --"):
            flag = line.split("=")[0].strip()
        elif line.startswith("      "):
            texts[flag] = f"{texts.get(flag, '')} {line.strip()}".strip()
    for flag, text in texts.items():
        plain = re.sub(r" \(default: [^()]*\)$", "", text)
        assert plain.endswith("."), f"{flag}: {text}"
        assert not re.match(r"(Of|As|Whether|Who)\b", plain), f"{flag}: {text}"
        assert len(plain.split()) >= 3, f"{flag}: {text}"
