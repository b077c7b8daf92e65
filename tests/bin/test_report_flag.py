"""``--report`` of the commands whose results a page shows."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from afad_tfdata import evaluation, records, report
from afad_tfdata.bin import report_flag
from afad_tfdata.common import errors
from afad_tfdata.training import config as train_config
from tests.bin.command_line import assert_one_line, run
from tests.reporting import dom

OLD = pathlib.Path(__file__).parents[1] / "data" / "written_by_0_1_0"


def test_write_records_names_its_report(sample_tree, tmp_path):
    flags = [f"--data_dir={sample_tree}", "--image_size=16", "--num_workers=1"]
    out = f"--output_dir={tmp_path}/out"
    result = run("write_records", *flags, out, "--report", "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["report"] == f"{tmp_path}/out/report.html"
    assert dom.check_numbers(dom.load(value["report"]))
    # The page is no part of the data set.
    again = run("inspect_records", f"--records_dir={tmp_path}/out", "--verify")
    assert again.returncode == 0
    result = run("write_records", *flags, out, "--report", "--shard_range=0:1")
    assert_one_line(result, 1, "--report", "--shard_range")
    result = run("inspect_records", f"--records_dir={tmp_path}/out", "--report")
    assert_one_line(result, 1, "report", "--help")


def test_a_report_that_cannot_be_written_is_one_line_after_the_result(
    sample_tree, tmp_path
):
    out = tmp_path / "out"
    flags = [f"--data_dir={sample_tree}", "--image_size=16", "--num_workers=1"]
    (out / "report.html").mkdir(parents=True)
    result = run("write_records", *flags, f"--output_dir={out}", "--report")
    assert result.returncode == 1
    assert f"written to {out}" in result.stdout
    last = result.stderr.strip().splitlines()[-1]
    assert "cannot write" in last and "report.html" in last


def test_a_training_shows_its_run_and_data():
    config = train_config.TrainConfig(records_dir="r", run_dir="a")
    fields = report_flag.of_training(config)
    assert report.ReportConfig(**fields).run_dir == "a"
    for flags in ({"folds": 3}, {"find_learning_rate": True}):
        with pytest.raises(errors.UsageError, match="--report"):
            report_flag.of_training(
                train_config.TrainConfig(records_dir="r", run_dir="a", **flags)
            )


def test_an_evaluation_shows_its_directory():
    config = evaluation.EvaluateConfig(model="m/best.keras", records_dir="r")
    assert report_flag.of_evaluation(config) == {
        "records_dir": "r",
        "run_dir": "",
        "evaluation_dir": "m",
        "output": "m/report.html",
    }
    config = evaluation.EvaluateConfig(model="m.h5", records_dir="r", output_dir="o")
    assert report_flag.of_evaluation(config)["evaluation_dir"] == "o"
    run_dir = str(OLD / "run")
    config = evaluation.EvaluateConfig(run_dir=run_dir, records_dir="r", output_dir="o")
    fields = report_flag.of_evaluation(config)
    assert fields["run_dir"] == run_dir
    # As --help says: next to the result, and not in the run, which may be read-only.
    assert fields["output"] == "o/report.html"


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("train", ("writing", "freezing", "evaluating", "reporting")),
        ("write_records", ("reading", "freezing", "evaluating", "reporting")),
        ("evaluate", ("writing", "reporting")),
    ],
)
def test_a_command_does_not_load_what_only_its_report_needs(name, others):
    """A new process, because this one has loaded everything."""
    code = (
        f"import sys, afad_tfdata.bin.{name}\n"
        f"for other in {others}:\n"
        "    assert 'afad_tfdata.' + other not in sys.modules, other\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_records_show_their_directory():
    config = records.WriteConfig(data_dir="d", output_dir="o")
    assert report_flag.of_records(config) == {"records_dir": "o"}
