"""A run of this laptop whose next attempt another laptop, or a guard, has launched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from nanolan.hub.client import Hub
from nanolan.manage.stop_target import find_target
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.run.find import later_attempt
from nanolan.run.ledger import Attempt
from nanolan.settings.load import load_settings
from nanolan.shadeform.client import Shadeform
from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.status_fixtures import RUN, Desk, desk  # noqa: F401  # a fixture

EARLIER = (Attempt(1, "i-0", 500, "lost: preempted", 3360),)


def taken_up(desk: Desk, attempt: int = 2, **changes: Any) -> Plan:
    """The first instance is gone, another laptop has launched the next attempt."""
    now = desk.cloud.account.now()
    for i in desk.cloud.instances:
        i.delete(now, "preempted")
    plan = structs.replace(desk.entry.plan, attempt=attempt, limit_cents=4000)
    desk.rent(plan)
    written = structs.replace(plan, **changes)
    desk.hub.put(
        REPO,
        {
            f"{plan.folder}/plan.json": written.to_json(),
            f"{plan.folder}/earlier.json": msgspec.json.encode(EARLIER),
        },
    )
    return written


def test_status_shows_the_later_attempt_and_the_ledger_keeps_it(desk: Desk) -> None:
    plan = taken_up(desk)
    seen = desk.look()
    (view,) = seen.runs
    assert view.entry.plan == plan and view.entry.earlier == EARLIER and view.entry.rebuilt
    assert view.instance and view.instance.attempt == 2 and seen.strays == ()
    assert structs.replace(desk.ledger.find(RUN), seen=None) == view.entry
    again = desk.look().runs[0].entry
    assert structs.replace(again, seen=None) == view.entry


def test_a_request_to_stop_names_the_later_attempt(desk: Desk) -> None:
    plan = taken_up(desk)
    api = Shadeform(Secret(KEY), desk.cloud.url)
    s = load_settings(
        {"hf_endpoint": desk.hub.url, "shadeform_api": desk.cloud.url, "hf_repo": REPO},
        {"HF_TOKEN": TOKEN, "SHADEFORM_API_KEY": KEY},
    )
    entry, present = find_target(desk.ledger, api, s, RUN, None, lambda text: None)
    assert entry and entry.plan == plan and [i.attempt for i in present.billing] == [2]


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "deadbeef"},
        {"limit_cents": -1},
        {"run_id": "ab12cd35"},
        {"hf_endpoint": "https://elsewhere.invalid"},
    ],
    ids=str,
)
def test_a_plan_that_no_launch_of_this_run_has_written_is_not_adopted(
    desk: Desk, changes: dict[str, Any]
) -> None:
    """Anyone who may write the repo can change it."""
    taken_up(desk, **changes)
    view = desk.look().runs[0]
    assert view.entry.plan == desk.entry.plan == desk.ledger.find(RUN).plan


def test_an_unavailable_plan_of_a_later_attempt_is_a_problem_and_no_end(desk: Desk) -> None:
    taken_up(desk)
    desk.hub.fault("GET .*/plan.json", status=503, times=10**6)
    seen = desk.look()
    assert any("a later attempt" in p for p in seen.problems)


def test_without_a_later_instance_the_hub_is_not_asked(desk: Desk) -> None:
    class Never(Hub):
        def read(self, *args: Any, **more: Any) -> bytes:
            raise AssertionError("asked the Hub")

    hub = Never(desk.hub.url, Secret(TOKEN))
    api = Shadeform(Secret(KEY), desk.cloud.url)
    assert later_attempt(hub, desk.entry, api.instances()) is desk.entry
