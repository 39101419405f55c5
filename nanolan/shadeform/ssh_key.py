"""The key for `ssh`: the user's own, uploaded once, or Shadeform's managed one, whose file is written once, with mode 0600 from
the first byte, in a 0700 folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanolan.errors import NanolanError, UnclearAnswer, UsageProblem, quoted
from nanolan.settings.paths import typed
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance

PUBLIC = re.compile(r"((?:ssh|ecdsa|sk)-[a-z0-9@.-]+) ([A-Za-z0-9+/]{40,}={0,3})(?: [^\n]*)?")


@dataclass(frozen=True)
class OwnKey:
    """The user's key: the public key as one line, and the file of the private key if it is beside it."""

    public: str
    private: Path | None = None

    @property
    def kind(self) -> str:
        return self.public.split()[0]

    def matches(self, public: str) -> bool:
        """Whether `public` is this key; comments are ignored."""
        return public.split()[:2] == self.public.split()[:2]


def load_own_key(text: str) -> OwnKey:
    """The key in SSH_PUBLIC_KEY, given as a path or as text; UsageProblem if it is invalid."""
    path = typed(text)
    if PUBLIC.fullmatch(text):
        return OwnKey(text)
    try:
        line = path.read_text().strip()
    except (OSError, UnicodeError, ValueError) as e:
        raise UsageProblem(
            f"SSH_PUBLIC_KEY: {quoted(text, 80)} is neither a public key nor a file with one ({type(e).__name__}). "
            "Make one: ssh-keygen -t ed25519"
        ) from None
    if not PUBLIC.fullmatch(line):  # shows nothing of it: it may be a private key
        raise UsageProblem(f"SSH_PUBLIC_KEY: {path} has no public key; it must be the .pub file")
    private = path.with_suffix("")
    return OwnKey(line, private if path.suffix == ".pub" and private.is_file() else None)


def upload_own_key(api: Shadeform, key: OwnKey) -> str:
    """The id of the user's key on the account; uploads it if it is missing. After a lost answer it checks instead of repeating."""

    def known() -> str | None:
        return next(
            (key_id for key_id, public in api.public_keys().items() if key.matches(public)), None
        )

    if found := known():
        return found
    try:
        return api.add_key(
            f"nanolan-{hashlib.sha256(key.public.encode()).hexdigest()[:8]}", key.public
        )
    except UnclearAnswer:
        if found := known():
            return found
        raise


def private_key_file(
    api: Shadeform, instance: Instance, name: str, folder: Path, own: OwnKey | None
) -> Path | None:
    """The private key file for an instance (as returned by /info); None: ssh's agent or settings must provide the key."""
    if own and own.matches(api.public_keys().get(instance.ssh_key_id or "", "")):
        return own.private
    return save_managed_key(api, instance, name, folder)


def key_folder(environ: Mapping[str, str]) -> Path:
    """`.ssh_keys/` in the checkout, as in the guide; NANOLAN_SSH_KEYS overrides it for local services."""
    return Path(environ.get("NANOLAN_SSH_KEYS") or ROOT / ".ssh_keys")


def save_managed_key(api: Shadeform, instance: Instance, name: str, folder: Path) -> Path | None:
    """Write `.ssh_keys/<name>.pem` if it is missing; None if there is no managed key or it is not available.

    `name` comes from the plan, never from the API.
    """
    path = folder / f"{name}.pem"
    if path.exists():
        return path
    try:
        key = api.private_key(instance.ssh_key_id)
    except NanolanError:
        return None  # best effort: the next `just status` tries again
    if key is None:
        return None
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:  # another process was faster
        return path
    try:
        with os.fdopen(fd, "w") as f:
            f.write(key[1].reveal())
    except OSError:  # a full disk: do not keep half a key
        path.unlink(missing_ok=True)
        return None
    return path
