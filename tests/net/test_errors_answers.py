"""Answers of services as one of four kinds of trouble."""

from __future__ import annotations

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
from nanolan.hub.client import Hub
from nanolan.hub.trouble import requested_wait_s
from nanolan.net.errors import HUB, SHADEFORM, of_exception
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform, retry_after_s
from tests.support.net_error_fixtures import (
    CLIENTS,
    OUTSIDE,
    clean,  # noqa: F401  # an autouse fixture
    hub,
    serving,
    shadeform,
    tls,  # noqa: F401  # a fixture
)

PAGE = b"<!DOCTYPE html><html><head><title>Sign in to\n Airport WiFi</title></head></html>"


HTML = {"Content-Type": "text/html; charset=utf-8"}


JSON = {"Content-Type": "application/json"}


# ---- answers
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


# ---- addresses, names, keys
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


# ---- changes
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
