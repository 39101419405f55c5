"""The benches of looking: what `status`, `watch` and the heartbeat cost. `just bench status watch heartbeat` runs them."""

from __future__ import annotations

import multiprocessing
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from nanolan.settings.settings import ROOT

LATENCY_S = 0.1
MANY = 200
COMMAND = [sys.executable, str(ROOT / "scripts/check_status.py")]


@contextmanager
def one_run() -> Iterator[Any]:
    """A local world with one run whose machine goes on for an hour, and the environment to look at it."""
    from nanolan.sim.shadeform.instance import Delays
    from nanolan.sim.world import World

    with (
        tempfile.TemporaryDirectory() as temp,
        World(
            Path(temp),
            trainer="tests.support.standin_trainer",
            setup="light",
            recipe={},
            delays=Delays(pending_provider_s=3600),
        ) as world,
    ):
        subprocess.run(
            [sys.executable, "scripts/launch.py", "--yes", "--no-wait"],
            env=world.env(),
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        yield world


def look_s(env: dict[str, str], times: int = 3) -> float:
    """Median seconds of `just status`."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(COMMAND, env=env, cwd=ROOT, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[times // 2]


def status() -> Iterator[str]:
    """The delay that a slow network adds, in round trips; and 200 runs beside one."""
    with one_run() as world:
        quick = look_s(world.env())
        world.cloud.fault(".*", "stall", times=None, seconds=LATENCY_S)
        world.hub.fault(match=".*", action="stall", times=10**9, seconds=LATENCY_S)
        slow = look_s(world.env())
        yield (
            f"{(slow - quick) / LATENCY_S:.1f} round trips deep ({quick:.2f} s on loopback, {slow:.2f} s with {LATENCY_S} s a "
            "request; aim 1.3)"
        )
        world.cloud.faults.clear()
        world.hub.faults.clear()
        for alive in (False, True):
            many_more(world, alive)
            many = look_s(world.env())
            yield (
                f"{MANY} runs {'that all go on' if alive else 'in the ledger'}: {many:.2f} s, {many / quick:.1f} x one run "
                "(aim 2 s)"
            )


def many_more(world: Any, alive: bool) -> None:
    """200 more runs in the ledger, over or going on without a machine of their own."""
    from msgspec import structs

    from nanolan.plan import new_run_id
    from nanolan.run.ledger import Ledger
    from nanolan.run.record import Receipt
    from nanolan.times import iso, now_utc

    ledger = Ledger(world.root / "nanolan-home")
    first = ledger.entries()[0]
    for _ in range(MANY):
        run_id = new_run_id()
        plan = structs.replace(
            first.plan, run_id=run_id, created_at=iso(now_utc() - timedelta(days=1))
        )
        ledger.put(
            structs.replace(
                first,
                plan=plan,
                instance_id=f"i-{run_id}",
                gone=not alive,
                receipt=None if alive else Receipt(run_id, "succeeded"),
            )
        )


def watch() -> str:
    """CPU seconds a minute of `just watch` on a terminal, after its first look."""
    with one_run() as world:
        master, slave = pty.openpty()
        child = subprocess.Popen(
            [*COMMAND, "--watch"],
            env=world.env() | {"TERM": "xterm-256color"},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        os.set_blocking(master, False)
        try:
            _drain(master, 8)
            process = psutil.Process(child.pid)
            before = sum(process.cpu_times()[:2])
            _drain(master, 60)
            used = sum(process.cpu_times()[:2]) - before
        finally:
            child.kill()
            child.wait()
            os.close(master)
    return f"{used:.2f} CPU seconds a minute on a terminal, one look and 60 redraws (aim 1.2)"


def _drain(terminal: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.2)
        except OSError:
            return


def heartbeat() -> str:
    """CPU seconds a minute of what the box program does beside the training: heartbeats, the meter, looking for the user's word."""
    from nanolan.box.watch.control import Control
    from nanolan.box.watch.heartbeat import Heartbeat
    from nanolan.box.watch.spend import SpendMeter
    from nanolan.box.watch.timeline import Timeline
    from nanolan.hub.client import Hub
    from nanolan.notify import Notifier
    from nanolan.redact import Secret
    from nanolan.shadeform.client import Shadeform
    from nanolan.sim.hub.state import WRITER
    from tests.support.box_fixtures import KEY, make_plan
    from tests.support.spend_fixtures import machine

    with tempfile.TemporaryDirectory() as temp, _servers(Path(temp)) as (hub_url, cloud_url):
        work = Path(temp) / "work"
        (work / "var/log").mkdir(parents=True)
        os.environ["BOX_ROOT"] = str(work)
        log, line = (
            work / "var/log/lanbot-training.log",
            "sft step 7/900 | loss 1.2345 | lr 0.02 | 1,234,567 tok/s\n",
        )
        log.write_text(line * 20_000)
        (work / "trainer").mkdir()
        (work / "trainer/metrics.jsonl").write_text(
            '{"phase": "sft", "step": 7, "steps": 900, "loss": 1.5, "t": 1.0}\n' * 900
        )
        plan = make_plan(hub_url, cloud_url, hf_repo="me/bench", runs_repo="me/bench")
        api, hub = Shadeform(Secret(KEY), cloud_url), Hub(hub_url, Secret(WRITER), patience_s=0)
        meter = SpendMeter(plan, machine(60), api)
        control = Control(plan, hub)
        heartbeat = Heartbeat(
            plan,
            {"HF_TOKEN": Secret(WRITER), "X": Secret("a-secret-to-mask")},
            work,
            meter,
            Timeline(work / "t.json"),
            Notifier(None, ""),
        )
        heartbeat.close()

        def beat() -> None:
            with log.open("a") as f:
                f.write(f"{time.time()} {line}" * 300)  # what five minutes say
            heartbeat._beat()

        costs = {
            name: _cpu_s(act)
            for name, act in (("beat", beat), ("meter", meter.look), ("control", control.look))
        }
    a_minute = costs["beat"] / 5 + 3 * (costs["meter"] + costs["control"])
    parts = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in costs.items())
    return f"{a_minute:.2f} CPU seconds a minute beside the training ({parts}; aim 0.3)"


def _cpu_s(act: Any, times: int = 10) -> float:
    """CPU seconds of one call, after a first one."""
    act()
    before = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - before) / times


@contextmanager
def _servers(root: Path) -> Iterator[tuple[str, str]]:
    """A local Hub and Shadeform in another process, so that their CPU time is not ours."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, root), daemon=True
    )
    child.start()
    try:
        yield ours.recv()
    finally:
        child.kill()
        child.join()


def _serve(pipe: Any, root: Path) -> None:
    from nanolan.sim.hub.server import HubServer
    from nanolan.sim.shadeform.server import ShadeformServer

    hub, cloud = HubServer(root / "hub").start(), ShadeformServer(root / "cloud", boxes=False)
    hub.put("me/bench", {"x": b"x"})
    with cloud:
        pipe.send((hub.url, cloud.url))
        time.sleep(600)
