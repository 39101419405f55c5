"""The local Hub's HTTP side, by raw requests: bad requests, ranges, faults, and a disk that fails."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from nanolan.sim.hub.store import Store

AUTH = {"Authorization": f"Bearer {WRITER}"}
DATA = bytes(range(256)) * 4  # 1024 bytes
COMMIT = b'{"key":"header","value":{"summary":"s"}}\n'
FILE = "/me/m/resolve/main/f.txt"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        server.put("me/m", {"f.txt": b"x" * 1024, "m.pt": DATA, "empty.txt": b""}, private=False)
        yield server


def ask(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body); a dict is sent as JSON, an iterator in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            method, path, json.dumps(body) if isinstance(body, dict) else body, AUTH | headers
        )
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def cdn(hub: HubServer) -> str:
    return f"/__cdn__/{hub.files('me/m')['m.pt'].sha256}"


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("", 200, 0, 1024),
        ("bytes=0-9", 206, 0, 10),
        ("bytes=1000-", 206, 1000, 1024),
        ("bytes=-5", 206, 1019, 1024),
        ("bytes=0-99999", 206, 0, 1024),
        ("bytes=1023-1023", 206, 1023, 1024),
        ("lines=1-2", 200, 0, 1024),
        ("bytes=-", 200, 0, 1024),
        ("bytes=1024-", 416, 0, 0),
        ("bytes=9-3", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_a_range_returns_only_its_bytes(
    hub: HubServer, asked: str, status: int, start: int, end: int
) -> None:
    got, headers, body = ask(hub.port, "GET", cdn(hub), Range=asked)
    assert got == status
    if status == 416:
        assert headers["content-range"] == "bytes */1024"
    else:
        assert body == DATA[start:end]
        assert headers.get("content-range") == (
            f"bytes {start}-{end - 1}/1024" if status == 206 else None
        )


def test_an_empty_file_and_a_head_are_answered(hub: HubServer) -> None:
    status, headers, body = ask(hub.port, "GET", "/me/m/resolve/main/empty.txt")
    assert (status, headers["content-length"], body) == (200, "0", b"")
    status, headers, body = ask(hub.port, "HEAD", FILE)
    assert (status, headers["content-length"], body) == (200, "1024", b"")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nowhere", None),
        ("PATCH", "/api/whoami-v2", None),
        ("GET", "/api/models/me/no", None),
        ("GET", "/api/models/me/m/revision/no", None),
        ("GET", "/me/m/resolve/main/no.txt", None),
        ("GET", "/api/models/me/m/tree/main/no", None),
        ("GET", "/api/models/me/m/tree/main?cursor=x", None),
        ("POST", "/api/repos/create", b"not json"),
        ("POST", "/api/repos/create", b"[1]"),
        ("POST", "/api/repos/create", b"{}"),
        ("POST", "/api/repos/create", b'{"name": "x", "type": "../y"}'),
        ("POST", "/api/repos/create", b'{"name": "../../x"}'),
        ("POST", "/api/repos/create", b'{"name": "x", "organization": "other"}'),
        ("POST", "/api/models/me/m/preupload/main", b'{"files": 3}'),
        ("POST", "/api/models/me/m/commit/main", b"{"),
        ("POST", "/api/models/me/m/commit/main", b""),
        ("POST", "/me/m.git/info/lfs/objects/batch", b'{"operation": "upload"}'),
        ("POST", "/me/m.git/info/lfs/objects/batch", b"\xff\xfe"),
        (
            "POST",
            "/me/m.git/info/lfs/objects/verify",
            b'{"oid": "../../repos/models--me--m.json", "size": 1}',
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"lfsFile","value":{"path":"a","oid":"/etc/passwd"}}',
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"lfsFile","value":{"path":"a","oid":"%064d"}}' % 0,
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"file","value":{"path":"../a","content":"x"}}',
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"file","value":{"path":"a","content":"!","encoding":"base64"}}',
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"copyFile","value":{"path":"a"}}',
        ),
        (
            "POST",
            "/api/models/me/m/commit/main",
            COMMIT + b'{"key":"deletedFile","value":{"path":"a"}}',
        ),
        ("POST", "/api/models/me/m/commit/gone", COMMIT),
        ("POST", "/api/models/me/no/commit/main", COMMIT),
        ("PUT", "/__lfs__/" + "0" * 64, b"no size"),
        ("PUT", "/__lfs__/" + "0" * 64 + "?size=7", b"a wrong hash"),
        ("POST", "/__lfs__/" + "0" * 64 + "/complete", b'{"parts": [{"partNumber": 1}]}'),
        ("GET", "/api/models/me/m/xet-write-token/main", None),
        ("GET", "/__cdn__/" + "0" * 64, None),
    ],
)
def test_invalid_requests_are_refused_with_a_reason_and_change_nothing(
    hub: HubServer, method: str, path: str, body: bytes
) -> None:
    before = hub.files("me/m")
    status, headers, answer = ask(hub.port, method, path, body)
    assert status in (400, 403, 404, 501)
    assert status == 501 or json.loads(answer)["error"] == headers["x-error-message"]
    assert hub.files("me/m") == before
    assert ask(hub.port, "GET", "/api/whoami-v2")[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"POST /api/repos/create HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/repos/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_bytes_that_are_not_a_request_do_not_stop_the_server(hub: HubServer, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), timeout=5) as s:
        s.sendall(raw)
        s.shutdown(socket.SHUT_WR)
        while s.recv(4096):
            pass
    assert ask(hub.port, "GET", "/api/whoami-v2")[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /api/repos/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /api/agent-harnesses HTTP/1.1\r\nContent-Length: 60\r\n\r\n", b"200"),
    ],
)
def test_an_unread_body_is_never_parsed_as_a_request(
    hub: HubServer, head: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), timeout=5) as s:
        s.sendall(head + b"GET /api/whoami-v2 HTTP/1.1\r\nX-Padding: 0123456789\r\n\r\n")
        got = b""
        with contextlib.suppress(ConnectionResetError):  # the server closes with bytes unread
            while block := s.recv(4096):
                got += block
    assert got.startswith(b"HTTP/1.1 " + status)
    assert got.count(b"HTTP/1.1 ") == 1
    assert [line["path"] for line in hub.log if "whoami" in line["path"]] == []


def test_a_client_that_dies_in_an_upload_leaves_nothing(hub: HubServer) -> None:
    with socket.create_connection(("127.0.0.1", hub.port)) as s:
        s.sendall(
            b"PUT /__lfs__/" + b"0" * 64 + b"?size=9 HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"
        )
    while not hub.log or hub.log[-1]["ms"] is None:
        time.sleep(0.01)
    assert list((hub.root / "tmp").iterdir()) == []


def test_a_chunked_upload_is_accepted(hub: HubServer) -> None:
    new = DATA + b"!"
    sha256 = Store(hub.root.parent / "other").put([new])[0]
    status, _, _ = ask(
        hub.port, "PUT", f"/__lfs__/{sha256}?size={len(new)}", iter([new[:100], new[100:]])
    )
    assert status == 200
    assert hub.store.object(sha256).read_bytes() == new


def test_one_connection_carries_many_requests(hub: HubServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port)
    for path, status in ((FILE, 200), ("/me/m/resolve/main/no", 404), (FILE, 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


# ---- faults


def test_a_scripted_status_has_its_headers_and_body(hub: HubServer) -> None:
    hub.fault("GET /me/m", status=429, headers={"Retry-After": "3"}, body={"error": "slow down"})
    status, headers, body = ask(hub.port, "GET", FILE)
    assert (status, headers["retry-after"], json.loads(body)["error"]) == (429, "3", "slow down")
    assert ask(hub.port, "GET", FILE)[0] == 200


def test_a_status_arrives_although_the_body_is_large(hub: HubServer) -> None:
    hub.fault("PUT /__lfs__/", status=503)
    assert ask(hub.port, "PUT", "/__lfs__/" + "0" * 64, b"x" * (8 << 20))[0] == 503


@pytest.mark.parametrize("after", [0, 100])
def test_a_reset_is_a_tcp_reset(hub: HubServer, after: int) -> None:
    hub.fault("GET /__cdn__", "reset", after=after)
    with pytest.raises(ConnectionResetError):
        ask(hub.port, "GET", cdn(hub))


@pytest.mark.parametrize("path", ["/__cdn__", "/api/whoami-v2"])
def test_a_truncated_reply_is_shorter_than_its_content_length(hub: HubServer, path: str) -> None:
    hub.fault(f"GET {path}", "truncate", after=100)
    with pytest.raises(http.client.IncompleteRead) as short:
        ask(hub.port, "GET", cdn(hub) if path == "/__cdn__" else path)
    assert len(short.value.partial) == 100


def test_a_stall_waits_and_then_continues_or_cuts_the_reply(hub: HubServer) -> None:
    hub.fault("GET /me/m", "stall", seconds=0.3)
    hub.fault("GET /__cdn__", "stall", seconds=0.3, after=10)
    begun = time.monotonic()
    assert ask(hub.port, "GET", FILE)[0] == 200
    assert time.monotonic() - begun >= 0.3
    with pytest.raises(http.client.IncompleteRead):
        ask(hub.port, "GET", cdn(hub))
    assert time.monotonic() - begun >= 0.6


def test_a_stall_inside_an_upload_applies_once_and_the_reply_is_whole(hub: HubServer) -> None:
    hub.fault("POST .*/commit/", "stall", seconds=1.5, after=10)
    begun = time.monotonic()
    status, _, body = ask(
        hub.port, "POST", "/api/models/me/m/commit/main", iter([COMMIT[:20], COMMIT[20:]])
    )
    assert 1.5 <= time.monotonic() - begun < 3.0  # twice would take 3 s
    assert (status, json.loads(body)["success"]) == (200, True)


def test_control_requests_of_a_test_are_not_logged(hub: HubServer) -> None:
    ask(hub.port, "POST", "/__test__/faults", {"match": "GET /me/m", "status": 500, "times": 5})
    assert ask(hub.port, "GET", FILE)[0] == 500
    ask(hub.port, "DELETE", "/__test__/faults")
    assert ask(hub.port, "GET", FILE, Range="bytes=0-1")[0] == 206
    end = time.monotonic() + 10
    while len(log := json.loads(ask(hub.port, "GET", "/__test__/log")[2])) < 2 or None in (
        line["status"] for line in log
    ):
        assert (
            time.monotonic() < end
        )  # a line is there when a request comes, its status once it is answered
    assert [
        (line["path"], line["status"], line["fault"], line["range"], line["auth"]) for line in log
    ] == [(FILE, 500, "status", None, True), (FILE, 206, None, "bytes=0-1", True)]


# ---- a disk that fails


def test_a_full_disk_is_a_507_and_the_server_keeps_running(tmp_path: Path) -> None:
    with HubServer(tmp_path) as hub:
        hub.put("me/m", {"a.txt": b"x"})
    # a file size limit stands in for a full disk: the write fails in the same way
    script = 'ulimit -f 1024; exec "$0" -m nanolan.sim.hub.server --root "$1"'
    server = subprocess.Popen(
        ["bash", "-c", script, sys.executable, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        big = b"x" * (4 << 20)
        sha256 = "0" * 64
        assert ask(port, "PUT", f"/__lfs__/{sha256}?size={len(big)}", big)[0] == 507
        assert ask(port, "GET", "/me/m/resolve/main/a.txt")[2] == b"x"
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        server.kill()
        server.communicate()


def test_a_missing_store_is_a_500_and_the_server_keeps_running(hub: HubServer) -> None:
    (hub.root / "tmp").rmdir()
    commit = COMMIT + b'{"key":"file","value":{"path":"b","content":"x"}}'
    status, headers, _ = ask(hub.port, "POST", "/api/models/me/m/commit/main", commit)
    assert (status, headers["x-error-message"]) == (
        500,
        "storage failed: No such file or directory",
    )
    assert ask(hub.port, "GET", FILE)[0] == 200
