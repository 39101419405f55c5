"""The SSH keys of the simulated account: added ones, and one managed by Shadeform.

As at the real Shadeform, the API key is enough to read the private half of the managed key.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanolan.sim.shadeform.refusal import bad_request, refuse

MANAGED = "Shadeform Managed Key"


@dataclass
class Key:
    """One key as the API shows it, including its private half."""

    id: str
    name: str
    public_key: str
    is_default: bool = False
    private_key: str = ""  # "" for added keys


class Keys:
    """The keys by id; the managed one is the initial default."""

    def __init__(self) -> None:
        private, public = generate_key_pair()
        managed = Key(str(uuid.uuid4()), MANAGED, public, True, private)
        self.all = {managed.id: managed}

    @property
    def default(self) -> Key:
        return next(k for k in self.all.values() if k.is_default)

    def listed(self) -> dict[str, Any]:
        """The answer of GET /sshkeys."""
        return {"ssh_keys": [asdict(k) for k in self.all.values()]}

    def info(self, key_id: str) -> dict[str, Any]:
        """The answer of GET /sshkeys/{id}/info."""
        return asdict(self._get(key_id))

    def add(self, body: Any) -> dict[str, str]:
        """Store a public key; refused if its name is taken."""
        given = body if isinstance(body, dict) else {}
        name, public = given.get("name"), given.get("public_key")
        if not isinstance(name, str) or not isinstance(public, str) or len(public.split()) < 2:
            raise bad_request("name and public_key are required")
        if any(k.name == name for k in self.all.values()):
            raise refuse("name_taken")
        key = Key(str(uuid.uuid4()), name, public)
        self.all[key.id] = key
        return {"id": key.id}

    def delete(self, key_id: str, in_use: set[str]) -> None:
        """Remove a key; the managed one, the default and those of living instances are refused."""
        key = self._get(key_id)
        if key.is_default or key.name == MANAGED or key.id in in_use:
            raise refuse("key_needed")
        del self.all[key_id]

    def set_default(self, key_id: str) -> None:
        """Make this the key of instances created without a key."""
        chosen = self._get(key_id)
        for key in self.all.values():
            key.is_default = key is chosen

    def _get(self, key_id: str) -> Key:
        if key_id not in self.all:
            raise refuse("not_found")
        return self.all[key_id]


def generate_key_pair() -> tuple[str, str]:
    """A fresh (private, public) ed25519 pair of ssh-keygen; without ssh-keygen, text that looks like a pair."""
    if shutil.which("ssh-keygen") is None:
        body = base64.b64encode(b"no ssh-keygen here: this is not a key").decode()
        words = "OPENSSH PRIVATE KEY"
        return (
            f"-----BEGIN {words}-----\n{body}\n-----END {words}-----\n",
            f"ssh-ed25519 {body} shadeform",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "shadeform", "-f", path],
            check=True,
        )
        return path.read_text(), path.with_suffix(".pub").read_text().strip()
