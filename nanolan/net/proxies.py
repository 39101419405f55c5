"""The proxy that the environment names for a call, and what is wrong with its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit


def socks_proxy(name: str, value: str) -> str:
    """What is wrong with a proxy's variable that names a SOCKS proxy, for whatever scheme; or ""."""
    named = re.fullmatch(r"(?i)(https?|all)_proxy", name)
    return wrong_proxy(name, value) if named and value.lower().startswith("socks") else ""


def proxy_of(url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable of the proxy for calls to `url`, and its value."""
    parts = urlsplit(url)
    if parts.hostname in ("127.0.0.1", "localhost", "::1") or _bypassed(
        parts.hostname or "", environ
    ):
        return None
    names = (f"{parts.scheme}_proxy", f"{parts.scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    return next(((name, environ[name]) for name in names if environ.get(name)), None)


def _bypassed(host: str, environ: Mapping[str, str]) -> bool:
    listed = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    return any(
        name == "*" or host == name or host.endswith(f".{name}")
        for name in (n.strip().lstrip(".") for n in listed)
        if name
    )


def wrong_proxy(name: str, value: str) -> str:
    """What is wrong with the text of a proxy's address, or ""."""
    address = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return f"{name} (environment) is not a proxy address: write http://host:port"
    if parts.scheme.lower().startswith("socks"):
        return f"{name} (environment) is a SOCKS proxy, which nanolan cannot use: give an http:// proxy, or unset {name}"
    if (
        parts.scheme.lower() not in ("http", "https")
        or not re.fullmatch(r"[\w.:-]+", parts.hostname or "")
        or port == 0
        or "://" not in value
        and "/" in value
    ):
        return f"{name} (environment) is not a proxy address: write http://host:port"
    return ""


def shown_proxy(name: str, value: str) -> str:
    """A proxy variable and its address, without a password."""
    address = re.sub(r"^([^/]*//)?[^/]*@", r"\1...@", value)
    return f"{name}={address[:80]}"
