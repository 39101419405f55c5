"""The life of an instance: created once, found again, read back, and deleted until the deletion is confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    InsufficientFunds,
    MachineFailed,
    MayBeBilling,
    OutOfStock,
    RunFailed,
)
from nanolan.launch.request import create_body, provider_limits
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import (
    FIND_TRIES,
    READ_BACK_S,
    check_rented,
    create_once,
    delete_and_confirm,
    delete_leftovers,
    find_run,
)
from nanolan.shadeform.models import Instance
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, INFO, LIST, QUICK, Waits, a_plan, client, creates

DELETE, UPDATE = "POST /v1/instances/.*/delete", "POST /v1/instances/.*/update"
FOR_EVER = "2099-01-01T00:00:00Z"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def api(cloud: ShadeformServer) -> Shadeform:
    return client(cloud)


@pytest.fixture
def plan() -> Plan:
    return a_plan(created_at=iso(now_utc()), deadline=FOR_EVER)


def rented(api: Shadeform, plan: Plan) -> tuple[str, bool]:
    return create_once(api, create_body(plan, "#!/bin/bash\n"), plan, say=lambda _: None)


class Clock(Waits):
    """Time passes only by sleeping."""

    now = 0.0

    def __call__(self, seconds: float) -> None:
        super().__call__(seconds)
        self.now += seconds

    def read(self) -> float:
        return self.now


def read_back(
    cloud: ShadeformServer, instance_id: str, plan: Plan, clock: Clock | None = None
) -> tuple[Instance, list[str]]:
    clock, said = Clock() if clock is None else clock, list[str]()
    return check_rented(
        client(cloud, sleep=clock),
        instance_id,
        plan,
        provider_limits(plan),
        say=said.append,
        clock=clock.read,
    ), said


def gone(cloud: ShadeformServer) -> bool:
    return all(i.status in ("deleting", "deleted") for i in cloud.instances)


# ---- create


def test_a_create_is_one_request_and_its_id(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    assert rented(api, plan) == (cloud.instances[0].id, False)
    assert len(cloud.requests) == 1


@pytest.mark.parametrize(
    "action, params",
    [
        ("status", {"status": 500}),
        ("status", {"status": 504}),
        ("reset", {}),
        ("cut", {}),
        ("truncated", {}),
        ("html", {}),
        ("status", {"status": 200, "body": {}}),
        ("internal_error", {}),
    ],
    ids=str,
)
def test_a_create_whose_answer_was_lost_is_found_and_never_sent_again(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, action: str, params: dict[str, Any]
) -> None:
    cloud.fault(
        CREATE, action if action in ("cut", "truncated") else f"{action}_after_effect", **params
    )
    assert rented(api, plan) == (cloud.instances[0].id, False)
    assert creates(cloud) == 1 and len(cloud.instances) == 1


def test_a_create_is_found_although_the_listing_lags_and_fails_at_first(
    cloud: ShadeformServer, plan: Plan
) -> None:
    cloud.switch("list_lag", 0.2)
    cloud.fault(CREATE, "reset_after_effect")
    cloud.fault(LIST, "status", times=5, status=503)
    assert rented(client(cloud, sleep=Waits(0.06)), plan)[0] == cloud.instances[0].id
    assert creates(cloud) == 1


def test_a_create_is_found_by_its_name_when_tags_are_not_stored(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    cloud.switch("tags_not_stored")
    cloud.fault(CREATE, "reset_after_effect")
    assert rented(api, plan)[0] == cloud.instances[0].id


def test_another_runs_instance_is_not_taken(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    other = a_plan(run_id="12345abc", created_at=plan.created_at, deadline=FOR_EVER)
    rented(api, other)
    cloud.add_foreign("lanbot-sft-ab12cd34-x", 100)
    cloud.fault(CREATE, "status", status=500)
    with pytest.raises(MayBeBilling):
        rented(api, plan)


def test_an_unclear_create_is_reported_with_name_price_and_commands_and_not_repeated(
    cloud: ShadeformServer, plan: Plan
) -> None:
    waits = Waits()
    cloud.fault(CREATE, "status", status=500)
    with pytest.raises(MayBeBilling) as e:
        rented(client(cloud, sleep=waits), plan)
    assert e.value.exit_code == 8
    for part in (
        "UNKNOWN",
        plan.instance_name,
        "hyperstack/canada-1",
        "$33.60/h",
        "$150.00",
        "just status",
        f"just stop {plan.run_id}",
        "https://platform.shadeform.ai/instances",
        "HTTP 500",
    ):
        assert part in str(e.value)
    assert (
        creates(cloud) == 1 and len(cloud.requests) == 1 + FIND_TRIES and sum(waits) >= 50
    )  # a listing may lag a minute


@pytest.mark.parametrize(
    "fault, params",
    [("status", {"status": 500}), ("unauthorized", {}), ("html", {}), ("reset", {})],
)
def test_when_the_listings_fail_too_the_create_stays_unknown(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, fault: str, params: dict[str, Any]
) -> None:
    cloud.fault(CREATE, "reset_after_effect")
    cloud.fault(LIST, fault, times=None, **params)
    with pytest.raises(MayBeBilling, match=f"UNKNOWN.*{plan.instance_name}"):
        rented(api, plan)
    assert creates(cloud) == 1


@pytest.mark.parametrize(
    "action, kind",
    [
        ("out_of_stock", OutOfStock),
        ("insufficient_funds", InsufficientFunds),
        ("unauthorized", AuthProblem),
        ("rate_limit", ApiProblem),
    ],
)
def test_a_rejection_is_raised_at_once(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, action: str, kind: type[Exception]
) -> None:
    cloud.fault(CREATE, action)
    with pytest.raises(kind):
        rented(api, plan)
    assert len(cloud.requests) == 1


class CtrlC(Shadeform):
    """A client whose user presses Ctrl-C: while the answer to a create is on its way, and `again` times during looks."""

    def __init__(self, cloud: ShadeformServer, arrived: bool, again: int = 0) -> None:
        super().__init__(Secret(cloud.key), cloud.url, sleep=Waits(0.02))
        self.arrived, self.again = arrived, again

    def create(self, body: dict[str, Any]) -> str:
        if self.arrived:
            super().create(body)
        raise KeyboardInterrupt

    def instances(self) -> list[Instance]:
        if self.again:
            raise KeyboardInterrupt
        return super().instances()


def test_ctrl_c_during_create_finds_the_instance_and_is_reported(
    cloud: ShadeformServer, plan: Plan
) -> None:
    assert rented(CtrlC(cloud, True), plan) == (cloud.instances[0].id, True)


@pytest.mark.parametrize("arrived, again", [(False, 0), (True, 1), (False, 1)])
def test_ctrl_c_during_create_without_a_listed_instance_is_unknown(
    cloud: ShadeformServer, plan: Plan, arrived: bool, again: int
) -> None:
    with pytest.raises(MayBeBilling, match=f"UNKNOWN.*{plan.instance_name}.*Ctrl-C"):
        rented(CtrlC(cloud, arrived, again), plan)


def test_of_two_instances_of_a_run_the_billing_one_is_found(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    first, second = rented(api, plan)[0], rented(api, plan)[0]
    api.delete(first)
    found = find_run(api, plan.run_id)
    assert found and found.id == second


def test_another_attempts_instance_is_not_found_even_while_it_bills(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    second = a_plan(created_at=plan.created_at, deadline=FOR_EVER, attempt=2)
    first_box = rented(api, plan)[0]
    assert find_run(api, plan.run_id, 2, attempt=2) is None
    second_box = rented(api, second)[0]
    for attempt, box in ((1, first_box), (2, second_box)):
        found = find_run(api, plan.run_id, attempt=attempt)
        assert found and found.id == box
    cloud.fault(CREATE, "reset_after_effect")
    cloud.switch("tags_not_stored")
    third_box = rented(api, a_plan(created_at=plan.created_at, deadline=FOR_EVER, attempt=3))[0]
    assert third_box == cloud.instances[2].id, "by its name, when tags are not stored"


def test_a_deleted_instance_is_found_only_when_no_live_one_appears(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    first = rented(api, plan)[0]
    cloud.instance(first).delays = replace(QUICK, deleting_s=60)
    api.delete(first)
    waits = Waits()
    found = find_run(client(cloud, sleep=waits), plan.run_id, 3)
    assert found and found.id == first and len(waits) == 2
    cloud.switch("list_lag", 0.05)
    second = rented(api, plan)[0]
    found = find_run(client(cloud, sleep=Waits(0.03)), plan.run_id)
    assert found and found.id == second


def test_delete_leftovers_deletes_only_billing_instances_of_this_run(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    ours, other = (
        rented(api, plan)[0],
        rented(api, a_plan(run_id="12345abc", created_at=plan.created_at, deadline=FOR_EVER))[0],
    )
    foreign, said = cloud.add_foreign("lanbot-sft-somebodys", 100), list[str]()
    delete_leftovers(api, plan.run_id, say=said.append)
    assert (
        cloud.instance(ours).status in ("deleting", "deleted")
        and len(said) == 1
        and ours in said[0]
    )
    assert (
        cloud.instance(other).status not in ("deleting", "deleted") and foreign.status == "active"
    )
    delete_leftovers(api, plan.run_id, say=said.append)
    assert len(said) == 1


def test_a_failed_listing_is_retried_and_never_means_no_instance(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    box = rented(api, plan)[0]
    for action in ("unauthorized", "html"):
        cloud.fault(LIST, action)
        found = find_run(api, plan.run_id, 2)
        assert found and found.id == box
    cloud.fault(LIST, "unauthorized", times=None)
    with pytest.raises(AuthProblem):
        find_run(api, plan.run_id, 2)


def test_an_empty_listing_means_none_only_after_every_try(cloud: ShadeformServer) -> None:
    waits = Waits()
    assert find_run(client(cloud, sleep=waits), "ab12cd34", 3) is None
    assert len(cloud.requests) == 3 and len(waits) == 2


# ---- read back


def test_an_instance_that_matches_the_plan_is_kept_and_its_limits_are_shown(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    now, said = read_back(cloud, rented(api, plan)[0], plan)
    assert now.limits and now.limits.spend_cents == plan.limit_cents
    assert said == [f"read back: $33.60/h, limit $150.00, deleted at {FOR_EVER} at the latest"]
    assert not gone(cloud)


def test_limits_that_show_late_are_waited_for(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    cloud.switch("auto_delete_late", 0.3)
    clock = Clock(0.05)
    read_back(cloud, rented(api, plan)[0], plan, clock)
    assert len(clock) > 1 and not any(
        "update" in r.path for r in cloud.requests
    )  # absent is not different


def test_a_missing_price_is_waited_for_and_then_reported(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    instance_id = rented(api, plan)[0]
    cloud.fault(
        "GET /v1/instances/.*/info", "edit", times=None, change=lambda b: b | {"hourly_price": None}
    )
    clock = Clock(0.05)
    now, said = read_back(cloud, instance_id, plan, clock)
    assert now.hourly_cents is None and len(clock) > 1 and not gone(cloud)
    assert said[0].startswith("read back: the provider shows no price (agreed: $33.60/h), limit ")


@pytest.mark.parametrize(
    "changes",
    [
        {"price_differs": 3361},
        {"price_differs": 9999},
        {"auto_delete_stored_as": {"spend_threshold": "1500"}},
        {
            "auto_delete_stored_as": {
                "spend_threshold": "150",
                "date_threshold": "2098-01-01T00:00:00Z",
            }
        },
    ],
    ids=str,
)
def test_trap_10_an_instance_that_contradicts_the_plan_is_deleted_at_once(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, changes: dict[str, Any]
) -> None:
    for name, value in changes.items():
        cloud.switch(name, value)
    clock = Clock()
    with pytest.raises(MachineFailed, match="not what was agreed.*It is deleted") as e:
        read_back(cloud, rented(api, plan)[0], plan, clock)
    assert e.value.instance_id == cloud.instances[0].id and e.value.spent_cents is not None
    assert e.value.exit_code == 5 and gone(cloud) and clock == []


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("configuration", {"num_gpus": 4, "gpu_type": "B200"}, "4 GPUs instead of 8"),
        ("region", "elsewhere-1", "elsewhere-1"),
        ("shade_cloud", False, "an account other than"),
    ],
)
def test_an_instance_with_other_gpus_region_or_payer_is_deleted(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, field: str, value: Any, said: str
) -> None:
    box = rented(api, plan)[0]
    cloud.fault(INFO, "edit", change=lambda body: body.update({field: value}))
    with pytest.raises(RunFailed, match=said):
        read_back(cloud, box, plan)
    assert gone(cloud)


def test_a_cheaper_instance_and_a_date_a_few_seconds_off_are_accepted(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    cloud.switch("price_differs", 3000)
    later = iso(datetime.fromisoformat(FOR_EVER.replace("Z", "+00:00")) + timedelta(seconds=59))
    cloud.switch("auto_delete_stored_as", {"spend_threshold": "150.0", "date_threshold": later})
    assert read_back(cloud, rented(api, plan)[0], plan)[0].billing


def test_limits_that_were_lost_are_sent_once_more(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    cloud.switch("auto_delete_not_stored", 1)
    clock = Clock()
    now, said = read_back(cloud, rented(api, plan)[0], plan, clock)
    assert (
        now.limits
        and now.limits.spend_cents == plan.limit_cents
        and any("sending them again" in line for line in said)
    )
    assert [r.body for r in cloud.requests if "update" in r.path] == [
        {"auto_delete": provider_limits(plan)}
    ] and clock.now >= READ_BACK_S


@pytest.mark.parametrize(
    "fault",
    [
        None,
        ("status", {"status": 500}),
        ("reset", {}),
        ("status", {"status": 400}),
        ("not_found", {}),
    ],
)
def test_limits_that_are_never_stored_cause_one_update_then_a_deletion(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, fault: Any
) -> None:
    cloud.switch("auto_delete_not_stored")
    if fault:
        cloud.fault(UPDATE, fault[0], times=None, **fault[1])
    clock = Clock()
    with pytest.raises(RunFailed, match="did not store the limits"):
        read_back(cloud, rented(api, plan)[0], plan, clock)
    assert (
        sum("update" in r.path for r in cloud.requests) == 1
        and gone(cloud)
        and 2 * READ_BACK_S <= clock.now < 4 * READ_BACK_S
    )


@pytest.mark.parametrize("lost", ["spend_threshold", "date_threshold"])
def test_one_limit_of_two_is_not_enough(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, lost: str
) -> None:
    cloud.switch(
        "auto_delete_stored_as", {k: v for k, v in provider_limits(plan).items() if k != lost}
    )
    read_back(cloud, rented(api, plan)[0], plan)
    assert sum("update" in r.path for r in cloud.requests) == 1


def test_a_read_back_continues_after_a_failed_read(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    box = rented(api, plan)[0]
    cloud.fault(INFO, "status", times=6, status=503)
    cloud.fault(INFO, "html")
    assert read_back(cloud, box, plan)[0].id == box


def test_an_instance_that_cannot_be_read_back_is_an_error(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    box = rented(api, plan)[0]
    cloud.fault(INFO, "status", times=None, status=503)
    with pytest.raises(ApiProblem):
        read_back(cloud, box, plan)


# ---- delete


def one(api: Shadeform, plan: Plan) -> Instance:
    return api.info(rented(api, plan)[0])


def deletes(cloud: ShadeformServer) -> int:
    return sum(r.path.endswith("/delete") for r in cloud.requests)


def test_a_delete_ends_when_the_instance_no_longer_bills(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    proof = delete_and_confirm(api, one(api, plan))
    assert proof.seen == "status deleting" and gone(cloud) and deletes(cloud) == 1


@pytest.mark.parametrize("times", [1, 3])
def test_an_accepted_delete_is_repeated_while_the_instance_stays(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, times: int
) -> None:
    cloud.switch("delete_ignored", times)
    delete_and_confirm(api, one(api, plan))
    assert deletes(cloud) == times + 1 and gone(cloud)


@pytest.mark.parametrize(
    "action, params",
    [
        ("status", {"status": 500}),
        ("reset", {}),
        ("html", {"status": 503}),
        ("unauthorized", {}),
        ("rate_limit", {}),
        ("status", {"status": 400}),
        ("reset_after_effect", {}),
    ],
    ids=str,
)
def test_a_delete_that_fails_is_tried_again(
    cloud: ShadeformServer, api: Shadeform, plan: Plan, action: str, params: dict[str, Any]
) -> None:
    cloud.fault(DELETE, action, times=2, **params)
    delete_and_confirm(api, one(api, plan))
    assert gone(cloud)


@pytest.mark.parametrize("path", [INFO, "GET /v1/instances"])
@pytest.mark.parametrize(
    "action, params",
    [
        ("status", {"status": 500}),
        ("html", {}),
        ("reset", {}),
        ("unauthorized", {}),
        ("truncated", {}),
        ("status", {"status": 200, "body": {}}),
    ],
    ids=str,
)
def test_a_failed_read_never_counts_as_a_deletion(
    cloud: ShadeformServer, plan: Plan, path: str, action: str, params: dict[str, Any]
) -> None:
    clock = Clock()
    api = client(cloud, sleep=clock)
    box = one(api, plan)
    cloud.switch("delete_ignored")
    cloud.fault(path, action, times=None, **params)
    with pytest.raises(
        MayBeBilling, match=f"{box.id}.*33.60/h.*may still bill.*just stop {box.id}"
    ):
        delete_and_confirm(api, box, give_up_s=30, clock=clock.read)
    assert not gone(cloud) and deletes(cloud) > 1


def test_a_404_counts_only_with_a_listing_without_the_instance(
    cloud: ShadeformServer, plan: Plan
) -> None:
    clock = Clock()
    api = client(cloud, sleep=clock)
    box = one(api, plan)
    cloud.switch("delete_ignored")
    cloud.fault(INFO, "not_found", times=None)
    with pytest.raises(MayBeBilling, match="still listed as"):
        delete_and_confirm(api, box, give_up_s=10, clock=clock.read)
    assert not gone(cloud)


def test_a_delete_of_a_deleted_instance_succeeds(cloud: ShadeformServer, plan: Plan) -> None:
    api = client(cloud, sleep=Waits(0.1))
    box = one(api, plan)
    with cloud.account.lock:
        cloud.account.instances.clear()
    assert delete_and_confirm(api, box).seen == "no longer listed"


def test_an_instance_in_error_is_deleted_like_any_other(
    cloud: ShadeformServer, api: Shadeform, plan: Plan
) -> None:
    cloud.switch("goes_to_error")
    box = one(api, plan)
    while api.info(box.id).status != "error":
        pass
    assert api.info(box.id).billing
    delete_and_confirm(api, box)
    assert gone(cloud)


def test_a_delete_that_never_works_names_instance_price_and_command(
    cloud: ShadeformServer, plan: Plan
) -> None:
    clock = Clock()
    api = client(cloud, sleep=clock)
    box = one(api, plan)
    cloud.switch("delete_ignored")
    with pytest.raises(
        MayBeBilling,
        match=rf"instance {box.id} \(\$33.60/h\) could not be deleted: it is still .*just stop {box.id}",
    ) as e:
        delete_and_confirm(api, box, clock=clock.read)
    assert e.value.exit_code == 8 and 15 * 60 <= clock.now < 16 * 60


def test_ctrl_c_during_a_deletion_names_what_may_bill(cloud: ShadeformServer, plan: Plan) -> None:
    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    instance = one(client(cloud), plan)
    cloud.fault(DELETE, "status", times=None, status=500)
    with pytest.raises(
        KeyboardInterrupt,
        match=rf"{instance.id} \(\$33.60/h\) was being deleted.*may still bill.*just stop {instance.id} --now",
    ):
        delete_and_confirm(client(cloud, sleep=pressed), instance)
