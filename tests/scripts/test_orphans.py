"""`just orphans`: ours are named with a price and a command, others are shown and never touched, adopted when asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.launch.request import create_body
from nanolan.plan import Plan, new_run_id
from nanolan.run.ledger import Entry, Ledger
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import LIST, QUICK, a_plan, client, script

THEIRS = "0badcafe"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path / "cloud", delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"#"})
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def orphans(
    cloud: ShadeformServer, ledger: Ledger, *words: str, hub: HubServer | None = None
) -> Any:
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(ledger.home),
        "NANOLAN_HOME": str(ledger.home),
        "NANOLAN_ENV_FILE": "/dev/null",
        "SHADEFORM_API": cloud.url,
        "SHADEFORM_API_KEY": cloud.key,
    }
    return script(
        "orphans",
        *words,
        env=env | ({"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO} if hub else {}),
    )


def rented(
    cloud: ShadeformServer,
    ledger: Ledger,
    hub: HubServer | None = None,
    *,
    known: bool = True,
    **changes: Any,
) -> Plan:
    """A run with a machine; with a Hub, its plan is there."""
    there = {"hf_endpoint": hub.url, "hf_repo": REPO, "runs_repo": REPO} if hub else {}
    plan = a_plan(
        **(
            {
                "run_id": new_run_id(),
                "created_at": iso(now_utc()),
                "deadline": "2099-01-01T00:00:00Z",
                "owner": ledger.owner,
                "shadeform_api": cloud.url,
            }
            | there
            | changes
        )
    )
    instance_id = client(cloud).create(create_body(plan, "x"))
    if known:
        ledger.put(Entry(plan, instance_id))
    if hub:
        hub.put(REPO, {f"{plan.folder}/plan.json": plan.to_json()})
    return plan


def deletes(cloud: ShadeformServer) -> int:
    return sum(r.method != "GET" and not r.path.endswith("/create") for r in cloud.requests)


def test_when_all_that_bills_is_looked_after_it_says_so_and_exits_0(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    rented(cloud, ledger)
    done = orphans(cloud, ledger)
    assert (
        done.returncode == 0
        and "no unattended instances are billing" in done.stdout
        and "1 instance of runs in the" in done.stdout
    )


def test_ours_that_bill_unaccounted_are_exit_code_8_with_id_price_and_command(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    stray, gone, fine = (
        rented(cloud, ledger, known=False),
        rented(cloud, ledger),
        rented(cloud, ledger),
    )
    ledger.put(structs.replace(ledger.find(gone.run_id), gone=True))
    done = orphans(cloud, ledger)
    first, second, _ = cloud.instances
    assert done.returncode == 8 and fine.instance_name not in done.stdout
    for line in (
        f"{first.id} ($33.60/h) bills: just stop {first.id} --now",
        f"{second.id} ($33.60/h) bills: just stop {gone.run_id} --now",
    ):
        assert line in done.stderr
    assert (
        stray.instance_name in done.stdout
        and "made by this laptop, but not in the ledger" in done.stdout
        and "was believed gone" in done.stdout
    )
    assert deletes(cloud) == 0


def test_others_are_shown_and_never_touched(cloud: ShadeformServer, ledger: Ledger) -> None:
    cloud.add_foreign("someone-elses", 250)
    rented(cloud, ledger, known=False, owner=THEIRS)
    done = orphans(cloud, ledger)
    assert (
        done.returncode == 0
        and "someone-elses" in done.stdout
        and "another tool's or person's" in done.stdout
    )
    assert f"if that is you: just orphans --owner {THEIRS}" in done.stdout and deletes(cloud) == 0
    shown = json.loads(orphans(cloud, ledger, "--json").stdout)
    assert [(o["ours"], o["owner"]) for o in shown["orphans"]] == [(False, THEIRS), (False, None)]


def test_the_runs_of_an_owner_are_adopted_from_their_folders(
    cloud: ShadeformServer, hub: HubServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger, hub, known=False, owner=THEIRS)
    other = rented(cloud, ledger, hub, known=False, owner="11111111")
    done = orphans(cloud, ledger, "--owner", THEIRS, hub=hub)
    assert done.returncode == 0 and f"run {plan.run_id} is now in the ledger" in done.stderr
    entry = ledger.find(plan.run_id)
    assert (entry.plan, entry.instance_id, entry.rebuilt) == (
        plan,
        cloud.instances[0].id,
        True,
    ) and not ledger.has(other.run_id)
    assert plan.instance_name not in done.stdout, "it is attended now"


@pytest.mark.parametrize("data", [b"{}", b"[" * 100_000, None])
def test_a_run_whose_plan_is_nothing_is_not_adopted_and_the_others_are(
    cloud: ShadeformServer, hub: HubServer, ledger: Ledger, data: bytes | None
) -> None:
    bad = rented(cloud, ledger, None, known=False, owner=THEIRS)
    good = rented(cloud, ledger, hub, known=False, owner=THEIRS)
    if data is not None:
        hub.put(REPO, {f"{bad.folder}/plan.json": data})
    done = orphans(cloud, ledger, "--owner", THEIRS, hub=hub)
    assert (
        "not adopted: " in done.stderr
        and "Traceback" not in done.stderr
        and ledger.has(good.run_id)
        and not ledger.has(bad.run_id)
    )
    assert bad.instance_name in done.stdout


@pytest.mark.parametrize("owner", ["11111111", "me", "$(id)", "../x", ""])
def test_an_owner_that_nothing_bills_for_is_a_usage_error(
    cloud: ShadeformServer, hub: HubServer, ledger: Ledger, owner: str
) -> None:
    rented(cloud, ledger, hub, known=False, owner=THEIRS)
    done = orphans(cloud, ledger, f"--owner={owner}", hub=hub)
    assert done.returncode == (2 if owner else 0) and ledger.entries() == []


@pytest.mark.parametrize("action", ["html", "unauthorized", "reset"])
def test_an_account_that_cannot_be_read_is_no_good_news(
    cloud: ShadeformServer, ledger: Ledger, action: str
) -> None:
    cloud.fault(LIST, action, times=None)
    done = orphans(cloud, ledger)
    assert done.returncode not in (0, 8) and "no unattended" not in done.stdout
