"""Runs of another laptop: found by tag and run folder, treated as untrusted, and changed only with --owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from nanolan.errors import BadAnswer, NotFound, Unreachable, UsageProblem
from nanolan.hub.client import Hub
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.run.find import (
    MOST_BYTES,
    RunSearch,
    candidates,
    check_owner,
    checked_plan,
    find,
    rebuild,
)
from nanolan.run.ledger import Attempt, Entry, Ledger
from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings
from nanolan.shadeform.models import Instance, instance_of
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan

RUN, THEIRS, API = "ab12cd34", "0badcafe", "http://127.0.0.1:1/v1"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"#"})
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def machine(run_id: str | None = RUN, owner: str | None = THEIRS, **fields: Any) -> Instance:
    tags = [
        *([f"nanolan-run={run_id}"] if run_id else []),
        *([f"nanolan-owner={owner}"] if owner else []),
    ]
    return instance_of(
        dict(
            **(
                {"id": "i-1", "name": "x", "status": "active", "hourly_price": 100, "tags": tags}
                | fields
            )
        )
    )


def plan_of(hub: HubServer, **fields: Any) -> Plan:
    return make_plan(hub.url, API, **({"run_id": RUN, "run_name": "lanbot-v3"} | fields))


def launched(hub: HubServer, **fields: Any) -> Plan:
    """A run that another laptop has launched."""
    plan = plan_of(hub, **fields)
    hub.put(plan.runs_repo, {f"{plan.folder}/plan.json": plan.to_json()})
    return plan


def settings(hub: HubServer, **flags: str) -> Settings:
    return load_settings(
        {"hf_endpoint": hub.url, "shadeform_api": API, "hf_repo": REPO} | flags, {}
    )


def there(hub: HubServer, *instances: Instance, token: bool = True, **flags: str) -> RunSearch:
    return RunSearch(
        settings(hub, **flags),
        Hub(hub.url, Secret(TOKEN), patience_s=0.2) if token else None,
        lambda: list(instances),
    )


# ---- finding


@pytest.mark.parametrize("which", [RUN, "ab12", "i-1", "lanbot-v3"])
def test_a_run_of_another_laptop_is_found_by_any_of_its_names(
    hub: HubServer, ledger: Ledger, which: str
) -> None:
    plan = launched(hub)
    assert find(ledger, which, there(hub, machine())) == Entry(plan, "i-1", rebuilt=True)


def test_a_run_without_an_instance_is_found_by_its_folder(hub: HubServer, ledger: Ledger) -> None:
    plan = launched(hub)
    assert find(ledger, "ab1", there(hub)) == Entry(plan, None, rebuilt=True)


def test_the_run_folder_may_be_in_runs_repo(hub: HubServer, ledger: Ledger) -> None:
    plan = launched(hub, runs_repo="me/runs")
    assert find(ledger, RUN, there(hub, runs_repo="me/runs")).plan == plan


def test_a_run_in_the_ledger_is_not_searched_elsewhere(hub: HubServer, ledger: Ledger) -> None:
    mine = Entry(plan_of(hub))
    ledger.put(mine)

    def never() -> list[Instance]:
        raise AssertionError("asked the account")

    where = RunSearch(settings(hub), None, never)
    assert (
        find(ledger, RUN, where)
        == find(ledger, "lanbot-v3", where)
        == find(ledger, None, where)
        == mine
    )


def test_a_rebuilt_run_has_the_cost_of_earlier_attempts(hub: HubServer, ledger: Ledger) -> None:
    plan, earlier = launched(hub, attempt=2), (Attempt(1, "i-0", 1234, "lost"),)
    hub.put(REPO, {f"{plan.folder}/earlier.json": msgspec.json.encode(earlier)})
    assert find(ledger, RUN, there(hub)).earlier == earlier
    for bad in (
        b"",
        b"{}",
        b"[" * 100_000,
        json.dumps([["x"]]).encode(),
        msgspec.json.encode((Attempt(1, None, -5000, "a gift"),)),
    ):  # it would raise the limit
        hub.put(REPO, {f"{plan.folder}/earlier.json": bad})
        with pytest.raises(BadAnswer, match=r"earlier\.json"):
            find(ledger, RUN, there(hub))


@pytest.mark.parametrize(
    "which, folders, found",
    [
        (RUN, {RUN, "ab12ce99"}, {RUN}),
        ("ab12", {RUN, "ab12ce99"}, {RUN, "ab12ce99"}),
        ("ab12c", set(), {RUN}),
        ("i-1", set(), {RUN}),
        ("i-2", set(), set()),
        ("", set(), {RUN}),
        ("zz", {RUN}, set()),
        ("AB12CD34", {RUN}, set()),
        ("*", {RUN}, set()),
        ("../ab12cd34", {RUN}, set()),
        ("$(id)", {RUN}, set()),
        ("x", set(), set()),
    ],
)
def test_a_text_matches_ids_and_their_prefixes(
    which: str, folders: set[str], found: set[str]
) -> None:
    others = [
        machine(None, None, id="i-3"),
        machine("../../../x", None, id="i-4"),
        machine("zzzzzzzz", None, id="i-5"),
    ]
    assert candidates(which, [machine(), *others], folders) == found


def test_a_prefix_that_fits_two_runs_names_both(hub: HubServer, ledger: Ledger) -> None:
    launched(hub), launched(hub, run_id="ab12ce99")
    with pytest.raises(UsageProblem, match="fits several runs: ab12cd34, ab12ce99; give the id"):
        find(ledger, "ab12", there(hub, machine()))


@pytest.mark.parametrize(
    "which", ["zz", "../../etc/passwd", "a\x00b", "$(touch evil)", "x" * 300, "-rf"]
)
def test_an_unknown_run_id_is_a_plain_error(hub: HubServer, ledger: Ledger, which: str) -> None:
    launched(hub)
    for where in (there(hub, machine()), there(hub, machine(), token=False)):
        with pytest.raises(UsageProblem, match="just status") as e:
            find(ledger, which, where)
        assert len(str(e.value)) < 300


def test_a_failed_search_is_an_error_and_not_an_unknown_run(hub: HubServer, ledger: Ledger) -> None:
    launched(hub)
    hub.fault(rf"GET /api/models/{REPO}", status=503, times=50)
    with pytest.raises(Unreachable):
        find(ledger, RUN, there(hub))


def test_a_run_without_a_plan_cannot_be_rebuilt(hub: HubServer) -> None:
    with pytest.raises(NotFound, match=f"run {RUN} has no plan.json in {REPO}"):
        rebuild(there(hub), RUN, [machine()])


# ---- whose it is


def test_a_run_of_another_owner_is_shown_and_not_changed(hub: HubServer, ledger: Ledger) -> None:
    launched(hub)
    entry = find(ledger, RUN, there(hub, machine()))
    assert not ledger.has(RUN)
    with pytest.raises(UsageProblem, match=f"to owner {THEIRS}.*--owner {THEIRS}"):
        check_owner(ledger, entry)


def test_with_owner_a_run_is_recorded_in_the_ledger(hub: HubServer, ledger: Ledger) -> None:
    launched(hub)
    entry = find(ledger, RUN, there(hub, machine()), THEIRS)
    check_owner(ledger, entry)
    assert ledger.find(RUN) == entry and entry.rebuilt


def test_an_own_run_that_the_ledger_lost_is_recorded_again(hub: HubServer, ledger: Ledger) -> None:
    launched(hub, owner=ledger.owner)
    find(ledger, RUN, there(hub, machine(owner=ledger.owner)))
    assert ledger.has(RUN)


def test_a_colleagues_instance_keeps_no_own_run_from_being_recorded_again(
    hub: HubServer, ledger: Ledger
) -> None:
    launched(hub, owner=ledger.owner)
    find(ledger, RUN, there(hub, machine(owner=ledger.owner), machine("ab99ab99", THEIRS)))
    assert ledger.find(RUN).rebuilt


def test_a_run_whose_plan_and_tag_disagree_on_the_owner_is_not_recorded(
    hub: HubServer, ledger: Ledger
) -> None:
    launched(hub, owner=ledger.owner)
    find(ledger, RUN, there(hub, machine(owner=THEIRS)))
    assert not ledger.has(RUN)
    find(ledger, RUN, there(hub, machine(owner=THEIRS)), "12345678")
    assert not ledger.has(RUN)


# ---- a plan that lies on the Hub


def raw(hub: HubServer, **fields: Any) -> bytes:
    return json.dumps(json.loads(plan_of(hub).to_json()) | fields).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": "ffffffff"},
        {"version": 2},
        {"version": None},
        {"version": "1"},
        {"surprise": 1},
        {"limit_cents": "15000"},
        {"limit_cents": 0},
        {"limit_cents": -1},
        {"limit_cents": 10**9},
        {"limit_cents": 10**30},
        {"phases": []},
        {"phases": ["sft", "mid"]},
        {"phases": ["../x"]},
        {"phases": "sft"},
        {"owner": "me"},
        {"owner": "0badcafe\n"},
        {"owner": ""},
        {"hf_endpoint": "https://evil.example.org"},
        {"shadeform_api": "https://evil.example.org/v1"},
        {"runs_repo": "me/other"},
        {"hf_repo": "../../x"},
        {"hf_repo": "a/b/c"},
        {"run_name": "$(id)"},
        {"run_name": "a\nb"},
        {"run_name": "-rf"},
        {"model_tag": "../.."},
        {"output_tag": "a/b"},
        {"created_at": "yesterday"},
        {"deadline": None},
        {"deadline": "9999-12-31T23:59:59-12:00"},
        {"attempt": 0},
        {"processes": 0},
        {"wandb_project": "`id`"},
    ],
    ids=str,
)
def test_a_plan_that_no_launch_could_have_made_is_refused(
    hub: HubServer, fields: dict[str, Any]
) -> None:
    with pytest.raises(BadAnswer):
        checked_plan(raw(hub, **fields), RUN, REPO, settings(hub))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 1, "x": ' + b"[" * 100_000,
    ],
    ids=lambda d: str(d[:20]),
)
def test_a_file_that_is_not_a_plan_is_refused(hub: HubServer, data: bytes) -> None:
    with pytest.raises(BadAnswer):
        checked_plan(data, RUN, REPO, settings(hub))


def test_an_oversized_plan_is_refused(hub: HubServer) -> None:
    good = plan_of(hub).to_json()
    assert checked_plan(good + b" " * (MOST_BYTES - len(good)), RUN, REPO, settings(hub))
    with pytest.raises(BadAnswer, match="it is not a plan"):
        checked_plan(good + b" " * MOST_BYTES, RUN, REPO, settings(hub))


def test_a_rehearsals_plan_is_refused_by_a_real_account(hub: HubServer) -> None:
    real = settings(hub, shadeform_api="https://api.shadeform.ai/v1")
    plan = plan_of(hub, shadeform_api=real.shadeform_api, device="cpu")
    with pytest.raises(BadAnswer, match="device"):
        checked_plan(plan.to_json(), RUN, REPO, real)
    assert checked_plan(structs.replace(plan, device="cuda").to_json(), RUN, REPO, real)


@pytest.mark.parametrize(
    "phases", [("mid", "sft", "rl"), ("sft", "rl"), ("rl",), ("mid",), ("mid", "sft")]
)
def test_plans_of_launches_and_resumes_are_accepted(
    hub: HubServer, phases: tuple[str, ...]
) -> None:
    plan = plan_of(hub, phases=phases)
    assert checked_plan(plan.to_json(), RUN, REPO, settings(hub)) == plan


def test_one_bad_plan_does_not_hide_the_others(hub: HubServer, ledger: Ledger) -> None:
    launched(hub)
    hub.put(REPO, {"runs/ffffffff/plan.json": b"{}"})
    where = there(hub, machine("ffffffff", id="i-9"), machine())
    assert find(ledger, "lanbot-v3", where).plan.run_id == RUN
    with pytest.raises(BadAnswer, match=r"plan\.json"):
        find(ledger, "ffff", where)
