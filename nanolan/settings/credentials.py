"""Secrets that are kept outside of nanolan's settings: Hub logins, proxy passwords, keys of other services.

nanolan does not use them. It registers them, so that masks hide them and files that contain one are not sent.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from nanolan.errors import UsageProblem
from nanolan.redact import Secret, password_of
from nanolan.settings.values import secret

PROXIES = re.compile(r"(?i)(https?|all|ftp|socks)_proxy")
NAMED = re.compile(r"(?i).*(token|api_?key|access_?key|secret|secret_?key|passwd|password)")
OLD_TOKEN = "HUGGING_FACE_HUB_TOKEN"
MOST_BYTES = 1 << 20
SHORTEST_SECRET = 16  # shorter values of other programs may be ordinary words


def note_credentials(environ: Mapping[str, str]) -> None:
    """Register all of them with the masks."""
    for value in (*of_environment(environ), *hub_logins(environ), *wandb_logins(environ)):
        Secret(value)


def check_old_token(environ: Mapping[str, str]) -> None:
    """UsageProblem for a bad HUGGING_FACE_HUB_TOKEN, the older name of HF_TOKEN, which the Hub's client would read."""
    old = (environ.get(OLD_TOKEN) or "").strip()
    if old and not environ.get("HF_TOKEN"):
        try:
            secret(old)
        except UsageProblem as e:
            raise UsageProblem(f"{OLD_TOKEN} (environment): {e}") from None


def of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """Proxy passwords, and values of other programs' variables whose names say that they hold a secret."""
    for name, value in environ.items():
        if PROXIES.fullmatch(name):
            yield from password_of(value)
        elif (
            NAMED.fullmatch(name)
            and len(value) >= SHORTEST_SECRET
            and re.search(r"\d", value)
            and not value.startswith(("/", "~"))
        ):
            yield value.strip()


def hub_logins(environ: Mapping[str, str]) -> Iterator[str]:
    """Every token that `hf auth login` has stored, in use or not."""
    home = hub_home(environ)
    named = environ.get("HF_TOKEN_PATH")
    for path in (Path(named).expanduser() if named else home / "token", home / "token"):
        if text := small_text(path).strip():
            yield text
    stored = configparser.ConfigParser(interpolation=None)
    try:
        stored.read_string(
            small_text(Path(environ.get("HF_STORED_TOKENS_PATH") or home / "stored_tokens"))
        )
    except configparser.Error:
        return
    for section in stored.sections():
        yield from (value for value in stored[section].values() if value)


def hub_home(environ: Mapping[str, str]) -> Path:
    """The folder of the Hub client's files (HF_HOME)."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    return Path(environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def wandb_logins(environ: Mapping[str, str]) -> Iterator[str]:
    """The passwords of wandb hosts in the user's netrc."""
    path = Path(
        environ.get("NETRC") or Path(environ.get("HOME") or Path.home()) / ".netrc"
    ).expanduser()
    for entry in re.split(r"(?m)^\s*(?=machine\s|default\s)", small_text(path)):
        if re.match(r"machine\s+\S*wandb", entry) and (
            found := re.search(r"\bpassword\s+(\S+)", entry)
        ):
            yield found[1]


def small_text(path: Path) -> str:
    """The text of a small file; "" if it is missing, unreadable or large."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return ""
        return path.read_text(errors="replace")
    except OSError:
        return ""
