"""A failed call is explained at once, with the setting to change: never as a bug of nanolan, a bad key or a dead network."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest
import requests

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    NanolanError,
    TooManyRequests,
    UnclearAnswer,
    Unreachable,
    WrongSetting,
)
from nanolan.hub.client import Hub, use_timeouts
from nanolan.hub.trouble import requested_wait_s
from nanolan.net.errors import HUB, SHADEFORM, of_exception, proxy_of, wrong_proxy
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform, retry_after_s

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


# ------------------------------------------------------------------ the environment
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "name, value, says",
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY (environment) is a SOCKS proxy"),
        (
            "HTTPS_PROXY",
            "socks5h://me:S3CRET@127.0.0.1:9",
            "HTTPS_PROXY (environment) is a SOCKS proxy",
        ),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY (environment) is not a proxy address"),
        ("HTTPS_PROXY", "http//127.0.0.1", "HTTPS_PROXY (environment) is not a proxy address"),
        ("HTTPS_PROXY", "http://a b:1", "HTTPS_PROXY (environment) is not a proxy address"),
        (
            "HTTPS_PROXY",
            "http://127.0.0.1:port",
            "HTTPS_PROXY (environment) is not a proxy address",
        ),
        ("HTTPS_PROXY", "http://", "HTTPS_PROXY (environment) is not a proxy address"),
        ("HTTPS_PROXY", "127.0.0.1:9", "the proxy of HTTPS_PROXY=127.0.0.1:9 does not answer"),
        (
            "HTTPS_PROXY",
            "http://me:S3CRET@127.0.0.1:9",
            "the proxy of HTTPS_PROXY=http://...@127.0.0.1:9 does not answer",
        ),
        (
            "HTTPS_PROXY",
            "http://nosuch.invalid:1",
            "the proxy of HTTPS_PROXY=http://nosuch.invalid:1 does not answer",
        ),
    ],
)
def test_a_wrong_proxy_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, client: str, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    started = time.monotonic()
    error = CLIENTS[client]()
    assert (
        isinstance(error, WrongSetting)
        and error.exit_code == 2
        and says in str(error)
        and time.monotonic() - started < 2
    )
    assert "S3CRET" not in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "client, name",
    [
        ("Shadeform", "REQUESTS_CA_BUNDLE"),
        ("Shadeform", "CURL_CA_BUNDLE"),
        ("the Hub", "REQUESTS_CA_BUNDLE"),
        ("the Hub", "SSL_CERT_FILE"),
    ],
)
@pytest.mark.parametrize(
    "content, says",
    [
        (None, "does not exist"),
        (b"", "contains no certificate"),
        (b"no certificate", "contains no certificate"),
        (b"\xff\x00" * 99, "contains no certificate"),
        ("folder", "is a folder without certificates"),
    ],
    ids=str,
)
def test_an_invalid_certificate_file_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tls: str,
    client: str,
    name: str,
    content: Any,
    says: str,
) -> None:
    path = tmp_path / "ca.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(name, str(path))
    error = CLIENTS[client](tls)
    assert isinstance(error, WrongSetting) and f"{name} (environment): {path} {says}" in str(error)


def test_offline_mode_is_named_and_not_taken_for_a_dead_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert isinstance(hub(), WrongSetting) and "HF_HUB_OFFLINE (environment) forbids" in str(hub())


@pytest.mark.parametrize(
    "value", ["socks4://h:1", "://", "http://[::1", "http://h:0", "http://h:99999", "h/x"]
)
def test_an_invalid_proxy_address_is_recognised(value: str) -> None:
    assert "HTTPS_PROXY" in wrong_proxy("HTTPS_PROXY", value)


@pytest.mark.parametrize(
    "value",
    [
        "http://h:3128",
        "h:3128",
        "https://me:p@h:1",
        "http://[::1]:8",
        "http://10.0.0.1/",
        "HTTP://H:1",
        "my_proxy:80",
    ],
)
def test_a_good_proxy_is_not_blamed(value: str) -> None:
    assert wrong_proxy("HTTPS_PROXY", value) == ""
    assert proxy_of("https://api.shadeform.ai/v1", {"ALL_PROXY": "a", "HTTPS_PROXY": value}) == (
        "HTTPS_PROXY",
        value,
    )
    for host in ("*", "shadeform.ai", ".shadeform.ai, x"):
        assert (
            proxy_of("https://api.shadeform.ai/v1", {"HTTPS_PROXY": value, "NO_PROXY": host})
            is None
        )


# ------------------------------------------------------------------ TLS
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


@pytest.mark.parametrize("client", CLIENTS)
def test_an_untrusted_certificate_is_reported_at_once_with_its_variable(
    tls: str, client: str
) -> None:
    error = CLIENTS[client](tls)
    assert isinstance(
        error, WrongSetting
    ) and "certificate of 127.0.0.2 is not signed by a known authority" in str(error)
    assert "REQUESTS_CA_BUNDLE" in str(error)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_host_without_tls_is_reported_at_once(client: str) -> None:
    with serving(lambda: (200, {}, b"{}"), "127.0.0.2") as url:
        assert "does not use TLS" in str(CLIENTS[client](url.replace("http:", "https:")))


@pytest.mark.parametrize(
    "code, says",
    [
        (10, "has expired"),
        (9, "is not valid yet"),
        (62, "belongs to another host"),
        (18, "known authority"),
        (19, "known authority"),
        (20, "known authority"),
    ],
)
def test_every_kind_of_wrong_certificate_has_its_message(code: int, says: str) -> None:
    refused = ssl.SSLCertVerificationError(
        1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
    )
    refused.verify_code = code
    wrapped = requests.exceptions.SSLError(refused)
    trouble = of_exception(wrapped, SHADEFORM, "https://api.shadeform.ai/v1", {})
    assert (
        trouble.kind == "your setting"
        and not trouble.again
        and not trouble.sent
        and says in trouble.text
    )


# ------------------------------------------------------------------ answers
PAGE = b"<!DOCTYPE html><html><head><title>Sign in to\n Airport WiFi</title></head></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "status, headers, body, kind, says",
    [
        (200, HTML, PAGE, WrongSetting, "a web page answered instead of"),
        (403, HTML, PAGE, WrongSetting, "Sign in to Airport WiFi"),
        (401, HTML, PAGE, WrongSetting, "a login page of the network"),
        (404, HTML, PAGE, WrongSetting, "a web page answered"),
        (407, {}, b"", WrongSetting, "the proxy requires a login"),
        (503, HTML, PAGE, Unreachable, "is down (HTTP 503, titled 'Sign in"),
        (401, JSON, b'{"error": "Invalid key"}', AuthProblem, "refused"),
        (403, JSON, b'{"error": "Not for you"}', AuthProblem, "Not for you"),
        (413, JSON, b'{"error": "Too much at once"}', ApiProblem, "Too much at once"),
        (451, JSON, b'{"error": "Not in your country"}', ApiProblem, "Not in your country"),
        (500, JSON, b"{}", Unreachable, "is down (HTTP 500)"),
        (429, {}, b"", TooManyRequests, "too many requests (HTTP 429)"),
        (429, {"Retry-After": "60"}, b"", TooManyRequests, "retry in 60 s"),
        (429, {"Retry-After": "soon"}, b"", TooManyRequests, "retry in soon"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_an_answer_is_classified_by_status_and_content(
    client: str,
    status: int,
    headers: dict[str, str],
    body: bytes,
    kind: type[NanolanError],
    says: str,
) -> None:
    waits: list[float] = []
    ticks = iter(range(0, 10_000, 20))
    with serving(lambda: (status, headers, body)) as url, pytest.raises(NanolanError) as e:
        if client == "Shadeform":
            Shadeform(Secret("key-0123456"), url, sleep=waits.append).instances()
        else:
            Hub(url, Secret("hf_0123456"), sleep=waits.append, clock=lambda: next(ticks)).tree(
                "me/x"
            )
    assert type(e.value) is kind and says in str(e.value) and "\n" not in str(e.value)
    assert kind in (Unreachable, TooManyRequests) or not waits


@pytest.mark.parametrize("client", CLIENTS)
def test_a_redirect_to_a_login_page_is_not_taken_for_the_service(client: str) -> None:
    with serving(lambda: (302, {"Location": "https://login.airport.example/?from=x"}, b"")) as url:
        if client == "Shadeform":
            assert "it redirects to login.airport.example (HTTP 302)" in str(shadeform(url))


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "7"}, 7),
        ({"Retry-After": "nonsense"}, 0),
        ({}, 0),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": "garbage"}, 0),
        ({"Retry-After": "9999"}, 120),
        ({"Retry-After": "-4"}, 0),
        ({"Retry-After": "nan"}, 0),
    ],
    ids=str,
)
def test_the_wait_that_a_service_asks_for_is_read(headers: dict[str, str], seconds: float) -> None:
    assert requested_wait_s(requests.structures.CaseInsensitiveDict(headers)) == seconds
    assert retry_after_s("Wed, 21 Oct 2099 07:28:00 GMT") == 120


def test_a_laptop_waits_as_long_as_the_hub_asks_for_and_then_goes_on() -> None:
    waits: list[float] = []
    answers = iter([(429, {"Retry-After": "100"}, b"")])
    good = (
        200,
        JSON,
        b'{"id": "me/x", "sha": "' + b"a" * 40 + b'", "private": true, "siblings": []}',
    )
    with serving(lambda: next(answers, good)) as url:
        assert Hub(url, None, sleep=waits.append).tree("me/x").private and sum(waits) == 100


# ------------------------------------------------------------------ addresses, names, keys
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "url, says",
    [
        ("https://nosuch.invalid", "no DNS entry for nosuch.invalid"),
        (OUTSIDE, "connection refused"),
        ("http://127.0.0.1:9", "connection refused"),
    ],
)
def test_an_unreachable_service_is_reported_with_the_systems_message(
    client: str, url: str, says: str
) -> None:
    ticks = iter(range(0, 10_000, 20))
    with pytest.raises(Unreachable) as e:
        if client == "Shadeform":
            Shadeform(None, url, sleep=lambda s: None).instances()
        else:
            Hub(url, None, sleep=lambda s: None, clock=lambda: next(ticks)).tree("me/x")
    assert (
        says in str(e.value)
        and "cannot be reached" in str(e.value)
        and ("SHADEFORM_API=" in str(e.value) or "HF_ENDPOINT=" in str(e.value))
    )
    assert type(e.value) is Unreachable


def test_an_invalid_repo_name_is_reported_at_once() -> None:
    assert isinstance(hub("http://127.0.0.1:9", "me/x.git"), WrongSetting)


@pytest.mark.parametrize("key", ["key\n0123456", "\u0416-0123456"])
def test_a_key_with_invalid_characters_is_reported(key: str) -> None:
    with serving(lambda: (200, {}, b"{}")) as url:
        with pytest.raises(WrongSetting, match="SHADEFORM_API_KEY contains a character"):
            Shadeform(Secret(key), url).instances()
        with pytest.raises(WrongSetting, match="HF_TOKEN contains a character"):
            Hub(url, Secret(key)).tree("me/x")


# ------------------------------------------------------------------ changes
def test_a_create_is_unclear_unless_it_surely_was_not_sent(
    monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    api = Shadeform(Secret("key-0123456"), tls)
    with pytest.raises(WrongSetting, match="nothing was sent"):
        api.create({"name": "x"})
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(WrongSetting, match="nothing was sent"):
        Shadeform(Secret("key-0123456"), OUTSIDE).create({"name": "x"})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/gone")
    with pytest.raises(WrongSetting, match="nothing was sent"):
        Shadeform(Secret("key-0123456"), OUTSIDE).create({"name": "x"})
    for lost in (
        requests.ReadTimeout("read timed out"),
        requests.ConnectionError("Connection aborted"),
        ConnectionResetError(104, "reset"),
    ):
        trouble = of_exception(
            lost,
            SHADEFORM,
            OUTSIDE,
            {"SSL_CERT_FILE": "/gone", "REQUESTS_CA_BUNDLE": "/gone", "HTTPS_PROXY": "http://h:1"},
        )
        assert trouble.sent, lost
    assert (
        issubclass(WrongSetting, Unreachable)
        and not issubclass(WrongSetting, UnclearAnswer)
        and HUB.name == "the Hub"
    )
