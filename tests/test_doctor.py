"""What the doctor says is true on this machine."""

from __future__ import annotations

from afad_tfdata import doctor


def test_summary_names_versions_and_devices(tmp_path):
    import tensorflow as tf

    findings = doctor.examine(doctor.DoctorConfig(output_dir=str(tmp_path)))
    by_name = {finding.name: finding for finding in findings}
    assert by_name["tensorflow"].found == tf.__version__
    assert by_name["gpu"].works is None
    assert "free" in by_name["disk"].found
    text = doctor.summary(findings)
    for finding in findings:
        assert finding.name in text
        if finding.works is False:
            assert finding.advice in text


def test_a_missing_directory_is_a_finding_and_no_crash():
    findings = doctor.examine(doctor.DoctorConfig(output_dir="/no/such/dir"))
    disk = next(finding for finding in findings if finding.name == "disk")
    assert disk.works is False
    assert "/no/such/dir" in disk.found
