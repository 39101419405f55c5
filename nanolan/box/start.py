"""The start of the box program: read plan and secrets, find this instance, start what watches the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from nanolan.box.context import BoxDeps, BoxRun, note, say
from nanolan.box.platform.job import kept_claim
from nanolan.box.platform.platforms import platform_of
from nanolan.box.watch.control import Control
from nanolan.box.watch.heartbeat import Heartbeat
from nanolan.box.watch.spend import SpendMeter
from nanolan.box.watch.timeline import Timeline
from nanolan.errors import ApiProblem, NanolanError
from nanolan.hub.client import Hub
from nanolan.money import dollars
from nanolan.notify import WARNING, Notifier, started
from nanolan.plan import UNREADABLE, Plan, read_plan
from nanolan.redact import Secret
from nanolan.run.record import (
    to_json,
)
from nanolan.run.requests import LIMIT_FILE, LimitRequest
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import find_run
from nanolan.shadeform.models import Instance
from nanolan.times import SERVICE_CLOCK, ServiceClock, parse_time

FIND_LOOKS = 18  # about 5 minutes


def start(state: Path, work: Path, deps: BoxDeps) -> BoxRun:
    """The run in `state` with everything that watches it running; ApiProblem when Shadeform does not list this instance."""
    plan = read_plan((state / "plan.json").read_bytes())
    secrets = {k: Secret(v) for k, v in json.loads((state / "secrets.json").read_bytes()).items()}
    os.environ["HF_HOME"] = str(work / "hf")
    platform = platform_of(plan)
    plan = platform.begin(plan, secrets["HF_TOKEN"], state, deps)
    timeline = Timeline(state / "timeline.json", lambda: deps.now().timestamp())
    api = platform.client(plan, secrets, deps)
    me = find_me(api, plan, state / "instance.json")
    hub = deps.hub(plan.hf_endpoint, secrets["HF_TOKEN"], patience_s=0)
    read_service_clock(api, hub, me, plan)
    say(f"this is instance {me.id} ({me.name}), {price(plan)}")
    note_boot(timeline, me, plan, state, deps.now().timestamp())
    notifier = notifier_of(plan, secrets, state, deps)
    meter = meter_of(plan, me, api, notifier, deps).start()
    control = control_of(plan, hub, meter, state, deps).start()
    if limit := kept_limit(state):
        meter.change(limit.limit_cents, limit.deadline)
    notifier.send("started", started(plan))
    heartbeat = Heartbeat(
        plan,
        secrets,
        work,
        meter,
        timeline,
        notifier,
        hub=deps.hub,
        ticker=deps.ticker,
        clock=deps.clock,
    )
    return BoxRun(
        plan,
        secrets,
        state,
        work,
        api,
        me,
        meter,
        heartbeat,
        timeline,
        control,
        notifier,
        deps,
        spent_before_cents=meter.spent_cents,
    )


def price(plan: Plan) -> str:
    return f"{dollars(plan.offer.hourly_cents)}/h, limit {dollars(plan.limit_cents)}"


def notifier_of(plan: Plan, secrets: Mapping[str, Secret], state: Path, deps: BoxDeps) -> Notifier:
    title = f"{plan.run_name} {'+'.join(plan.phases)}"
    return deps.notifier(secrets.get("NOTIFY_URL"), title, state / "notified.json", say)


def meter_of(
    plan: Plan, me: Instance, api: Shadeform, notifier: Notifier, deps: BoxDeps
) -> SpendMeter:
    return SpendMeter(
        plan,
        me,
        api,
        deps.clock,
        say=say,
        now=deps.now,
        ticker=deps.ticker,
        alarm=lambda event, text: notifier.send(event, text, WARNING),
    )


def control_of(plan: Plan, hub: Hub, meter: SpendMeter, state: Path, deps: BoxDeps) -> Control:
    def on_limit(limit: LimitRequest) -> None:
        take_limit(limit, meter, state)

    claim = kept_claim(state)
    return Control(plan, hub, say, ticker=deps.ticker, on_limit=on_limit, claim=claim)


def take_limit(limit: LimitRequest, meter: SpendMeter, state: Path) -> None:
    """Apply a new limit, and keep it for the next start of this program and for the dead man's timer.

    BadAnswer when its deadline cannot be read: the old limit stays.
    """
    parse_time(limit.deadline)
    note(state / LIMIT_FILE, to_json(limit))
    meter.change(limit.limit_cents, limit.deadline)
    say(f"just limit: the limit is now {dollars(limit.limit_cents)} and {limit.deadline}")


def kept_limit(state: Path) -> LimitRequest | None:
    """The limit that an earlier start of this program took."""
    try:
        return msgspec.json.decode((state / LIMIT_FILE).read_bytes(), type=LimitRequest)
    except (OSError, *UNREADABLE):
        return None


def find_me(api: Shadeform, plan: Plan, kept: Path) -> Instance:
    """This instance, from the file that an earlier start kept, else from Shadeform; ApiProblem when Shadeform does not list it.

    The file comes first: work on this disk must not wait for an API that is down.
    """
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Instance)
    except (OSError, *UNREADABLE):
        me = find_run(api, plan.run_id, FIND_LOOKS, attempt=plan.attempt)
    if me is None:
        raise ApiProblem(
            f"Shadeform lists no instance of run {plan.run_id}; the provider's limit stays in force"
        )
    note(kept, msgspec.json.encode(me))
    return me


def read_service_clock(
    api: Shadeform, hub: Hub, me: Instance, plan: Plan, clock: ServiceClock = SERVICE_CLOCK
) -> None:
    """Ask Shadeform, else the Hub, until one answers with its time: after a restart this machine's clock may be wrong."""
    for ask in (
        lambda: api.info(me.id),
        lambda: hub.read(plan.runs_repo, f"{plan.folder}/plan.json"),
    ):
        if clock.known:
            return
        with suppress(NanolanError):  # a refusal carries the time too
            ask()


def note_boot(timeline: Timeline, me: Instance, plan: Plan, state: Path, now: float) -> None:
    """Add two stages: "boot", from the create to boot.sh (which writes `booted` first), and "setup", from there to now."""
    born = (me.created_at or parse_time(plan.created_at)).timestamp()
    try:
        booted = float((state / "booted").read_text())
    except (OSError, ValueError):
        booted = now
    timeline.add("boot", booted - born)
    timeline.add("setup", now - booted)
