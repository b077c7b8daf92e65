"""Parts of tensorflow-io are tried; one line names a missing part and the command."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import tensorflow as tf

from afad_tfdata.common import errors, files, tensorflow_io_extra
from afad_tfdata.storage import remote_data_set


@pytest.fixture
def loads_nothing(monkeypatch):
    """A tensorflow-io that imports with warnings and loads no library."""

    class Operations:
        def __getattr__(self, name):
            raise NotImplementedError(
                "unable to open file: libtensorflow_io.so, from paths: ['/x']\n"
                "caused by: ['/x: undefined symbol: _ZNK10tensorflow']"
            )

    operations = types.ModuleType("tensorflow_io.python.ops")
    operations.core_ops = Operations()
    monkeypatch.setitem(sys.modules, "tensorflow_io", types.ModuleType("tfio"))
    monkeypatch.setitem(sys.modules, "tensorflow_io.python.ops", operations)
    _with_schemes(monkeypatch)


def _with_schemes(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(
        tf.io.gfile, "get_registered_schemes", lambda: ["ram", "gs", "file", ""]
    )


def test_an_import_that_registers_nothing_is_not_enough(loads_nothing):
    with pytest.raises(errors.UsageError) as caught:
        tensorflow_io_extra.require_scheme("s3://bucket/records")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("s3://bucket/records needs the file system s3://")
    assert f"TensorFlow {tf.__version__} has only gs://, ram:// here" in text
    assert f"does not load on TensorFlow {tf.__version__}" in text
    assert "pip install 'afad-tfdata[io]'" in text


def test_the_advice_does_not_speak_of_buckets(loads_nothing):
    with pytest.raises(errors.UsageError) as caught:
        remote_data_set.stored_manifest("s3://bucket/records")
    assert "credentials" not in str(caught.value)
    assert "pip install 'afad-tfdata[remote]'" in str(caught.value)
    assert "s3fs is not installed" in str(caught.value)


def test_a_missing_tensorflow_io_is_named(monkeypatch):
    # None in sys.modules makes the import raise ModuleNotFoundError.
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    _with_schemes(monkeypatch)
    with pytest.raises(errors.UsageError, match="tensorflow.io is not installed"):
        tensorflow_io_extra.require_scheme("s3://bucket/records")
    assert tensorflow_io_extra.why_no_hdf5() == "tensorflow-io is not installed"


def test_no_extra_is_advised_for_a_scheme_that_it_lacks(loads_nothing):
    with pytest.raises(errors.UsageError) as caught:
        files.exists("ftp://host/records")
    assert "pip" not in str(caught.value)
    assert "gs://, ram://" in str(caught.value)


def test_what_tensorflow_has_itself_does_not_need_tensorflow_io(loads_nothing):
    assert not files.exists("ram://nothing/here")


def test_an_operation_that_does_not_load_is_a_reason(loads_nothing):
    assert f"on TensorFlow {tf.__version__}" in tensorflow_io_extra.why_no_hdf5()


def test_the_command_fits_the_version(monkeypatch):
    # The module's own `tf` is a stand-in that may have stored the real version.
    monkeypatch.setattr(tensorflow_io_extra.tf, "__version__", "2.21.0")
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert "takes TensorFlow back to 2.17" in tensorflow_io_extra.install_command()
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert "Python 3.10 to 3.12" in tensorflow_io_extra.install_command()


def test_the_real_one_works_without_warnings():
    pytest.importorskip("tensorflow_io")
    if tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 18):
        pytest.skip("tensorflow-io 0.37.1 loads on TensorFlow 2.16 and 2.17 only")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            tensorflow_io_extra.why_no_scheme("s3")
            == tensorflow_io_extra.why_no_hdf5()
            == ""
        )
        tensorflow_io_extra.require_scheme("s3://bucket/records")


def test_a_path_of_the_local_disk_may_have_a_scheme(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    path = f"file://{tmp_path}/a.txt"
    assert files.exists(path) and files.read_bytes(path) == b"a"
