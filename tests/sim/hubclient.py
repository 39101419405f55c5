"""The real huggingface_hub client and the real `hf` command, run against a local Hub; for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nanolan.sim.hub.server import HubServer

BIG = bytes(range(256)) * 8192  # 2 MiB, goes into LFS as *.pt
REPO = "me/model"

# The client reads its settings when it is imported, so each script runs in a process of its own
PRELUDE = """
import json, sys
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi
api = HfApi()
def failure(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as e:
        return [type(e).__name__, getattr(getattr(e, "response", None), "status_code", None)]
def say(value):
    print(json.dumps(value))
"""


def environment(hub: HubServer, tmp: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp / "home")} | hub.env(tmp / "hf_home") | more


def client(hub: HubServer, tmp: Path, script: str, **more: str) -> Any:
    """What the script says with the real client, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        env=environment(hub, tmp, **more),
        cwd=tmp,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def hf(hub: HubServer, tmp: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("hf")
    return subprocess.run(
        [command, *args],
        env=environment(hub, tmp, **more),
        cwd=tmp,
        capture_output=True,
        text=True,
        timeout=90,
    )


def requests(hub: HubServer, method: str, part: str) -> list[dict[str, Any]]:
    return [line for line in hub.log if line["method"] == method and part in line["path"]]


def folder_of(tmp: Path) -> Path:
    """A folder as a run uploads it: a README, text, and a checkpoint."""
    folder = tmp / "out"
    (folder / "d20").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "d20" / "meta_000001.json").write_text('{"step": 1}')
    (folder / "d20" / "model_000001.pt").write_bytes(BIG)
    return folder
