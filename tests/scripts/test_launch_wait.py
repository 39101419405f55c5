"""`just launch --wait` as a user types it: real processes, which wait for a local Shadeform to have stock."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanolan.run.ledger import STOPPED_BY_USER, WAITED
from nanolan.settings.settings import ROOT
from nanolan.sim.world import World
from tests.support.core_fixtures import TYPES, creates, git, script, started, until, without
from tests.support.launch_script_fixtures import (
    TRIO,
    Terminal,
    boxes_that_train,
    commits,
    entries,
    launch,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures
from tests.test_notify import Service, service  # noqa: F401  # a fixture


@contextmanager
def waiting(world: World, *words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A launch that waits for an offer, and has looked once; nothing is in stock."""
    world.cloud.switch("no_stock")
    with started("launch", "--yes", "--no-wait", "wait=10m", *words, env=world.env() | env) as it:
        until(lambda: entries(world) and entries(world)[0].waiting, 60)
        yield it


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def shown(world: World, name: str, *words: str) -> str:
    return script(name, *words, env=world.env()).stdout


# ---- it rents
def test_it_waits_says_so_rents_and_goes_on_like_any_launch(
    world: World,
    service: Service,  # noqa: F811
) -> None:
    with boxes_that_train(world), waiting(world, NOTIFY_URL=service.url()) as process:
        until(lambda: sum("types" in r.path for r in world.cloud.requests) > 3)
        world.cloud.switch("no_stock", False)
        code, said = ended(process)
    (entry,), (box,) = entries(world), world.cloud.instances
    assert (code, creates(world.cloud), entry.instance_id) == (0, 1, box.id)
    looks = [line for line in said.splitlines() if "  no stock: 4 listed, all sold out; 8x" in line]
    assert len(looks) >= 2, "each look is a line in a log"
    assert "3 offers fit, first 8x B200 at hyperstack/canada-1 for $33.60/h" in said
    assert [g["title"] for g in service.got] == ["lanbot-v3 sft: rented"]


@pytest.mark.slow  # a whole command
def test_the_result_as_json_is_that_of_any_launch(world: World) -> None:
    told = json.loads(launch(world, "--yes", "--json", "wait=1m").stdout)
    assert told["instance_id"] == world.cloud.instances[0].id and told["attempt"] == 1


