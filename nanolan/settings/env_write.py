"""Writes settings into a .env file: what else is in the file stays, only its owner can read it, never half written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

MODE = 0o600


def write_values(path: Path, values: Mapping[str, str], template: Path) -> None:
    """Set `values` (variable -> text) in the file at `path`, which starts as a copy of `template`.

    A link is followed, so that the file it names is the one that changes. OSError when it cannot be written; the file
    is then as before.
    """
    from dotenv import set_key

    target = path.resolve()
    handle, name = tempfile.mkstemp(prefix=".env-", dir=target.parent)  # 0600 from the start
    os.close(handle)
    draft = Path(name)
    try:
        shutil.copyfile(target if target.exists() else template, draft)
        for variable, text in values.items():
            set_key(draft, variable, text)
        draft.chmod(MODE)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
