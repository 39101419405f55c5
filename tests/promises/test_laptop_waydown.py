"""On a laptop: nothing keeps a deletion that is under way from happening; not its output, its disk, or its terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanolan.run.ledger import Ledger
from nanolan.settings.settings import ROOT
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from tests.promises.test_waydown import OUTPUTS
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import started, until
from tests.support.stop_script_fixtures import cloud, deleted, environment, ledger, rented  # noqa: F401  # fixtures
from tests.support.trouble import small_disk

LATE = "2026-01-01T00:00:00Z"


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"mine"})
        yield server


def stop(cloud: ShadeformServer, ledger: Ledger, hub: HubServer) -> list[str]:
    return ["stop", rented(cloud, ledger).run_id, "--now", "--yes"]


def guard(cloud: ShadeformServer, ledger: Ledger, hub: HubServer) -> list[str]:
    rented(cloud, ledger, created_at=LATE, deadline=LATE, owner=ledger.owner, hf_endpoint=hub.url)
    cloud.instances[0].created_at -= 10**7
    return ["guard", "--once"]


COMMANDS: dict[str, Callable[..., list[str]]] = {"stop": stop, "guard": guard}


def run(words: list[str], env: dict[str, str], **how: Any) -> int:
    return subprocess.run(
        [sys.executable, str(ROOT / f"scripts/{words[0]}.py"), *words[1:]],
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=60,
        **how,
    ).returncode


@pytest.mark.parametrize(
    "output",
    ["full disk", *(pytest.param(o, marks=pytest.mark.slow) for o in OUTPUTS if o != "full disk")],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_cannot_print_keeps_it_from_no_deletion(
    cloud: ShadeformServer,
    ledger: Ledger,
    hub: HubServer,
    command: str,
    output: str,
) -> None:
    words = COMMANDS[command](cloud, ledger, hub)
    env = environment(cloud, ledger, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_REPO=REPO)
    assert run(words, env, **OUTPUTS[output]()) == 0 and deleted(cloud) == [True]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_takes_nothing_keeps_no_command_from_a_deletion(
    tmp_path: Path,
    cloud: ShadeformServer,
    hub: HubServer,
    command: str,
    read_only: bool,
) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        home = Ledger(disk.folder)
        words = COMMANDS[command](cloud, home, hub)
        disk.read_only() if read_only else disk.fill()
        env = environment(cloud, home, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_REPO=REPO)
        assert run(words, env) == 0 and deleted(cloud) == [True]


def test_a_terminal_that_goes_away_in_a_deletion_ends_the_command_after_it(
    cloud: ShadeformServer,
    ledger: Ledger,
    hub: HubServer,
) -> None:
    words = stop(cloud, ledger, hub)
    cloud.switch("delete_ignored", 1)
    with started(*words, env=environment(cloud, ledger)) as process:
        until(lambda: any(r.path.endswith("/delete") for r in cloud.requests))
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == -signal.SIGHUP and deleted(cloud) == [True]


def test_a_terminal_that_goes_away_while_nothing_is_deleted_ends_the_guard(
    cloud: ShadeformServer,
    ledger: Ledger,
    hub: HubServer,
) -> None:
    rented(cloud, ledger, owner=ledger.owner, hf_endpoint=hub.url)
    env = environment(cloud, ledger, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_REPO=REPO)
    with started("guard", "1", env=env) as process:
        until(lambda: any(r.path.endswith("/instances") for r in cloud.requests))
        time.sleep(0.5)
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == -signal.SIGHUP and deleted(cloud) == [False]
