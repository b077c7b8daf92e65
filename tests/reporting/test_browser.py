"""The page in Chromium, where it is installed: it runs, and it requests nothing."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading

import pytest

from afad_tfdata import report

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves one page, and remembers what was asked for."""

    page = b""
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path == "/page" else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.page if self.path == "/page" else b"")

    def log_message(self, *unused: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.skipif(not _CHROMIUM, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_runs_and_requests_nothing(
    sample_records, evaluated_runs, tmp_path, width, dark
):
    output = tmp_path / "page.html"
    report.write_report(
        report.ReportConfig(
            records_dir=sample_records, run_dir=evaluated_runs[0], output=str(output)
        )
    )
    _Server.page, _Server.asked = output.read_bytes(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [
                *(str(_CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu"),
                *(["--force-dark-mode"] if dark else []),
                f"--user-data-dir={tmp_path}/profile",
                f"--window-size={width},900",
                *("--enable-logging=stderr", "--v=0", "--dump-dom"),
                f"http://127.0.0.1:{server.server_port}/page",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert not re.findall(r"CONSOLE.*", done.stderr)
    # A page over HTTP is also asked for its icon, but for nothing that it names.
    assert set(_Server.asked) - {"/favicon.ico"} == {"/page"}
    # The program ran: it has moved the titles, and has drawn the first faces.
    assert 'data-tip="' in done.stdout
    assert "240 faces, page 1 of 4" in done.stdout
    assert done.stdout.count('aria-pressed="false"') == 60
