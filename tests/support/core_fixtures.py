"""What the tests of the laptop half share: a plan, clients that do not wait, a world without boxes, and commands run in it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from nanolan.plan import Code, Pinned, PinnedFile, Plan, Rented
from nanolan.redact import Secret
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.sim.world import World
from tests.support.forked_python import LAPTOP, forkable, forked

QUICK = Delays(
    creating_s=0.02, pending_provider_s=0.02, pending_s=0.02, deleting_s=0.3, tick_s=0.02
)
CREATE, TYPES = "POST /v1/instances/create", "GET /v1/instances/types"
LIST, INFO = "GET /v1/instances$", "GET /v1/instances/.*/info"

PLAN = Plan(
    run_id="ab12cd34",
    run_name="lanbot-v3",
    owner="0badcafe",
    created_at="2026-11-23T12:00:00Z",
    deadline="2026-11-23T16:27:51Z",
    limit_cents=15_000,
    phases=("sft",),
    model_tag="d20",
    output_tag="d20",
    hf_repo="me/lanbot-checkpoints",
    runs_repo="me/lanbot-checkpoints",
    hf_endpoint="http://127.0.0.1:1",
    shadeform_api="http://127.0.0.1:2/v1",
    offer=Rented(
        "hyperstack",
        "canada-1",
        "8x_b200_pcie_192gb",
        "B200",
        8,
        192,
        3360,
        "ubuntu24.04_cuda13.0_shade_os",
    ),
    code=Code("c0ffee" * 6 + "c0ff", "5" * 64, 1234, False),
    inputs=(
        Pinned(
            "me/lanbot-checkpoints",
            "model",
            "e" * 40,
            (PinnedFile("mid_checkpoints/d20/model_000010.pt", 7, "a" * 64, "b" * 40),),
        ),
    ),
    datasets=(),
    wandb_project="lanbot",
    processes=8,
)


def a_plan(**changes: Any) -> Plan:
    """PLAN with some fields changed."""
    return replace(PLAN, **changes)


class Waits(list[float]):
    """A sleep that only notes for how long; `really` seconds pass."""

    def __init__(self, really: float = 0.0) -> None:
        super().__init__()
        self.really = really

    def __call__(self, seconds: float) -> None:
        self.append(seconds)
        time.sleep(self.really)


def client(cloud: ShadeformServer, key: str | None = None, **more: Any) -> Shadeform:
    """A client of `cloud` that does not wait between tries."""
    return Shadeform(Secret(key or cloud.key), cloud.url, **({"sleep": Waits(0.02)} | more))


def creates(cloud: ShadeformServer) -> int:
    """How many create requests were sent."""
    return sum(r.method == "POST" and r.path.endswith("/create") for r in cloud.requests)


def forget(world: World) -> World:
    """A world in which nothing has happened yet: no instances, faults, switches or ledger."""
    with world.cloud.account.lock:
        world.cloud.account.instances.clear()
    world.cloud.faults.clear()
    for name in list(world.cloud.switches._on):
        world.cloud.switch(name, False)
    world.cloud.requests.clear()
    for path in (world.root / "nanolan-home").glob("**/*"):
        if path.is_file():
            path.unlink()
    return world


def script(
    name: str,
    *words: str,
    env: dict[str, str],
    stdin: Any = subprocess.DEVNULL,
    input: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """scripts/<name>.py, run to its end as a user would."""
    how: dict[str, Any] = {"input": input} if input is not None else {"stdin": stdin}
    python = forked(LAPTOP).path if forkable(env) else sys.executable
    return subprocess.run(
        [str(python), str(ROOT / f"scripts/{name}.py"), *words],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        **how,
    )


@contextmanager
def started(
    name: str, *words: str, env: dict[str, str], root: Path = ROOT
) -> Iterator[subprocess.Popen[str]]:
    """scripts/<name>.py while it runs; ended for sure on leaving. Ctrl-C reaches it, whatever this process ignores."""
    import signal

    process = subprocess.Popen(
        [sys.executable, str(root / f"scripts/{name}.py"), *words],
        env=env,
        cwd=root,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        try:  # what it was just starting, too: a Ctrl-C from a terminal reaches all of them
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def forms_of(secret: str) -> set[str]:
    """Every text in which a secret could be read: raw, quoted, JSON, and base64 at each alignment."""
    forms = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + secret.encode()).decode().rstrip("=")
        forms.add(encoded[4 if shift else 0 : -2])
    return forms


def without(env: dict[str, str], *names: str) -> dict[str, str]:
    return {k: v for k, v in env.items() if k not in names}


def git(root: Path, *args: str) -> str:
    """git with an author, and none of this machine's settings."""
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@t",
    }
    return subprocess.run(
        ["git", *args], cwd=root, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()
