"""Shared by tests/net/test_errors*.py."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from nanolan.errors import (
    NanolanError,
)
from nanolan.hub.client import Hub, use_timeouts
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform

OUTSIDE = "https://127.0.0.2:9"  # counts as a host of the world outside: proxies and certificates are looked at


VARIABLES = (
    "ALL_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "HF_HUB_OFFLINE",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test opens the Hub's client anew: it reads the environment once."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    use_timeouts.cache_clear()
    yield
    monkeypatch.undo()
    use_timeouts.cache_clear()
    use_timeouts()


def shadeform(url: str = OUTSIDE, sleep: Callable[[float], None] = lambda s: None) -> NanolanError:
    with pytest.raises(NanolanError) as e:
        Shadeform(Secret("key-0123456"), url, sleep=sleep, jitter=lambda: 0.0).instances()
    return e.value


def hub(url: str = OUTSIDE, repo: str = "me/x") -> NanolanError:
    with pytest.raises(NanolanError) as e:
        Hub(url, Secret("hf_0123456")).tree(repo)
    return e.value


CLIENTS = {"Shadeform": shadeform, "the Hub": hub}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose certificate nobody here knows."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=elsewhere.example",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with serving(lambda: (200, {}, b"{}"), "127.0.0.2", context) as url:
        yield url


class serving:
    """A server that gives the same answer to everything, on a host of its own."""

    def __init__(
        self,
        answer: Callable[[], tuple[int, dict[str, str], bytes]],
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = answer()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._url = f"{'https' if tls else 'http'}://{host}:{self._server.server_address[1]}"

    def __enter__(self) -> str:
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self._url

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
