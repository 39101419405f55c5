"""The rescue program's requests: a redirect keeps the keys on the same server alone, and no answer lasts for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.cloud.test_rescue_timer import RESCUE

TOKEN, KEY = "a token of the Hub", "a key of Shadeform"


class Server(ThreadingHTTPServer):
    """Answers /to/CODE/PLACE with a redirect to PLACE (`other`: the other server), /drip for ever, anything else with 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str, str | None, str | None, bytes]] = []
        self.url, self.other = f"http://127.0.0.1:{self.server_port}", ""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        h = self.headers
        self.server.got.append(
            (self.command, self.path, h.get("Authorization"), h.get("X-API-KEY"), body)
        )
        if self.path.startswith("/to/"):
            _, _, code, place = self.path.split("/", 3)
            self.send_response(int(code))
            self.send_header(
                "Location", f"{self.server.other}/other" if place == "other" else f"/{place}"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.wfile.write(
            b"HTTP/1.0 200 OK\r\n"
            + (
                b""
                if self.path == "/drip-head"
                else b"Content-Length: 1000\r\n\r\n" * (self.path == "/drip")
            )
            + b"\r\nfine" * (not self.path.startswith("/drip"))
        )
        for _ in range(40 if self.path.startswith("/drip") else 0):
            time.sleep(0.1)
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    first, second = Server(), Server()
    first.other = second.url
    yield first, second
    for server in (first, second):
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_server_keeps_the_token_and_one_to_another_drops_it(
    servers: tuple[Server, Server], code: int
) -> None:
    first, second = servers
    assert RESCUE.call(f"{first.url}/to/{code}/new/place", token=TOKEN, key=KEY) == b"fine"
    assert first.got[-1] == ("GET", "/new/place", f"Bearer {TOKEN}", KEY, b"")
    assert RESCUE.call(f"{first.url}/to/{code}/other", token=TOKEN, key=KEY) == b"fine"
    assert second.got == [("GET", "/other", None, None, b"")], "another port is another server"


@pytest.mark.parametrize("code", [307, 308])
def test_a_post_is_repeated_whole_on_the_same_server_and_on_no_other(
    servers: tuple[Server, Server], code: int
) -> None:
    first, second = servers
    assert (
        RESCUE.call(f"{first.url}/to/{code}/to/{code}/renamed", token=TOKEN, body=b"a commit")
        == b"fine"
    )
    assert (
        first.got[-1] == ("POST", "/renamed", f"Bearer {TOKEN}", None, b"a commit")
        and len(first.got) == 3
    )
    with pytest.raises(OSError):
        RESCUE.call(f"{first.url}/to/{code}/other", token=TOKEN, body=b"a log")
    assert not second.got


def test_redirects_that_never_end_are_an_error(servers: tuple[Server, Server]) -> None:
    first, _ = servers
    first.other = f"{first.url}/to/302"  # /to/302/other leads to itself
    with pytest.raises(OSError):
        RESCUE.call(f"{first.url}/to/302/other", token=TOKEN)
    assert len(first.got) <= 11


@pytest.mark.parametrize(
    "url, same",
    [
        ("http://hub/b", True),
        ("http://HUB/b", True),
        ("http://hub:80/b", True),
        ("https://hub/b", False),
        ("http://hub:81/", False),
        ("http://hub.evil/", False),
        ("http://x@hub/", True),
        ("http://hub@evil/", False),
        ("//evil/", False),
    ],
)
def test_the_same_server_is_the_same_scheme_host_and_port(url: str, same: bool) -> None:
    assert (RESCUE.server_of(url) == RESCUE.server_of("http://hub/a")) is same


@pytest.mark.parametrize("path", ["drip", "drip-head"])
def test_an_answer_that_drips_ends_in_time(servers: tuple[Server, Server], path: str) -> None:
    began = time.monotonic()
    with pytest.raises(OSError):
        RESCUE.call(f"{servers[0].url}/{path}", token=TOKEN, most_s=1)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    "answer",
    [
        b"null",
        b"[]",
        b'{"instances": null}',
        b'{"instances": [null, 7, "x", []]}',
        b"<html>",
        b"",
        b'{"instances": [{"name": null, "tags": 7}, {"tags": [null, {}]}, {"name": {}, "tags": {}}]}',
    ],
)
def test_a_list_that_cannot_be_read_is_asked_for_again_until_the_machine_is_gone(
    answer: bytes,
) -> None:
    plan = {
        "shadeform_api": "api",
        "run_id": "0badcafe",
        "phases": ["sft"],
        "created_at": "2026-11-24T12:00:00Z",
    }
    mine = {
        "id": "me",
        "name": "renamed",
        "status": "active",
        "tags": ["nanolan-run=0badcafe", None, "nanolan-attempt=1"],
    }
    asked: list[str] = []

    def ask(url: str, key: str = "", body: bytes | None = None) -> bytes:
        asked.append(url)
        mine["status"] = "deleting" if body else mine["status"]
        if len(asked) == 1:
            return answer
        return RESCUE.json.dumps({"instances": [None, {"name": 7}, mine]}).encode()

    how = {"ask": ask, "sleep": lambda s: None, "rehearsal": True}
    RESCUE.delete_self(plan, {"SHADEFORM_API_KEY": KEY}, **how)
    look = "api/instances"
    assert asked == [look, look, "api/instances/me/delete", look, look]


@pytest.mark.parametrize(
    "code, lasts_s",
    [(401, 60), (403, 60), (404, 60), (400, 600), (429, 600), (500, 600), (503, 600)],
)
@pytest.mark.parametrize("share, passes", [(0.4, True), (1.8, False)])
def test_a_no_that_may_pass_is_asked_again_for_a_while(
    code: int, lasts_s: float, share: float, passes: bool
) -> None:
    now = [0.0]

    def ask() -> bytes:
        if now[0] < share * lasts_s:
            raise HTTPError("url", code, "no", Message(), None)
        return b"fine"

    def sleep(seconds: float) -> None:
        now[0] += seconds

    how = {"clock": lambda: now[0], "sleep": sleep}
    if passes:
        assert RESCUE.patiently("x", ask, 600, "https://huggingface.co", **how) == b"fine"
    else:
        with pytest.raises(HTTPError):
            RESCUE.patiently("x", ask, 600, "https://huggingface.co", **how)
        assert lasts_s < now[0] <= lasts_s + RESCUE.LONGEST_WAIT_S
