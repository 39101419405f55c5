"""A failed call is explained at once, with the setting to change: never as a bug of nanolan, a bad key or a dead network."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import requests

from nanolan.errors import (
    WrongSetting,
)
from nanolan.net.errors import SHADEFORM, of_exception, proxy_of, wrong_proxy
from tests.support.net_error_fixtures import (
    CLIENTS,
    clean,  # noqa: F401  # an autouse fixture
    hub,
    serving,
    tls,  # noqa: F401  # a fixture
)


# ---- the environment
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


# ---- TLS
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


@pytest.mark.parametrize(
    "path, why",
    [("/nonex/x", "is in a folder that does not exist"), ("/", "cannot be written")],
)
def test_a_key_log_that_cannot_be_written_is_named_and_no_certificate(path: str, why: str) -> None:
    environ = {"SSLKEYLOGFILE": path, "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt"}
    missing = FileNotFoundError(2, "No such file or directory", path)
    trouble = of_exception(missing, SHADEFORM, "https://api.shadeform.ai/v1", environ)
    assert trouble.text == (
        f"SSLKEYLOGFILE (environment): {path} {why}; correct it or unset SSLKEYLOGFILE"
    )
