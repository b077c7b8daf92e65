"""Remote stores by fsspec: one line tells what their server does wrong."""

from __future__ import annotations

import http.server
import sys
import threading

import pytest

from afad_tfdata.common import errors, files, remote_files
from afad_tfdata.storage import remote_data_set, schema


class _Store(http.server.BaseHTTPRequestHandler):
    """The part of S3 that copies of small objects need; each bucket has a fault."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}
    asked: list[str] = []

    def _answer(self, status, content=b"", length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(content)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fault(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        if path.startswith("/denied"):
            text = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message>"
            self._answer(403, text + b"</Error>")
        elif path.startswith("/broken"):
            text = b"<Error><Code>InternalError</Code><Message>We failed</Message>"
            self._answer(500, text + b"</Error>")
        else:
            return False
        return True

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._fault():
            self.objects[self.path.partition("?")[0]] = _unchunked(content)
            self._answer(200)

    def do_GET(self):
        if self._fault():
            return
        path = self.path.partition("?")[0]
        content = self.objects.get(path)
        if "list-type" in self.path:
            self._answer(200, b"<ListBucketResult></ListBucketResult>")
        elif content is None:
            text = b"<Error><Code>NoSuchKey</Code><Message>no key</Message></Error>"
            self._answer(404, text)
        elif path.startswith("/cut") and self.command == "GET":
            self._answer(200, content[:5], length=len(content))
            self.close_connection = True
        else:
            begin, end = 0, len(content)
            if wanted := self.headers.get("Range"):
                begin, end = map(int, wanted.removeprefix("bytes=").split("-"))
                end += 1
            self._answer(206 if wanted else 200, content[begin:end])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def _unchunked(content):
    """The data of a body that was sent with signed chunks."""
    if b"x-amz-checksum" not in content and b";chunk-signature" not in content:
        return content
    size, _, rest = content.partition(b"\r\n")
    return rest[: int(size.partition(b";")[0], 16)]


@pytest.fixture
def bucket(monkeypatch):
    """Objects by path, at a server that this test process runs."""
    pytest.importorskip("s3fs")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(remote_files, "_ATTEMPTS", 2)  # Each attempt waits longer.
    monkeypatch.setattr(_Store, "objects", {})
    monkeypatch.setattr(_Store, "asked", [])
    yield _Store.objects
    server.shutdown()
    server.server_close()


def test_what_is_written_is_read(bucket, tmp_path):
    files.write_atomic("s3://faces/a.txt", "text")
    assert files.read_bytes("s3://faces/a.txt") == b"text"
    assert files.exists("s3://faces/a.txt")
    assert not files.exists("s3://faces/b.txt")
    (tmp_path / "part").write_bytes(bytes(range(200)))
    remote_data_set.copy(str(tmp_path / "part"), "s3://faces/run", "part")
    assert files.sha256("s3://faces/run/part") == files.sha256(str(tmp_path / "part"))
    chunks = list(remote_files.read_chunks("s3://faces/run/part", 64))
    assert b"".join(chunks) == bytes(range(200)) and len(chunks) == 4
    files.make_dirs("s3://new-bucket/run")  # This creates no bucket.
    assert not any("new-bucket" in line for line in _Store.asked)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://faces/missing", "there is no such object or bucket"),
        ("s3://denied/a", "Access Denied|Forbidden"),
        ("s3://broken/a", "We failed|Internal Server Error|500"),
        ("s3://cut/a", "."),
    ],
)
def test_what_cannot_be_read_is_one_line_after_few_requests(bucket, path, words):
    bucket["/cut/a"] = bytes(100)
    with pytest.raises(remote_files.StoreError, match=words) as caught:
        files.read_bytes(path)
    assert "\n" not in caught.value.strerror
    assert 0 < len(_Store.asked) <= 3 * remote_files._ATTEMPTS
    with pytest.raises(errors.UsageError, match="cannot read the list") as caught:
        files.read_json(path, what="the list", advice="make it")
    assert "\n" not in str(caught.value) and path in str(caught.value)


@pytest.mark.parametrize("name", ["denied", "broken"])
def test_what_cannot_be_written_is_one_line(bucket, name, tmp_path):
    for attempt in (
        lambda: files.write_atomic(f"s3://{name}/a", "text"),
        lambda: remote_data_set.copy(str(tmp_path), f"s3://{name}", "a"),
    ):
        (tmp_path / "file").write_text("text")
        with pytest.raises(errors.UsageError, match="check the bucket's") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_denied_bucket_is_not_an_empty_one(bucket):
    with pytest.raises(errors.UsageError, match="credentials"):
        remote_data_set.stored_manifest("s3://denied/records")


def test_a_wrong_endpoint_is_one_line(monkeypatch, bucket):
    # A port at which nothing listens.
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.UsageError, match="127.0.0.1:9") as caught:
        schema.load_manifest("s3://faces/records")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    # Another test may have loaded tensorflow-io, which cannot be unloaded.
    monkeypatch.setattr(
        remote_files.tensorflow_io_extra, "registered_schemes", lambda: ["gs", "ram"]
    )
    with pytest.raises(errors.UsageError) as caught:
        files.read_bytes("s3://faces/a")
    text = str(caught.value)
    assert "s3fs is not installed" in text
    assert "pip install 'afad-tfdata[remote]'" in text
