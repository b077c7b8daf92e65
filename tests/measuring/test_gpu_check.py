"""The check as a whole: its table, its files, and what it refuses."""

from __future__ import annotations

import json
import os

import pytest

from afad_tfdata import gpu_check
from afad_tfdata.common import errors, files
from afad_tfdata.measuring import check_table, gpus_and_driver, part_processes
from tests.bin import command_line

_ROWS = [
    check_table.Row("card", "H100", part="machine"),
    check_table.Row(
        "waiting",
        "2 %",
        "at most 1 %",
        check_table.MISSED,
        "8 cores | 4",
        part="input",
    ),
    check_table.Row("loop", "0 %", "at most 1 %", check_table.MET, part="loop"),
    check_table.not_applicable("nccl", "one GPU"),
]


def test_one_real_process_and_the_files(tmp_path):
    config = gpu_check.GpuCheckConfig(
        output_dir=str(tmp_path / "out"), devices="cpu", parts=("all_reduce",)
    )
    result = gpu_check.check(config)
    assert not result.missed
    parts = [row.part for row in result.found]
    assert parts[0] == "machine" and parts[-1] == "all_reduce:one_device"
    saved = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert saved == result.to_dict()
    assert saved["devices"] == ["cpu:0"] and saved["gpus"] == []
    page = (tmp_path / "out" / "gpu_check.md").read_text()
    assert saved["tensorflow"] in page and "the times mean nothing" in page
    assert (tmp_path / "out" / "logs" / "machine.log").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parts": ("xla", "speed")}, ("--parts", "'speed'", "parity")),
        ({"minutes": 0.0}, ("--minutes", "0")),
        ({"minutes": float("nan")}, ("--minutes",)),
        ({"sizes": "huge"}, ("--sizes", "tiny")),
        ({"data_dir": "/no/such"}, ("--data_dir=/no/such",)),
    ],
)
def test_wrong_flags_are_named(fields, words):
    with pytest.raises(errors.UsageError) as caught:
        gpu_check.GpuCheckConfig(**fields)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("device", ["gpu:7", "cpu:0", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(device, tmp_path):
    result = command_line.run(
        "gpu_check", f"--devices={device}", f"--output_dir={tmp_path}", cwd=tmp_path
    )
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert result.returncode == 1 and len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert device in lines[0]


def test_without_a_gpu_the_error_says_how_to_try_the_check(tmp_path, monkeypatch):
    def run(self, group, settings):
        (part,) = group
        assert part.name == "machine"
        facts = {"gpus": [], "devices": ["cpu:0"], "exclusive": False}
        files.write_json(os.path.join(settings.work_dir, gpus_and_driver.FACTS), facts)
        return []

    monkeypatch.setattr(part_processes.Supervisor, "run_group", run)
    with pytest.raises(errors.UsageError, match="no GPU here; .*--devices=cpu:2"):
        gpu_check.check(gpu_check.GpuCheckConfig(output_dir=str(tmp_path)))


def test_the_table_names_targets_and_reasons():
    text = check_table.table_text(_ROWS)
    assert "MISS waiting: 2 % (target: at most 1 %) -> 8 cores | 4" in text
    assert "ok   loop" in text and "n/a  nccl" in text
    assert text.endswith("1 targets met, 1 missed, 1 not applicable")


def test_the_page_has_a_line_for_each_row():
    facts = {
        "date": "2026-01-02",
        "seconds": 400,
        "gpus": [{"card": "H100"}, {"card": "H100"}],
        "tensorflow": "2.17.1",
        "driver": "560.1",
        "afad_tfdata": "1",
    }
    page = check_table.markdown_page(_ROWS, facts)
    assert "2 x H100, driver 560.1, TensorFlow 2.17.1" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(_ROWS)
    assert "| input | waiting | 2 % | at most 1 % | missed: 8 cores \\| 4 |" in table


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.01, check_table.MET),
        (0.0101, check_table.MISSED),
        (float("nan"), check_table.MISSED),
    ],
)
def test_a_limit_is_met_or_missed(value, verdict):
    row = check_table.at_most("x", value, 0.01, "{:.1%}", why="slow")
    assert row.verdict == verdict and row.target == "at most 1.0%"
    assert row.why == ("slow" if verdict == check_table.MISSED else "")
    other = check_table.at_most("x", value, 0.01, "{:.1%}", not_applicable="no GPU")
    assert other.verdict == check_table.NOT_APPLICABLE and other.why == "no GPU"


def test_a_missed_target_is_status_1(tmp_path, monkeypatch):
    from afad_tfdata.bin import gpu_check as program

    found = gpu_check.CheckResult(_ROWS, {})
    monkeypatch.setattr(gpu_check, "check", lambda config: found)
    config = gpu_check.GpuCheckConfig(output_dir=str(tmp_path))
    output = program.main(config, [])
    assert output.exit_status == 1
    assert output.value["rows"][1]["verdict"] == check_table.MISSED
    found = gpu_check.CheckResult(_ROWS[::2], {})
    assert program.main(config, []).exit_status == 0


def test_supervisor_is_told_the_minutes():
    assert (
        part_processes.Supervisor(0.5)._deadline
        > part_processes.Supervisor(0.1)._deadline
    )
