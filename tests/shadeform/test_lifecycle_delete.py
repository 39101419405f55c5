"""Reading a new instance back, and deleting one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from nanolan.errors import (
    ApiProblem,
    MachineFailed,
    MayBeBilling,
    RunFailed,
)
from nanolan.launch.request import provider_limits
from nanolan.plan import Plan
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import (
    READ_BACK_S,
    check_rented,
    delete_and_confirm,
)
from nanolan.shadeform.models import Instance
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso
from tests.support.core_fixtures import INFO, Waits, client
from tests.support.lifecycle_fixtures import (
    FOR_EVER,
    api,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
    plan,  # noqa: F401  # a fixture
    rented,
)

DELETE, UPDATE = "POST /v1/instances/.*/delete", "POST /v1/instances/.*/update"


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


def one(api: Shadeform, plan: Plan) -> Instance:
    return api.info(rented(api, plan)[0])


def deletes(cloud: ShadeformServer) -> int:
    return sum(r.path.endswith("/delete") for r in cloud.requests)


# ---- delete
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