@pytest.mark.slow  # a clone of the checkout
def test_a_checkout_that_changes_meanwhile_does_not_change_the_launch(
    world: World, tmp_path: Path
) -> None:
    """As after a `git pull`: neither its own modules nor the boot script are read again."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(ROOT), str(clone))
    world.cloud.switch("no_stock")
    with started("launch", "--yes", "--no-wait", "wait=5m", env=world.env(), root=clone) as process:
        until(lambda: entries(world) and entries(world)[0].waiting)
        for path in (p for f in ("nanolan", "scripts", "cloud") for p in (clone / f).rglob("*.*")):
            path.write_text("raise SystemExit('of another version')\n")
        world.cloud.switch("no_stock", False)
        code, said = ended(process)
    assert code == 0 and len(world.cloud.instances) == 1, said
    script = base64.b64decode(world.cloud.instances[0].script or "")
    assert len(script) > 5000 and b"another version" not in script


# ---- what is seen of it meanwhile
@pytest.mark.slow  # a whole command
def test_status_and_runs_show_what_it_waits_for(world: World) -> None:
    with waiting(world, "max-price=34"):
        run_id = entries(world)[0].plan.run_id
        block, table = shown(world, "check_status"), shown(world, "runs")
        (view,) = json.loads(shown(world, "check_status", "--json"))["runs"]
        (row,) = json.loads(shown(world, "runs", "--json"))["runs"]
        why = shown(world, "why")
    assert "PENDING" in block and "nothing is rented; at most $150.00 once it is" in block
    assert (
        "waiting for an offer until" in " ".join(block.split()) and f"just stop {run_id}" in block
    )
    assert "33.60/h" not in block.split("money")[1] and "waiting" in table
    assert (view["state"], view["ended"], view["usd_per_hour"]) == ("pending", False, None)
    assert view["waiting"]["seen"].startswith("no stock: 4 listed") and row["verdict"] is None
    assert row["waiting"].keys() == view["waiting"].keys() and "nothing is wrong" in why


@pytest.mark.slow  # a whole command
def test_a_resume_of_a_run_that_waits_is_refused(world: World) -> None:
    with waiting(world):
        done = script("resume", "--yes", env=world.env())
    assert done.returncode == 4 and "there is nothing to continue" in done.stderr


# ---- how it is ended
@pytest.mark.parametrize("sig, code", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_ctrl_c_or_sigterm_ends_it_with_one_line(world: World, sig: int, code: int) -> None:
    with waiting(world) as process:
        process.send_signal(sig)
        done = ended(process)
    last = done[1].strip().splitlines()[-1]
    assert done[0] == code and last.startswith("stopped by ") and last.endswith("nothing is rented")
    assert creates(world.cloud) == 0 and entries(world)[0].gone


def test_just_stop_ends_it(world: World) -> None:
    with waiting(world) as process:
        run_id = entries(world)[0].plan.run_id
        stop = script("stop", run_id, "--yes", env=world.env())
        world.cloud.switch("no_stock", False)
        code, said = ended(process)
    assert (stop.returncode, code, creates(world.cloud)) == (0, 5, 0)
    assert "has rented nothing; it no longer waits for an offer" in stop.stdout
    assert "stopped by just stop" in said and entries(world)[0].note == STOPPED_BY_USER
    assert "STOPPED" in shown(world, "check_status") and "stopped" in shown(world, "runs")


@pytest.mark.slow  # a whole command
def test_just_stop_ends_it_although_shadeform_is_down(world: World) -> None:
    with waiting(world) as process:
        world.cloud.fault("GET", "reset", times=None)
        stop = script("stop", "--yes", env=world.env())
        assert ended(process)[0] == 5 and stop.returncode == 0


def test_a_kill_leaves_nothing_billed_and_status_says_that_it_ended(world: World) -> None:
    with waiting(world) as process:
        process.kill()
        ended(process)
    world.cloud.switch("no_stock", False)
    status = script("check_status", env=world.env())
    assert creates(world.cloud) == 0 and status.returncode == 0
    assert "FAILED" in status.stdout and WAITED in status.stdout
    assert "nothing is rented\n" in status.stdout and "not rented" in shown(world, "runs")
    assert script("wait", env=world.env()).returncode == 5
    assert "wait=12h" in shown(world, "why") and "$0.00" in shown(world, "costs")


def test_at_its_time_it_ends_with_exit_code_3(
    world: World,
    service: Service,  # noqa: F811
) -> None:
    world.cloud.switch("no_stock")
    done = launch(world, "--yes", "wait=3s", NOTIFY_URL=service.url())
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 3 and last.startswith("error: no offer until ")
    assert last.endswith("nothing is rented. Wait again: just launch wait=3s")
    assert creates(world.cloud) == 0 and "not rented" in shown(world, "runs")
    assert [g["title"] for g in service.got] == ["lanbot-v3 sft: gave up"]


@pytest.mark.slow  # a whole command
def test_a_process_that_was_suspended_looks_at_once_when_it_goes_on(world: World) -> None:
    with waiting(world) as process:
        world.cloud.fault(TYPES, "rate_limit", retry_after="6")
        until(lambda: "429" in entries(world)[0].waiting.seen)  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGSTOP)
        world.cloud.switch("no_stock", False)
        time.sleep(6.5)
        os.kill(process.pid, signal.SIGCONT)
        goes_on = time.monotonic()
        until(lambda: creates(world.cloud))
        assert time.monotonic() - goes_on < 20
        assert ended(process)[0] == 0


# ---- consent, once
def test_the_rule_is_agreed_to_before_the_wait_and_nothing_is_asked_after_it(world: World) -> None:
    world.cloud.switch("no_stock")
    t = Terminal(world.env(), "wait=5m", "--no-wait", "max-price=34", "max-total=30")
    t.expect("Wait, and rent the first offer that fits? [y/N]")
    for part in (
        "for 8x B200 for at most $34.00/h, the run for about $30.00 at most",
        "at most $150.00, the spend limit",
        "Now: no stock",
    ):
        assert part in " ".join(t.text.split()), t.text
    t.type("y\n")
    t.expect("next look in")
    world.cloud.switch("no_stock", False)
    t.expect("1 offer fits: 8x B200")
    assert t.close() == 0 and creates(world.cloud) == 1
    assert t.text.count("[y/N]") == 1 and max(map(len, t.text.splitlines())) < 300


@pytest.mark.slow  # a whole command
def test_a_no_rents_and_waits_for_nothing(world: World) -> None:
    t = Terminal(world.env(), "wait=5m")
    t.expect("[y/N]")
    t.type("n\n")
    assert t.close() == 1 and "nothing was rented" in t.text and entries(world) == []


def test_without_a_terminal_and_without_consent_it_is_an_error_and_no_wait(world: World) -> None:
    done = launch(world, "wait=5m")
    assert done.returncode == 2 and "pass --yes" in done.stderr and entries(world) == []


@pytest.mark.slow  # a whole command
def test_the_full_cloud_region_and_type_is_consent_here_too(world: World) -> None:
    assert launch(world, *TRIO, "wait=1m").returncode == 0
    assert world.cloud.instances[0].spec["cloud"] == "datacrunch"


# ---- refused at once
BAD = [
    (["wait=soon"], 2, "wait: 'soon' is not a duration"),
    (["wait=1h", "gpu=H10O"], 2, "Did you mean gpu=H100?"),
    (["wait=1h", "spend-limit=1"], 4, "[FAILED] spend limit: "),
    (["wait="], 2, "wait: '' is not a duration"),
    (["wait=0s"], 2, "wait: '0s'"),
    (["wait=31d"], 2, "at most 30d"),
    (["wait=-1h"], 2, "wait: '-1h'"),
    (["wait=1h", "gpu=H10", "--all-configs"], 2, "fits several types: H100, H100_nvl"),
    (["wait=1h", "gpu=any"], 2, "fits several types"),
    (["wait=1h", "cloud=nowhere"], 2, "no cloud 'nowhere' is listed; there are "),
    (["wait=1h", "max-total=0"], 2, "max-total: "),
    (["wait=1h", "gpu=A4000:1", "max-total=30"], 2, "max-total cannot be kept: there are no"),
    (["wait=1h", "model-tag=d99"], 4, "has no mid_checkpoints/d99"),
    (["wait=1h", "max-duration=1m"], 4, "max duration: "),
]


@pytest.mark.parametrize(
    "words, code, said",
    [
        pytest.param(*row, marks=[pytest.mark.slow] * (n > 2), id=" ".join(row[0]))
        for n, row in enumerate(BAD)
    ],
)
def test_bad_input_is_refused_before_the_wait(
    world: World, words: list[str], code: int, said: str
) -> None:
    seen = len(world.hub.log)
    world.cloud.switch("no_stock")
    done = launch(world, "--yes", *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr and entries(world) == [] and not commits(world, seen)


# ---- a dry run
def test_a_dry_run_shows_the_rule_and_the_request_and_waits_for_nothing(world: World) -> None:
    world.cloud.switch("no_stock")
    done = launch(world, "--dry-run", "wait=12h", "max-price=30")
    assert done.returncode == 0 and "for at most $30.00/h" in done.stderr
    assert "To rent it: just launch max-price=30 wait=12h" in done.stderr
    assert json.loads(done.stdout)["auto_delete"]["spend_threshold"] == "150.00"
    assert entries(world) == []


@pytest.mark.slow  # a whole command
def test_a_dry_run_without_a_key_takes_samples(world: World, tmp_path: Any) -> None:
    env = without(world.env(), "SHADEFORM_API_KEY") | {"HOME": str(tmp_path)}
    done = script("launch", "--dry-run", "wait=12h", env=env)
    assert done.returncode == 0 and "SAMPLE offers" in done.stderr


def test_max_total_refuses_dearer_offers_without_a_wait_too(world: World) -> None:
    done = launch(world, "--yes", "max-total=1")
    assert done.returncode == 3 and "above max-total ($1.00)" in done.stderr
    assert "The cheapest of them" in done.stderr and creates(world.cloud) == 0
