"""Parts run in processes of their own, and whatever happens to one is a row."""

from __future__ import annotations

import json
import sys

import pytest

from afad_tfdata.common import child_process
from afad_tfdata.measuring import (
    check_settings,
    check_table,
    part_list,
    part_processes,
)

_ROW = json.dumps(
    {"name": "a", "measured": "1", "verdict": check_table.MET, "part": "xla"}
)
# What a process does after its first row.
_ENDS = {
    "nothing": "",
    "abort": "print('F0101 12:00:00 XLA is not happy', flush=True); os.abort()",
    "status": "print('no such file', flush=True); sys.exit(3)",
    "hang": "time.sleep(60)",
    "cut": 'open(path, \'a\').write(\'{"name": "b", "mea\')',
}


@pytest.fixture
def settings(tmp_path) -> check_settings.CheckSettings:
    return check_settings.settings_for(("cpu:2",), 0, tiny=True, work_dir=str(tmp_path))


@pytest.fixture
def process(monkeypatch):
    """Replaces the process of a part by a short program; returns the parts it got."""
    asked = []

    def use(end: str) -> list[str]:
        def command(function, names, settings, path, limit):
            asked.append(names)
            row = _ROW.replace("xla", names.split(",")[0])
            text = (
                f"import os, sys, time\npath = {path!r}\n"
                f"open(path, 'a').write({row!r} + '\\n')\n{_ENDS[end]}"
            )
            return [sys.executable, "-c", text]

        monkeypatch.setattr(child_process, "command", command)
        return asked

    return use


@pytest.mark.parametrize(
    ("end", "measured", "why"),
    [
        ("abort", "ended by SIGABRT", "XLA is not happy"),
        ("status", "ended with status 3", "no such file"),
        ("hang", "ended after 5 s, its time limit", "it says nothing"),
    ],
)
def test_a_bad_end_is_a_row_and_what_was_measured_stays(
    process, settings, monkeypatch, end, measured, why
):
    process(end)
    monkeypatch.setattr(part_processes, "_PATIENCE", 5 / 300)
    found = part_processes.Supervisor(1).run_group(
        [part_list.find_part("xla")], settings
    )
    assert [row.verdict for row in found] == [check_table.MET, check_table.MISSED]
    assert found[1].measured == measured
    assert why in found[1].why
    assert {row.part for row in found} == {"xla"}


@pytest.mark.parametrize("end", ["nothing", "cut"])
def test_a_process_that_ends_well_adds_no_row(process, settings, end):
    process(end)
    found = part_processes.Supervisor(1).run_group(
        [part_list.find_part("xla")], settings
    )
    assert [row.name for row in found] == ["a"]


def test_no_time_is_left(process, settings):
    asked = process("nothing")
    (row,) = part_processes.Supervisor(0).run_group(
        [part_list.find_part("xla")], settings
    )
    assert row.verdict == check_table.MISSED and "--minutes" in row.why
    assert not asked


def test_a_part_that_cannot_run_here_is_not_started(process, settings):
    asked = process("nothing")
    (row,) = part_processes.Supervisor(1).run_group(
        [part_list.find_part("all_reduce:nccl")], settings
    )
    assert row.verdict == check_table.NOT_APPLICABLE and "no GPU" in row.why
    assert not asked


def test_rows_keep_the_order_of_the_parts(process, settings):
    asked = process("nothing")
    chosen = part_list.select_parts(("loop", "overflow", "resume"))
    found = part_processes.Supervisor(1).run_all(chosen, settings, jobs=3)
    assert [row.part for row in found] == ["overflow", "resume", "loop"]
    assert sorted(asked) == ["loop", "overflow", "resume"]


def test_parts_share_processes_only_if_no_time_is_judged(process, tmp_path):
    asked = process("nothing")
    chosen = part_list.select_parts(("parity", "loop", "input"))
    tiny = check_settings.settings_for(("cpu:2",), 0, tiny=True, work_dir=str(tmp_path))
    part_processes.Supervisor(1).run_all(chosen, tiny, jobs=1)
    assert sorted(asked) == [
        "loop,input",
        "parity:augmentation,parity:step,parity:graph",
    ]
    asked.clear()
    (tmp_path / "full").mkdir()
    full = check_settings.settings_for(
        ("gpu:0",), 1, tiny=False, work_dir=str(tmp_path / "full")
    )
    found = part_processes.Supervisor(1).run_all(chosen, full, jobs=1)
    assert asked == [part.name for part in chosen]
    assert [row.part for row in found] == asked


def test_every_part_has_a_function():
    import importlib

    for part in (part_list.MACHINE, part_list.FACES, *part_list.CHECKS):
        module, _, name = part.function.partition(":")
        assert hasattr(
            importlib.import_module(f"afad_tfdata.measuring.{module}"), name
        ), part
