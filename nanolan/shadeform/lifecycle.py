"""Renting without losing a machine: create once, find it again, delete until it is seen to be gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    BadAnswer,
    MachineFailed,
    MayBeBilling,
    NotFound,
    UnclearAnswer,
)
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.shadeform.client import DASHBOARD, Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import gap_of
from nanolan.shadeform.terms import limits_differ, limits_missing, price_differs
from nanolan.times import iso

ADOPT_LOOKS, ADOPT_WAIT_S, LONGEST_ADOPT_WAIT_S = (
    6,
    2.0,
    20.0,
)  # a listing may lag a minute behind a create
READ_BACK_S, READ_BACK_WAIT_S = 60.0, 2.0
DELETE_RETRY_S, DELETE_GIVE_UP_S = 5.0, 15 * 60.0


@dataclass(frozen=True)
class Gone:
    """Proof of deletion: how it was seen that the instance no longer bills."""

    id: str
    seen: str


def create_once(
    api: Shadeform, body: dict[str, Any], plan: Plan, *, say: Callable[[str], None]
) -> tuple[str, bool]:
    """(id, whether Ctrl-C came). Creates an instance, never two: after an unclear answer the run's own is looked for."""
    try:
        return api.create(body), False
    except (UnclearAnswer, KeyboardInterrupt) as e:
        interrupted = isinstance(e, KeyboardInterrupt)
        why = "Ctrl-C or SIGTERM" if interrupted else str(e)
    say(f"{why}: looking whether {body['name']} was made, for up to a minute")
    try:
        if found := find_run(api, plan.run_id, attempt=plan.attempt):
            return found.id, interrupted
        why += f"; {ADOPT_LOOKS} looks did not show it"
    except (ApiProblem, AuthProblem) as e:
        why += f"; {e}"
    except KeyboardInterrupt:
        why += "; then Ctrl-C again"
    raise MayBeBilling(
        f"UNKNOWN: an instance named {body['name']} ({dollars(plan.offer.hourly_cents)}/h) may exist at "
        f"{body['cloud']}/{body['region']} ({why}). If it does, it deletes itself at {dollars(plan.limit_cents)}. "
        f"Look: just status; stop it: just stop {plan.run_id} --now; or by hand: {DASHBOARD}"
    )


def goes_on(instance_id: str, plan: Plan) -> str:
    """What is true once a machine is rented, whatever becomes of the laptop."""
    return (
        f"instance {instance_id} ({dollars(plan.offer.hourly_cents)}/h) is rented and continues by itself, limit "
        f"{dollars(plan.limit_cents)}. Watch it: just watch; stop it: just stop {plan.run_id}"
    )


def find_run(
    api: Shadeform, run_id: str, looks: int = ADOPT_LOOKS, *, attempt: int | None = None
) -> Instance | None:
    """The instance of a run (of that attempt at it, if given), looked for `looks` times; ApiProblem or AuthProblem if the
    last look failed, never "none". One that is gone is only taken at the end: the living one may not be listed yet."""
    gone: list[Instance] = []
    for look in range(looks):
        if look:
            api.sleep(min(ADOPT_WAIT_S * 2 ** (look - 1), LONGEST_ADOPT_WAIT_S))
        try:
            found = [
                i for i in api.instances() if i.is_run(run_id) and attempt in (None, i.attempt)
            ]
        except (ApiProblem, AuthProblem):
            if look == looks - 1:
                raise
            continue
        if billing := [i for i in found if i.billing]:
            return min(billing, key=lambda i: str(i.created_at))
        gone = found
    return gone[0] if gone else None


def sweep(api: Shadeform, run_id: str, *, say: Callable[[str], None]) -> None:
    """Before a run gets another machine: no earlier one may bill, whatever was seen of its end."""
    for i in api.instances():
        if i.is_run(run_id) and i.billing:
            say(f"instance {i.id} of this run is listed as {i.status} again; deleting it")
            delete_and_confirm(api, i)


