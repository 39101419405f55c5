"""Shared by tests/box/watch/test_spend*.py: a plan, an instance and accounts that answer as they are told."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from nanolan.box.watch.spend import SpendMeter
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, instance_of
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import KEY, make_plan

NOBODY = Shadeform(Secret(KEY), "http://127.0.0.1:1/v1")


def plan_of(
    limit_cents: int = 1000,
    life_s: float = 36_000,
    hourly_cents: int = 100,
    born: datetime | None = None,
) -> Plan:
    """Ten hours at $1 an hour with a limit of $10."""
    now = born or now_utc()
    plan = make_plan(
        "",
        "",
        created_at=iso(now),
        deadline=iso(now + timedelta(seconds=life_s)),
        limit_cents=limit_cents,
    )
    return replace(plan, offer=replace(plan.offer, hourly_cents=hourly_cents))


def machine(age_s: float | None = 0.0, **fields: object) -> Instance:
    """An instance that was created `age_s` ago, as the API shows it."""
    born = None if age_s is None else iso(now_utc() - timedelta(seconds=age_s))
    return instance_of({"id": "i", "name": "n", "status": "active", "created_at": born} | fields)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told(Shadeform):
    """An account that answers as `body` says."""

    def __init__(self, **body: object) -> None:
        super().__init__(Secret(KEY), "http://127.0.0.1:1/v1")
        self.body = body

    def info(self, instance_id: str) -> Instance:
        return machine(0, **self.body)


def agreed(plan: Plan) -> dict[str, str]:
    return {"spend_threshold": f"{plan.limit_cents / 100:.2f}", "date_threshold": plan.deadline}


def looked(clock: Clock, meter: SpendMeter, seconds: float = 400.0) -> None:
    """Looks every 20 s."""
    for _ in range(int(seconds / 20)):
        meter.look()
        clock.now += 20
