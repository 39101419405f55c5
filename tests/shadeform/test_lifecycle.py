"""The life of an instance: created once, found again, read back, and deleted until the deletion is confirmed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    InsufficientFunds,
    MayBeBilling,
    OutOfStock,
)
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import (
    FIND_TRIES,
    delete_leftovers,
    find_run,
)
from nanolan.shadeform.models import Instance
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.core_fixtures import CREATE, LIST, QUICK, Waits, a_plan, client, creates
from tests.support.lifecycle_fixtures import (
    FOR_EVER,
    api,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
    plan,  # noqa: F401  # a fixture
    rented,
)


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