def check_rented(
    api: Shadeform,
    instance_id: str,
    plan: Plan,
    limits: dict[str, str],
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Instance:
    """Read the new instance back: what contradicts the plan is deleted at once; absent is not different.

    A limit that is still absent after a minute is sent by /update once and read again; absent still: deleted.
    """
    for last in (False, True):
        end = clock() + READ_BACK_S
        while True:
            try:
                now = api.info(instance_id)
            except ApiProblem:
                if clock() >= end:
                    raise
                api.sleep(READ_BACK_WAIT_S)
                continue
            wrong = disagreement(now, plan)
            if wrong:
                return _delete_wrong(api, now, wrong, clock)
            out_of_time = clock() >= end
            if not limits_missing(now) and (now.hourly_cents is not None or out_of_time):
                say(_as_read_back(now, plan))
                return now
            if out_of_time:
                break
            api.sleep(READ_BACK_WAIT_S)
        if not last:
            say("the provider's limit is not stored yet; sending it again")
            try:
                api.update(instance_id, {"auto_delete": limits})
            except ApiProblem as e:
                say(f"that failed: {e}")  # what is stored decides, not this answer
    return _delete_wrong(api, now, "the provider did not store the limits", clock)


def _as_read_back(now: Instance, plan: Plan) -> str:
    """An instance that has both limits. A price that the provider does not show is no reason to delete it: the limits and
    the bill hold without it."""
    price = f"{dollars(now.hourly_cents)}/h"
    if now.hourly_cents is None:
        price = f"the provider shows no price (agreed: {dollars(plan.offer.hourly_cents)}/h)"
    spend, date = (now.limits.spend_cents, now.limits.date) if now.limits else (None, None)
    until = f", deleted at {iso(date)} at the latest" if date else ""
    return f"read back: {price}, limit {dollars(spend)}{until}"


def disagreement(now: Instance, plan: Plan) -> str:
    """What of a read-back contradicts the plan, or ""; fields that are not there yet do not."""
    o = plan.offer
    if price := price_differs(now, plan):
        return price
    if now.num_gpus is not None and now.num_gpus != o.num_gpus:
        return f"it has {now.num_gpus} GPUs instead of {o.num_gpus}"
    if now.region and now.region != o.region:
        return f"it is in {now.region} instead of {o.region}"
    if now.shade_cloud is False:
        return "it bills another account than Shadeform's, where the spend limit does not count"
    return limits_differ(now, plan)


def _delete_wrong(
    api: Shadeform, now: Instance, wrong: str, clock: Callable[[], float]
) -> NoReturn:
    gone = delete_and_confirm(api, now, clock=clock)
    raise MachineFailed(
        f"instance {now.id} was not what was agreed: {wrong}. It is deleted ({gone.seen})",
        now.id,
        now.cost_now_cents(),
    )


@contextmanager
def hangup_waits() -> Iterator[None]:
    """A terminal that goes away meanwhile (SIGHUP) ends this program afterwards."""
    number, heard = getattr(signal, "SIGHUP", None), list[int]()
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda got, frame: heard.append(got))
    try:
        yield
    finally:
        signal.signal(number, before)
        if heard:
            os.kill(os.getpid(), number)


@hangup_waits()
def delete_and_confirm(
    api: Shadeform,
    instance: Instance,
    *,
    give_up_s: float = DELETE_GIVE_UP_S,
    clock: Callable[[], float] = time.monotonic,
) -> Gone:
    """Delete until it is *seen* to be gone; `instance` was seen, so a 404 and an empty listing together count.

    A Ctrl-C on the way goes on as one, with words of what may bill."""
    end, name = clock() + give_up_s, f"instance {instance.id} ({dollars(instance.hourly_cents)}/h)"
    stop = f"It may still bill. Stop it: just stop {instance.id} --now; or by hand: {DASHBOARD}"
    try:
        while True:
            problem = _ask_to_delete(api, instance.id)
            seen, state = _look(api, instance.id)
            if seen:
                return Gone(instance.id, seen)
            if clock() >= end:
                raise MayBeBilling(f"{name} could not be deleted: {problem or state}. {stop}")
            api.sleep(DELETE_RETRY_S)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{name} was being deleted and is not seen to be gone. {stop}"
        ) from None


def _ask_to_delete(api: Shadeform, instance_id: str) -> str:
    """ "" when the delete was taken (or the instance is gone), else what went wrong; safe to repeat."""
    try:
        api.delete(instance_id)
    except NotFound:
        pass
    except (ApiProblem, AuthProblem) as e:
        return str(e)
    return ""


def _look(api: Shadeform, instance_id: str) -> tuple[str, str]:
    """(how it was seen to be gone or "", what was seen instead)."""
    try:
        try:
            now = api.info(instance_id)
            return (
                ("", f"it is still {now.status}") if now.billing else (f"status {now.status}", "")
            )
        except (
            NotFound,
            BadAnswer,
        ) as e:  # BadAnswer: 200 with an empty record, which is no end by itself
            listed = api.instances()
            if mine := [i for i in listed if i.id == instance_id and i.billing]:
                return "", f"it is still listed as {mine[0].status}"
            unsure = isinstance(e, BadAnswer) and gap_of(listed)
            return ("", f"{e}; {gap_of(listed)}") if unsure else ("no longer listed", "")
    except (ApiProblem, AuthProblem) as e:
        return "", str(e)
