"""What the doctor says is true on this machine."""

from __future__ import annotations

import configparser
import pathlib
import re
import sys
import types

import pytest
import tensorflow as tf

from afad_tfdata import doctor, gpu_check
from afad_tfdata.common import compute_capability, errors, tensorflow_io_extra, xla
from afad_tfdata.measuring import check_table
from afad_tfdata.models import hub_backbones


def test_summary_names_versions_and_devices(tmp_path):
    findings = doctor.examine(doctor.DoctorConfig(output_dir=str(tmp_path)))
    by_name = {finding.name: finding for finding in findings}
    assert by_name["tensorflow"].found == tf.__version__
    assert by_name["gpu"].works is None
    assert "free" in by_name["disk"].found
    text = doctor.summary_text(findings)
    for finding in findings:
        assert finding.name in text
        if finding.works is False:
            assert finding.advice in text


def test_a_missing_directory_is_a_finding_and_no_crash():
    findings = doctor.examine(doctor.DoctorConfig(output_dir="/no/such/dir"))
    disk = next(finding for finding in findings if finding.name == "disk")
    assert disk.works is False
    assert "/no/such/dir" in disk.found


@pytest.mark.parametrize(
    ("capability", "built", "expected"),
    [
        ((8, 0), ["sm_60", "sm_80", "compute_90"], "kernels"),
        ((8, 6), ["sm_60", "sm_80", "compute_90"], "kernels"),  # A later minor.
        ((9, 0), ["sm_80", "compute_90"], "kernels"),
        ((12, 0), ["sm_80", "compute_90"], "translated"),
        ((12, 0), ["sm_80", "sm_90a"], ""),
        ((7, 0), ["sm_80", "compute_90"], ""),  # Older than everything in it.
        ((10, 3), ["sm_100"], "kernels"),  # Two digits for the major version.
    ],
)
def test_compute_capabilities_follow_nvidias_rule(capability, built, expected):
    assert compute_capability.built_for(capability, built) == expected


def test_a_gpu_newer_than_the_build_is_a_finding(monkeypatch):
    gpu = types.SimpleNamespace(name="/physical_device:GPU:1")
    _with_capability(monkeypatch, (12, 0), ["sm_80", "sm_90"])
    (finding,) = doctor._examine_gpu_build([gpu])
    assert finding.name == "gpu 1" and finding.works is False
    assert "12.0" in finding.found and "sm_90" in finding.found
    assert "pip install --upgrade" in finding.advice
    _with_capability(monkeypatch, (9, 0), ["sm_80", "sm_90"])
    (finding,) = doctor._examine_gpu_build([gpu])
    assert finding.works is True and not finding.advice


def _with_capability(monkeypatch, capability, built):
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": capability},
    )
    monkeypatch.setattr(
        tf.sysconfig,
        "get_build_info",
        lambda: {"cuda_compute_capabilities": built},
    )


def test_xla_that_aborts_is_a_finding(monkeypatch):
    monkeypatch.setattr(xla, "why_not", lambda: "XLA aborts the process: F0000")
    (finding,) = doctor._examine_xla()
    assert finding.works is None and "aborts the process" in finding.found
    assert "--jit" in finding.advice


def _extra(name):
    findings = {finding.name: finding for finding in doctor._examine_extras()}
    return findings[f"extra {name}"]


def test_every_extra_is_one_that_pip_finds():
    """Old releases of pip find an extra only as the metadata of the wheel spells it."""
    root = pathlib.Path(doctor.__file__).parents[1]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    extras = set(config["options.extras_require"])
    for name in extras:
        assert name == re.sub("[-_.]+", "-", name).lower()
    assert extras - {"cuda", "test", "docs", "dev"} == set(doctor._EXTRAS)
    assert hub_backbones.EXTRA in extras
    files = [*root.glob("afad_tfdata/**/*.py"), *root.glob("docs/*.md")]
    named = re.findall(r"afad-tfdata\[([^\]{]+)\]", " ".join(map(_text_of, files)))
    assert len(named) > 10 and extras >= {n for n in named if n != "..."}


def _text_of(path):
    return path.read_text(encoding="utf-8")


def test_tensorflow_io_that_imports_but_loads_nothing_is_not_ok(monkeypatch):
    reason = "tensorflow-io 0.37.1 does not load on TensorFlow 2.21.0"
    monkeypatch.setattr(tensorflow_io_extra, "why_no_scheme", lambda scheme: reason)
    finding = _extra("io")
    assert finding.works is None and reason in finding.found
    assert "pip install 'afad-tfdata[io]'" in finding.advice


def test_missing_tensorboard_is_said_with_the_command(monkeypatch):
    # None in sys.modules makes the import raise ModuleNotFoundError.
    monkeypatch.setitem(sys.modules, "tensorboard.default", None)
    finding = _extra("tensorboard")
    assert finding.works is None
    assert "pip install 'afad-tfdata[tensorboard]'" in finding.advice


def test_tfds_is_ok_only_if_it_opens_records(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    assert _extra("tfds").works is True

    def refuse(directory):
        raise ImportError("cannot import name 'runtime_version'")

    monkeypatch.setattr(tfds, "builder_from_directory", refuse)
    finding = _extra("tfds")
    assert finding.works is None and "runtime_version" in finding.found
    assert "pip install 'afad-tfdata[tfds]'" in finding.advice


def test_computing_on_the_gpus_is_part_of_the_findings(monkeypatch):
    asked = []

    def check(config):
        asked.append(config)
        found = [
            check_table.Row("software", "1", part="machine"),
            check_table.Row(
                "gradient", "0", "1e-6", check_table.MET, part="parity:step"
            ),
            check_table.Row(
                "sum",
                "wrong",
                "right",
                check_table.MISSED,
                "no P2P",
                {},
                "all_reduce:x",
            ),
            check_table.Row(
                "sum",
                "",
                "",
                check_table.NOT_APPLICABLE,
                "one GPU",
                {},
                "all_reduce:y",
            ),
        ]
        return gpu_check.CheckResult(found, {})

    monkeypatch.setattr(gpu_check, "check", check)
    found = list(doctor._examine_results("gpu:0"))
    assert asked[0].devices == "gpu:0" and asked[0].sizes == "tiny"
    assert [finding.works for finding in found] == [True, False, None]
    assert found[1] == (
        *("all_reduce:x", False, "sum: wrong", "wanted: right. no P2P"),
    )
    assert found[2].found == "sum: one GPU"


def test_devices_without_gpu_have_no_effect():
    with pytest.raises(errors.UsageError, match="--devices=cpu:2 .* --gpu"):
        doctor.DoctorConfig(devices="cpu:2")
