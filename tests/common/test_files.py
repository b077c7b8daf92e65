"""Files appear whole or not at all, and one line names a file that is unreadable."""

from __future__ import annotations

import csv
import errno
import io
import os
import stat

import pytest

from afad_tfdata.common import errors, files, remote_files


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomic(str(path), "old")
    files.write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_atomic(str(path), "old")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.UsageError, match="No space left.*free space"):
        files.write_atomic(str(path), "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("text", ["plain", 'a"b', "a,b", "a\nb", "a\rb", "a\r\n", " a"])
def test_a_csv_line_is_read_as_it_was(text):
    line = files.csv_line([text, 1, None])
    assert list(csv.reader(io.StringIO(line + "\n", newline=""))) == [[text, "1", ""]]


def test_a_pipe_is_not_replaced(tmp_path):
    """Neither is /dev/null, which root could replace by a file."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    with pytest.raises(errors.UsageError, match="a device or a pipe; name a file"):
        files.write_atomic(path, "new")
    assert stat.S_ISFIFO(os.stat(path).st_mode) and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file/below", "Not a directory"), ("x" * 300, "File name too long")],
)
def test_a_path_that_no_file_can_have_is_named(name, reason, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match=f"cannot write .*{name}: {reason}"):
        files.write_atomic(str(tmp_path / name), "new")


def test_json_errors_name_the_file_and_the_remedy(tmp_path):
    path = str(tmp_path / "m.json")
    with pytest.raises(errors.UsageError, match="cannot read the map .*m.json.*do so"):
        files.read_json(path, what="the map", advice="do so")
    files.write_atomic(path, "{")
    with pytest.raises(errors.DataError, match="the map .*m.json is damaged.*do so"):
        files.read_json(path, what="the map", advice="do so")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "/dev/zero", "/dev/null"])
def test_what_is_no_file_is_an_error_of_the_system(path):
    with pytest.raises(errors.UsageError, match="cannot read the map"):
        files.read_json(path, what="the map", advice="do so")


def test_a_pipe_is_read_to_its_end():
    reader, writer = os.pipe()
    os.write(writer, b"[1]")
    os.close(writer)
    try:
        path = f"/dev/fd/{reader}"
        assert files.read_json(path, what="the map", advice="do so") == [1]
    finally:
        os.close(reader)


def test_sha256_of_a_file_larger_than_a_chunk(tmp_path):
    import hashlib

    content = os.urandom((1 << 20) + 7)
    path = tmp_path / "big"
    path.write_bytes(content)
    assert files.sha256(str(path)) == hashlib.sha256(content).hexdigest()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot make the directory"):
        files.make_dirs(str(tmp_path / "file" / "below"))


def test_remote_paths_have_a_scheme():
    assert files.is_remote("gs://b/x") and files.is_remote("s3://b/x")
    assert not files.is_remote("/data/x") and not files.is_remote("data:x")


@pytest.mark.parametrize("durable, waits", [(True, 2), (False, 0)])
def test_a_durable_write_waits_for_the_disk(durable, waits, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.write_atomic(str(tmp_path / "a"), "x", durable=durable)
    assert len(synced) == waits  # The file, and the directory with its name.


def test_a_failed_write_gives_its_reason_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError) as caught:
        files.make_dirs(str(tmp_path / "file" / "below"))
    assert "below: Not a directory; choose" in str(caught.value)


def test_only_s3_makes_a_process_abort_at_exit(monkeypatch):
    monkeypatch.setattr(remote_files, "_used", set())
    assert not remote_files.aborts_at_exit()
    remote_files._used.add("s3")
    assert remote_files.aborts_at_exit()
