"""A box without a Shadeform key: it trains, saves, proves and reports like any other, then waits to be deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.box.watch.spend import SpendMeter
from nanolan.errors import ApiProblem
from nanolan.shadeform.keyless import KeylessClient
from nanolan.shadeform.lifecycle import find_run
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import KEY, Box, make_plan, no_box_left, until
from tests.support.core_fixtures import PLAN, a_plan
from tests.test_notify import Service, service  # noqa: F401  # a fixture

module = pytest.fixture(autouse=True, scope="module")(no_box_left)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path, self_delete=False) as made:
        made.cloud.requests.clear()  # the test's own, that rented it
        yield made


def test_a_keyless_box_meters_by_the_price_in_its_plan_and_its_age() -> None:
    plan = a_plan(attempt=2)
    me = find_run(KeylessClient(plan), plan.run_id, 1, attempt=2)
    assert me and me.name == plan.instance_name and me.billing and me.owner == plan.owner
    assert (
        me.created_at == parse_time(plan.created_at)
        and me.hourly_cents == 3360
        and me.cost_cents is None
    )
    meter = SpendMeter(
        plan, me, KeylessClient(plan), lambda: 0.0, now=lambda: parse_time("2026-11-23T13:00:00Z")
    )
    meter.look()
    assert meter.spent_cents == 3360 and meter.provider_cents is None


@pytest.mark.parametrize("act", ["delete", "restart", "private_key", "offers"])
def test_every_change_is_refused_without_a_request(act: str) -> None:
    words = () if act == "offers" else ("i-1",)
    with pytest.raises(ApiProblem, match="no Shadeform key is on this machine"):
        getattr(KeylessClient(PLAN), act)(*words)


def test_a_keyless_box_trains_uploads_proves_and_waits_without_a_request_to_shadeform(
    box: Box,
    service: Service,
) -> None:
    box.unpack()
    secrets = box.state / "secrets.json"
    secrets.write_text(json.dumps(json.loads(secrets.read_text()) | {"NOTIFY_URL": service.url()}))
    process = box.start()
    box.wait_for("it waits for just guard")
    assert (
        box.plan.deadline in box.log()
        and box.receipt()["verdict"] == "succeeded"
        and box.holds("chatsft_checkpoints/d20", 5)
    )
    time.sleep(0.5)
    assert process.wait(0) is None and not box.cloud.requests
    last = service.got[-1]["message"]
    assert (
        f"BILLS until {box.plan.deadline} unless just guard runs; delete it now: just stop {box.plan.run_id}"
        in last
    )
    assert (
        "this is instance lanbot-sft-" in box.log()
        and KEY not in box.log()
        and "deleting" not in box.log()
    )


@pytest.mark.slow  # 20 seconds of waiting
def test_at_its_deadline_it_powers_off_and_ends(tmp_path: Path) -> None:
    with Box(tmp_path, self_delete=False, life_s=20) as box:
        assert box.start().wait(60) == 0
        assert box.log().count("powering off") == 1 and now_utc() >= parse_time(box.plan.deadline)
        # the run may have ended before
        assert box.receipt()["reason"] in ("", "max_duration") and not box.deleted


def test_a_keyless_rescue_program_leaves_log_and_receipt_without_a_request(box: Box) -> None:
    box.unpack()
    assert (
        box.program(
            "/usr/bin/env", "python3", str(box.state / "rescue.py"), "fail", "no disk"
        ).wait(30)
        == 0
    )
    told = box.receipt()
    assert (
        told["reason"] == "boot_failed"
        and abs((now_utc() - parse_time(told["ended"])).total_seconds()) < 30
    )
    assert "waits for just guard" in box.log() and not box.cloud.requests


def test_the_dead_mans_timer_only_powers_off(box: Box) -> None:
    box.unpack()
    at = str(time.time() + 0.3)
    assert (
        box.program("/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", at).wait(20)
        == 0
    )
    assert box.log().count("powering off") == 1 and {r.path for r in box.cloud.requests} == {
        "/v1/instances/types"
    }


def test_a_plan_states_whether_its_box_deletes_itself_and_older_plans_imply_it() -> None:
    from nanolan.plan import read_plan

    old = json.loads(make_plan("", "", created_at=iso(now_utc())).to_json())
    assert old.pop("self_delete") is True and read_plan(json.dumps(old)).self_delete
    assert not read_plan(a_plan(self_delete=False).to_json()).self_delete


def test_a_box_whose_key_is_missing_by_mistake_ends_with_the_rescue_program(box: Box) -> None:
    box.unpack()
    plan = json.loads((box.state / "plan.json").read_bytes()) | {"self_delete": True}
    (box.state / "plan.json").write_text(json.dumps(plan))
    assert box.start().wait(60) == 0
    until(lambda: "waits for just guard" in box.log())
    assert box.receipt()["verdict"] == "failed" and not box.cloud.requests
