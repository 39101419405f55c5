"""What a failed call to a service means: a wrong setting, a refusal, too many requests, or a service that is down.

Covers requests, the Hub's client, TLS and the operating system. Recognises exceptions by name, so that it need not import those
libraries; names the variable to change, without secret parts of its value.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanolan.errors import TooManyRequests, Unreachable, WrongSetting
from nanolan.net.proxies import proxy_of, shown_proxy, socks_proxy, wrong_proxy
from nanolan.redact import short

SETTING, REFUSED, BUSY, DOWN = "your setting", "refused", "too many requests", "down"

# Raised before any byte of the request is sent
UNSENT = {
    "InvalidSchema",
    "InvalidURL",
    "InvalidProxyURL",
    "InvalidHeader",
    "MissingSchema",
    "SSLCertVerificationError",
    "UnicodeEncodeError",
    "LocationParseError",
    "ProxySchemeUnknown",
    "gaierror",
    "ConnectionRefusedError",
}
CERTIFICATE = {
    10: "has expired, or this machine's clock is wrong",
    9: "is not valid yet: this machine's clock is wrong?",
    62: "belongs to another host",
    64: "belongs to another host",
}
UNTRUSTED = "is not signed by a known authority; if a proxy intercepts TLS, set REQUESTS_CA_BUNDLE to its certificate file"


@dataclass(frozen=True)
class Service:
    """A service: its name, the settings for its address and key, and the variables for trusted certificates."""

    name: str
    address: str
    key: str
    certificates: tuple[str, ...]
    usual: str  # its default address


SHADEFORM = Service(
    "Shadeform",
    "SHADEFORM_API",
    "SHADEFORM_API_KEY",
    ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "https://api.shadeform.ai",
)
HUB = Service(
    "the Hub",
    "HF_ENDPOINT",
    "HF_TOKEN",
    ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    "https://huggingface.co",
)


@dataclass(frozen=True)
class Trouble:
    """What went wrong; whether a retry may help, and whether the request may have been sent."""

    kind: str
    text: str
    again: bool = True
    sent: bool = True

    @property
    def advice(self) -> str:
        """What to do after the last retry failed."""
        return (
            "Is the network up? Try again"
            if self.kind == DOWN and not self.sent
            else "Try again later"
        )

    def error(self, more: str = "") -> Unreachable:
        """The error to raise; `more` is appended to its text."""
        kind = {SETTING: WrongSetting, BUSY: TooManyRequests}.get(self.kind, Unreachable)
        return kind(f"{self.text}{more}")


def of_answer(
    service: Service, status: int, headers: Mapping[str, str], body: str
) -> Trouble | None:
    """What an answer of a proxy, a login page or a failing server means; None for an answer of the service itself."""
    if status == 407:
        return Trouble(
            SETTING,
            "the proxy requires a login (HTTP 407): HTTPS_PROXY=http://user:password@host:port",
            False,
        )
    if status == 429:
        return Trouble(
            BUSY, f"{service.name} got too many requests (HTTP 429{_wait_text(headers)})"
        )
    if 300 <= status < 400:
        host = urlsplit(headers.get("Location", "")).hostname or "elsewhere"
        return Trouble(
            SETTING,
            f"{service.name} is not at {service.address}: it redirects to {host[:80]} (HTTP {status}). "
            "A login page of the network, or a wrong address?",
            False,
        )
    if status < 500 and is_page(headers, body):
        return Trouble(
            SETTING,
            f"a web page answered instead of {service.name} (HTTP {status}{_title(body)}): a login page "
            f"of the network, a proxy or a firewall stands in between, or {service.address} is wrong",
            False,
        )
    if status >= 500 or status in (408, 425):
        return Trouble(
            DOWN,
            f"{service.name} is down (HTTP {status}{_title(body) if is_page(headers, body) else ''})",
        )
    return None


def is_page(headers: Mapping[str, str], body: str) -> bool:
    """Whether an answer is HTML; the services send none to programs."""
    return (
        "text/html" in headers.get("Content-Type", "")
        and body.lstrip()[:1] in ("<", "")
        or bool(re.match(r"\s*<(!doctype|html|head|body)", body, re.I))
    )


def of_exception(
    e: BaseException, service: Service, url: str, environ: Mapping[str, str] = os.environ
) -> Trouble:
    """What an exception of a call without an answer means."""
    links = list(_chain(e))
    names = {kind.__name__ for link in links for kind in type(link).__mro__}
    words = " ".join(str(link) for link in links)
    sent = not (
        names & UNSENT or "CA certificate bundle" in words or "Tunnel connection failed" in words
    )
    if text := _setting(links, names, words, service, url, environ):
        return Trouble(SETTING, text, False, sent)
    return Trouble(DOWN, _down(e, names, words, service, url), sent=sent)


def _setting(
    links: list[BaseException],
    names: set[str],
    words: str,
    service: Service,
    url: str,
    environ: Mapping[str, str],
) -> str:
    """The setting that caused the failure and what is wrong with it; "" if no setting did."""
    host = urlsplit(url).hostname or url
    if "OfflineModeIsEnabled" in names:
        name = next(
            (n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environ.get(n)),
            "HF_HUB_OFFLINE",
        )
        return f"{name} (environment) forbids every call to the Hub: unset {name}"
    if "HFValidationError" in names:
        return f"the Hub's client does not accept this repo name: {short(words, 150)}"
    if (
        names & {"UnicodeEncodeError", "InvalidHeader"}
        or "LocalProtocolError" in names
        and "header" in words.lower()
    ):
        return f"{service.key} contains a character that is not allowed in a key; copy it again"
    if "ImportError" in names and "socks" in words.lower():
        return next((text for n, v in environ.items() if (text := socks_proxy(n, v))), "")
    if wrong := _certificates(names, words, service, environ):
        return wrong
    proxy = proxy_of(url, environ)
    if proxy and (problem := wrong_proxy(*proxy)):
        return problem
    if refused := next(
        (link for link in links if type(link).__name__ == "SSLCertVerificationError"), None
    ):
        why = CERTIFICATE.get(getattr(refused, "verify_code", 0), UNTRUSTED)
        return f"the certificate of {host} {why}" + (
            f" (received through {shown_proxy(*proxy)})" if proxy else ""
        )
    if re.search("WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE", words):
        address = shown_proxy(*proxy) if proxy else f"{service.address}={url}"
        return f"{address} does not use TLS: write http:// there?"
    if proxy and names & {"ProxyError", "ConnectError", "ConnectTimeout"}:
        return _of_proxy(proxy, words, host)
    if names & {
        "InvalidSchema",
        "InvalidURL",
        "MissingSchema",
        "UnsupportedProtocol",
        "LocationParseError",
    }:
        return f"{service.address} is not a usable address: {short(words, 150)}"
    return ""


def _of_proxy(proxy: tuple[str, str], words: str, host: str) -> str:
    if "407" in words:
        return f"the proxy of {shown_proxy(*proxy)} requires a login (HTTP 407): give it as http://user:password@host:port"
    if refused := re.search(r"Tunnel connection failed: (\d{3}[^'\")]*)|^(\d{3} [\w ]+)", words):
        return f"the proxy of {shown_proxy(*proxy)} blocks {host}: {short(refused[1] or refused[2], 80)}"
    return f"the proxy of {shown_proxy(*proxy)} does not answer ({_reason(words)}): correct it or unset {proxy[0]}"


def _certificates(names: set[str], words: str, service: Service, environ: Mapping[str, str]) -> str:
    """After a TLS failure: a variable whose certificate file is invalid, and what is wrong; or ""."""
    failed = names & {"SSLError", "FileNotFoundError", "IsADirectoryError", "PermissionError"}
    if (
        not failed
        and "CA certificate bundle" not in words
        and "CERTIFICATE_VERIFY_FAILED" not in words
    ):
        return ""
    if (path := environ.get("SSLKEYLOGFILE")) and (why := _not_appendable(Path(path))):
        return f"SSLKEYLOGFILE (environment): {path[:120]} {why}; correct it or unset SSLKEYLOGFILE"
    for name in service.certificates:
        if value := environ.get(name, ""):
            if problem := wrong_certificates(Path(value)):
                return f"{name} (environment): {value[:120]} {problem}; correct it or unset {name}"
            return ""
    return ""


def wrong_certificates(path: Path) -> str:
    """What is wrong with a file or folder of trusted certificates, or ""."""
    try:
        if path.is_dir():
            return "" if any(path.glob("*.0")) else "is a folder without certificates"
        # without the defaults: these read SSLKEYLOGFILE, too
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        return ""
    except FileNotFoundError:
        return "does not exist"
    except ssl.SSLError:
        return "contains no certificate"
    except OSError as e:
        return f"cannot be read ({e.strerror or type(e).__name__})"


def _not_appendable(path: Path) -> str:
    """Why nothing can be appended to a file, or ""; makes no file."""
    folder = path.parent
    if not folder.is_dir():
        return "is in a folder that does not exist"
    writable = os.access(path if path.exists() else folder, os.W_OK) and not path.is_dir()
    return "" if writable else "cannot be written"


def _down(e: BaseException, names: set[str], words: str, service: Service, url: str) -> str:
    host = urlsplit(url).hostname or url
    where = "" if url.startswith(service.usual) else f" ({service.address}={url[:80]})"
    if names & {"gaierror", "NameResolutionError"} or "Name or service not known" in words:
        return f"{service.name} cannot be reached: no DNS entry for {host}; no network, or no DNS{where}"
    if names & {"OSError", "ConnectError", "TransportError"}:
        return f"{service.name} cannot be reached: {_reason(words)}, {type(e).__name__}{where}"
    return f"{service.name}: {type(e).__name__}: {short(str(e), 120)}{where}"


def _reason(words: str) -> str:
    """Why there was no answer, in the operating system's words if possible."""
    known = re.search(
        r"Connection refused|No route to host|Network is unreachable|Connection reset by peer|timed out|Broken pipe|"
        r"Name or service not known|Temporary failure in name resolution",
        words,
        re.I,
    )
    return known[0].lower() if known else "no answer"


def _wait_text(headers: Mapping[str, str]) -> str:
    text = headers.get("Retry-After") or headers.get("RateLimit") or ""
    return f", retry in {short(text, 40)}{' s' if text.isdecimal() else ''}" if text else ""


def _title(body: str) -> str:
    found = re.search(r"<title[^>]*>(.{1,300}?)</title", body, re.I | re.S)
    return f", titled {short(found[1], 60)!r}" if found else ""


def _chain(e: BaseException | None) -> Iterator[BaseException]:
    """An exception and all exceptions that it wraps."""
    seen: set[int] = set()
    todo: list[Any] = [e]
    while todo:
        link = todo.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        todo += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
