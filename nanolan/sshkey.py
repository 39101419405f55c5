"""The key file for `ssh`: Shadeform's managed key, written once, 0600 from its first byte, in a 0700 folder."""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nanolan.config import ROOT
from nanolan.errors import NanolanError
from nanolan.instance import Instance
from nanolan.shadeform import Shadeform


def key_folder(environ: Mapping[str, str]) -> Path:
    """`.ssh_keys/` in the checkout, as in the guide; a local world has its own, in NANOLAN_SSH_KEYS."""
    return Path(environ.get("NANOLAN_SSH_KEYS") or ROOT / ".ssh_keys")


def keep_key(api: Shadeform, instance: Instance, name: str, folder: Path) -> Path | None:
    """Write `.ssh_keys/<name>.pem` if it is not there; None when there is no managed key or it cannot be had.

    `name` comes from our own plan, never from the API.
    """
    path = folder / f"{name}.pem"
    if path.exists():
        return path
    try:
        key = api.private_key(instance.ssh_key_id)
    except NanolanError:
        return None   # status is no worse without it; the next look tries again
    if key is None:
        return None
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:   # another status was faster
        return path
    with os.fdopen(fd, "w") as f:
        f.write(key[1].reveal())
    return path
