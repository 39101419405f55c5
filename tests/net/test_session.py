"""Calls to the services send their own key and no other secret of the user, through proxies too."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.identity import Endpoint, Identity, from_endpoint
from nanolan.net.session import open_session
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from tests.support.core_fixtures import Waits

THEIRS, PROXYS = "N3trcPassw0rd", "Pr0xyPassw0rd"
NETRC = f"""default login me password {THEIRS}
machine api.example.org login me password {THEIRS}
"""
LOGIN = base64.b64encode(f"me:{THEIRS}".encode()).decode()
PROXY_LOGIN = base64.b64encode(f"you:{PROXYS}".encode()).decode()


class Proxy(ThreadingHTTPServer):
    """Notes every request that it is asked to pass on, and answers it itself; a tunnel is refused."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), Passing)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://you:{PROXYS}@127.0.0.1:{self.server_port}"


class Passing(BaseHTTPRequestHandler):
    server: Proxy

    def answer(self) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers))
        self.rfile.read(int(headers.get("content-length", 0)))
        self.send_response(502 if self.command == "CONNECT" else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD = do_CONNECT = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A machine whose way out is a proxy, with a netrc that has a login for everybody."""
    (tmp_path / ".netrc").write_text(NETRC)
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Proxy() as running:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, running.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        yield running
        running.shutdown()


def ask_shadeform(scheme: str) -> None:
    Shadeform(Secret("sf-0wnKey"), f"{scheme}://api.example.org/v1", sleep=Waits()).instances()


def change_shadeform(scheme: str) -> None:
    Shadeform(Secret("sf-0wnKey"), f"{scheme}://api.example.org/v1", sleep=Waits()).delete(
        "an-instance"
    )


def ask_hub(scheme: str) -> None:
    from huggingface_hub.utils import close_session

    close_session()  # the next one sees this environment
    try:
        Hub(f"{scheme}://api.example.org", Secret("hf_0wnToken"), patience_s=0).whoami()
    finally:
        close_session()


def ask_endpoint(scheme: str) -> None:
    endpoint = Endpoint(f"{scheme}://api.example.org/v1", "m", Secret("llm-0wnKey"))
    list(from_endpoint(Identity("a", "b"), 1, endpoint, 0, lambda text: None))


def ask_clock(scheme: str) -> None:
    with open_session(f"{scheme}://api.example.org") as session:
        session.get(f"{scheme}://api.example.org/", allow_redirects=False, timeout=5)


CALLS = {
    ask_shadeform: {"x-api-key": "sf-0wnKey"},
    change_shadeform: {"x-api-key": "sf-0wnKey"},
    ask_hub: {"authorization": "Bearer hf_0wnToken"},
    ask_endpoint: {"authorization": "Bearer llm-0wnKey"},
    ask_clock: {},
}
KEYS = ("x-api-key", "authorization", "cookie")


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_no_netrc_login_is_sent_and_the_proxy_password_goes_to_the_proxy_only(
    call, proxy: Proxy
) -> None:
    with suppress(NanolanError, requests.RequestException):  # it answers nothing but 401
        call("http")
    assert proxy.asked
    for _, path, headers in proxy.asked:
        assert path.startswith("http://api.example.org/")
        assert {k: v for k, v in headers.items() if k in KEYS} == CALLS[call]
        assert headers.get("proxy-authorization") == f"Basic {PROXY_LOGIN}" and LOGIN not in str(
            headers
        )


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.__name__)
def test_through_a_tunnel_the_proxy_sees_its_password_and_no_key(call, proxy: Proxy) -> None:
    with suppress(NanolanError, requests.RequestException):  # it opens no tunnel
        call("https")
    assert {verb for verb, _, _ in proxy.asked} == {"CONNECT"}
    for _, path, headers in proxy.asked:
        assert (
            path == "api.example.org:443"
            and headers["proxy-authorization"] == f"Basic {PROXY_LOGIN}"
        )
        assert not set(headers) & set(KEYS)


def test_proxies_and_certificates_apply_to_every_host_but_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    url = "https://api.shadeform.ai/v1"
    used = open_session(url).merge_environment_settings(url, {}, None, None, None)
    assert (
        used["verify"] == str(tmp_path / "ca.pem")
        and used["proxies"]["https"] == "http://proxy.example.org:3128"
    )
    assert not open_session("http://127.0.0.1:8080").trust_env
