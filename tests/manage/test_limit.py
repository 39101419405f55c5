"""A new limit for a running run: it applies everywhere, or the error names the limit that holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import json, structs

from nanolan.errors import NanolanError, UsageProblem
from nanolan.hub.client import Hub
from nanolan.launch.request import create_body
from nanolan.manage.limit import apply_limit, with_limit
from nanolan.plan import Plan, new_run_id, read_plan
from nanolan.redact import Secret
from nanolan.run.ledger import Entry
from nanolan.run.requests import LimitRequest
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import KEY, REPO, TOKEN, WRITERS, make_plan
from tests.support.core_fixtures import QUICK, a_plan, client

UPDATE = r"POST /v1/instances/.*/update"
NOW = now_utc()


def plan(**fields: object) -> Plan:
    """Rented an hour ago at $36 an hour, a limit of $72: two hours."""
    made = make_plan(
        "",
        "",
        **(
            {
                "run_id": new_run_id(),
                "limit_cents": 7_200,
                "created_at": iso(NOW - timedelta(hours=1)),
                "deadline": iso(NOW + timedelta(hours=1)),
            }
            | fields
        ),
    )
    return structs.replace(made, offer=structs.replace(made.offer, hourly_cents=3_600))


def hours(p: Plan) -> float:
    """From now to the deadline."""
    return round((parse_time(p.deadline) - NOW).total_seconds() / 3600, 2)


@pytest.mark.parametrize(
    "cents, max_s, want",
    [
        (14_400, None, 3.0),  # the money lasts for four hours
        (14_400, 9_000, 1.5),
        (14_400, 90_000, 3.0),
        (7_200, None, 1.0),
        (5_400, None, 0.5),
        (5_400, 7_200, 0.5),
    ],
)
def test_the_deadline_lets_the_money_be_spent_and_no_more(
    cents: int, max_s: int | None, want: float
) -> None:
    new = with_limit(plan(), cents, max_s, 3_600, NOW)
    assert new.limit_cents == cents and hours(new) == want


def test_a_lower_limit_never_moves_the_deadline_away() -> None:
    assert (
        hours(with_limit(plan(deadline=iso(NOW + timedelta(minutes=15))), 6_000, None, 3_600, NOW))
        == 0.25
    )


@pytest.mark.parametrize(
    "cents, max_s, spent, says",
    [
        (3_000, None, 3_600, r"\$36.00 is already spent; nothing was changed.*just stop"),
        (14_400, 1_800, 3_600, "60 minutes old; nothing was changed.*just stop"),
        (3_000, None, None, "60 minutes old"),
    ],
)
def test_a_limit_that_is_used_up_is_refused(
    cents: int, max_s: int | None, spent: int | None, says: str
) -> None:
    with pytest.raises(UsageProblem, match=says):
        with_limit(plan(), cents, max_s, spent, NOW)


class Desk:
    """A run with a machine, its cloud and its Hub."""

    def __init__(self, cloud: ShadeformServer, hub: HubServer) -> None:
        self.cloud, self.server, self.said = cloud, hub, list[str]()
        now = now_utc()
        self.plan = a_plan(
            run_id=new_run_id(),
            created_at=iso(now),
            deadline=iso(now + timedelta(minutes=20)),
            limit_cents=1_000,
            hf_repo=REPO,
            runs_repo=REPO,
        )
        self.api = client(cloud)
        self.id = self.api.create(create_body(self.plan, "x"))
        self.new = with_limit(self.plan, 5_000, None, 0, now)

    def apply_limit(self, to: Plan | None = None) -> Entry:
        return apply_limit(
            self.api,
            Hub(self.server.url, Secret(TOKEN), patience_s=0),
            Entry(self.plan, self.id),
            self.api.info(self.id),
            to or self.new,
            self.said.append,
            clock=iter(range(0, 10**9, 25)).__next__,
        )

    @property
    def stored(self) -> dict[str, str]:
        return self.cloud.instance(self.id).spec["auto_delete"]

    def told(self) -> LimitRequest | None:
        path = f"{self.plan.folder}/limit.json"
        return (
            json.decode(self.server.read(REPO, path), type=LimitRequest)
            if path in self.server.files(REPO)
            else None
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with (
        ShadeformServer(tmp_path / "cloud", key=KEY, delays=QUICK, boxes=False) as cloud,
        HubServer(tmp_path / "hub", tokens=WRITERS) as hub,
    ):
        hub.put(REPO, {"x": b"x"})
        yield Desk(cloud, hub)


def test_a_new_limit_applies_at_the_provider_on_the_box_and_in_the_ledger(desk: Desk) -> None:
    entry = desk.apply_limit()
    assert desk.stored == {"spend_threshold": "50.00", "date_threshold": desk.new.deadline}
    told = desk.told()
    assert told and (told.limit_cents, told.deadline, told.attempt) == (5_000, desk.new.deadline, 1)
    assert told.epoch == int(parse_time(desk.new.deadline).timestamp())
    assert (
        entry.plan == desk.new == read_plan(desk.server.read(REPO, f"{desk.plan.folder}/plan.json"))
    )
    assert "read back" in desk.said[0]


def test_an_answer_that_was_lost_is_read_back(desk: Desk) -> None:
    desk.cloud.fault(UPDATE, "reset_after_effect")
    assert (
        desk.apply_limit().plan.limit_cents == 5_000 and desk.stored["spend_threshold"] == "50.00"
    )


def test_a_limit_that_the_provider_does_not_store_changes_nothing(desk: Desk) -> None:
    desk.cloud.switch("auto_delete_not_stored", True, 1)
    with pytest.raises(
        NanolanError, match=r"was not raised: .*\$10.00 instead of \$50.00 .*nothing was changed"
    ):
        desk.apply_limit()
    assert desk.told() is None and desk.stored["spend_threshold"] == "10.00"


def test_when_the_box_cannot_be_notified_the_lower_limit_holds(
    desk: Desk,
) -> None:
    desk.server.fault(".*commit.*", status=403, times=2)
    with pytest.raises(NanolanError, match=r"was not raised: .*the lower limit of \$10.00 holds"):
        desk.apply_limit()
    with pytest.raises(NanolanError, match=r"was not lowered: .*nothing was changed"):
        desk.apply_limit(structs.replace(desk.new, limit_cents=500))
    assert desk.stored["spend_threshold"] == "50.00", (
        "the provider was not asked before the machine knew"
    )
