"""scripts/audit.sh: every pinned package is looked up, and what is known of one is said. The list stands on this machine here."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # installs pip-audit
BAD = {
    "id": "OSV-2026-1",
    "summary": "it bites",
    "affected": [
        {
            "package": {"name": "click", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """OSV's query: which vulnerabilities one version of one package has."""

    bad: str | None = None
    asked: set[str] = set()

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        self.asked.add(name)
        body = json.dumps({"vulns": [BAD]} if name == self.bad else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[tuple[type[Osv], str]]:
    handler = type("Fresh", (Osv,), {"asked": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/audit.sh", "--osv-url", url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_every_pin_is_asked_for_and_nothing_known_is_0(osv: tuple[type[Osv], str]) -> None:
    done = audit(osv[1])
    assert done.returncode == 0, done.stdout
    assert {
        "click",
        "requests",
        "huggingface-hub",
        "torch",
        "nvidia-nccl-cu13",
        "nvidia-nccl-cu12",
        "uv",
    } <= osv[0].asked
    assert done.stdout.count("No known vulnerabilities found") == 3


def test_a_known_vulnerability_is_named_and_1(osv: tuple[type[Osv], str]) -> None:
    osv[0].bad = "click"
    done = audit(osv[1])
    assert done.returncode == 1
    assert any(
        "click" in line and "OSV-2026-1" in line and "99.0" in line
        for line in done.stdout.splitlines()
    )


def test_a_list_that_does_not_answer_is_never_nothing_known() -> None:
    done = audit("http://127.0.0.1:9/")
    assert done.returncode == 1
    assert (
        "ConnectionError" in done.stdout
        and "Traceback" not in done.stdout
        and "No known" not in done.stdout
    )
