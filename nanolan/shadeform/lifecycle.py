"""The life of an instance: create it once, find it again, read it back, delete it and confirm that it is gone."""

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
from nanolan.net.backoff import backoff_s
from nanolan.plan import Plan
from nanolan.shadeform.client import DASHBOARD, Shadeform
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import gap_of
from nanolan.shadeform.terms import (
    limits_differ,
    limits_missing,
    price_differs,
    rental_differs,
)
from nanolan.times import iso

FIND_TRIES, FIND_WAIT_S, LONGEST_FIND_WAIT_S = (
    6,
    2.0,
    20.0,
)  # a listing may lag a minute behind a create
READ_BACK_S, READ_BACK_WAIT_S = 60.0, 2.0
DELETE_RETRY_S, DELETE_GIVE_UP_S = 5.0, 15 * 60.0


@dataclass(frozen=True)
class Gone:
    """A confirmed deletion; `seen` is the evidence that the instance no longer bills."""

    id: str
    seen: str


def create_once(
    api: Shadeform, body: dict[str, Any], plan: Plan, *, say: Callable[[str], None]
) -> tuple[str, bool]:
    """(id, whether Ctrl-C was pressed). Creates at most one instance: after an unclear answer it searches for the run's."""
    try:
        return api.create(body), False
    except (UnclearAnswer, KeyboardInterrupt) as e:
        interrupted = isinstance(e, KeyboardInterrupt)
        why = "Ctrl-C or SIGTERM" if interrupted else str(e)
    say(f"{why}. Checking whether {body['name']} exists, for up to a minute")
    try:
        if found := find_run(api, plan.run_id, attempt=plan.attempt):
            return found.id, interrupted
        why += f"; {FIND_TRIES} listings did not show it"
    except (ApiProblem, AuthProblem) as e:
        why += f"; {e}"
    except KeyboardInterrupt:
        why += "; then Ctrl-C again"
    raise MayBeBilling(
        f"UNKNOWN: an instance named {body['name']} ({dollars(plan.offer.hourly_cents)}/h) may exist at "
        f"{body['cloud']}/{body['region']} ({why}). If it does, it deletes itself at {dollars(plan.limit_cents)}. "
        f"Look: just status; stop it: just stop {plan.run_id} --now; or by hand: {DASHBOARD}"
    )


def still_runs(instance_id: str, plan: Plan) -> str:
    """The notice that a rented instance continues without the laptop."""
    return (
        f"instance {instance_id} ({dollars(plan.offer.hourly_cents)}/h) is rented and continues by itself, limit "
        f"{dollars(plan.limit_cents)}. Watch it: just watch; stop it: just stop {plan.run_id}"
    )


def find_run(
    api: Shadeform, run_id: str, tries: int = FIND_TRIES, *, attempt: int | None = None
) -> Instance | None:
    """The instance of a run (of one attempt, if given), from up to `tries` listings; None if the last one lacks it.

    Raises ApiProblem or AuthProblem if the last listing failed. An instance that is gone counts only in the last
    listing: a live one may not be listed yet."""
    gone: list[Instance] = []
    for number in range(tries):
        if number:
            api.sleep(backoff_s(number, FIND_WAIT_S, LONGEST_FIND_WAIT_S))
        try:
            found = [
                i for i in api.instances() if i.is_run(run_id) and attempt in (None, i.attempt)
            ]
        except (ApiProblem, AuthProblem):
            if number == tries - 1:
                raise
            continue
        if billing := [i for i in found if i.billing]:
            return min(billing, key=lambda i: str(i.created_at))
        gone = found
    return gone[0] if gone else None


def delete_leftovers(api: Shadeform, run_id: str, *, say: Callable[[str], None]) -> None:
    """Delete any instance of the run that bills, before the run gets another one."""
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
    """Read the new instance back and delete it if a field contradicts the plan; missing fields do not.

    A limit that is missing after a minute is sent once by /update; if it stays missing, the instance is deleted.
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
            wrong = difference_from_plan(now, plan)
            if wrong:
                return _delete_and_raise(api, now, wrong, clock)
            out_of_time = clock() >= end
            known = now.hourly_cents is not None and (now.rental or not plan.offer.spot)
            if not limits_missing(now) and (known or out_of_time):
                say(_read_back_line(now, plan))
                return now
            if out_of_time:
                break
            api.sleep(READ_BACK_WAIT_S)
        if not last:
            say("the provider has not stored the limits yet; sending them again")
            try:
                api.update(instance_id, {"auto_delete": limits})
            except ApiProblem as e:
                say(f"that failed: {e}")  # the next read-back decides
    return _delete_and_raise(api, now, "the provider did not store the limits", clock)


def _read_back_line(now: Instance, plan: Plan) -> str:
    """The line about an instance that has both limits. An unknown price does not matter: limits and bill hold without it."""
    price = f"{dollars(now.hourly_cents)}/h"
    if now.hourly_cents is None:
        price = f"the provider shows no price (agreed: {dollars(plan.offer.hourly_cents)}/h)"
    if plan.offer.spot:
        price += ", spot" if now.rental else " (it does not show whether this is spot)"
    spend, date = (now.limits.spend_cents, now.limits.date) if now.limits else (None, None)
    until = f", deleted at {iso(date)} at the latest" if date else ""
    return f"read back: {price}, limit {dollars(spend)}{until}"


def difference_from_plan(now: Instance, plan: Plan) -> str:
    """How the instance contradicts the plan, or ""; missing fields do not."""
    o = plan.offer
    if differs := rental_differs(now, plan) or price_differs(now, plan):
        return differs
    if now.num_gpus is not None and now.num_gpus != o.num_gpus:
        return f"it has {now.num_gpus} GPUs instead of {o.num_gpus}"
    if now.region and now.region != o.region:
        return f"it is in {now.region} instead of {o.region}"
    if now.shade_cloud is False:
        return "it bills an account other than Shadeform's, where the spend limit has no effect"
    return limits_differ(now, plan)


def _delete_and_raise(
    api: Shadeform, now: Instance, wrong: str, clock: Callable[[], float]
) -> NoReturn:
    gone = delete_and_confirm(api, now, clock=clock)
    raise MachineFailed(
        f"instance {now.id} was not what was agreed: {wrong}. It is deleted ({gone.seen})",
        now.id,
        now.cost_now_cents(),
    )


@contextmanager
def defer_hangup() -> Iterator[None]:
    """Postpone a SIGHUP (closed terminal) until the block ends."""
    number = getattr(signal, "SIGHUP", None)
    received = list[int]()
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda signum, frame: received.append(signum))
    try:
        yield
    finally:
        signal.signal(number, before)
        if received:
            os.kill(os.getpid(), number)


@defer_hangup()
def delete_and_confirm(
    api: Shadeform,
    instance: Instance,
    *,
    give_up_s: float = DELETE_GIVE_UP_S,
    clock: Callable[[], float] = time.monotonic,
) -> Gone:
    """Send the delete and poll until it is confirmed: status deleting/deleted, or 404 together with a listing without it.

    MayBeBilling after `give_up_s`. A Ctrl-C is raised again with a message that names what may bill."""
    end = clock() + give_up_s
    name = f"instance {instance.id} ({dollars(instance.hourly_cents)}/h)"
    stop = f"It may still bill. Stop it: just stop {instance.id} --now; or by hand: {DASHBOARD}"
    try:
        while True:
            problem = _ask_to_delete(api, instance.id)
            seen, state = _check_gone(api, instance.id)
            if seen:
                return Gone(instance.id, seen)
            if clock() >= end:
                raise MayBeBilling(f"{name} could not be deleted: {problem or state}. {stop}")
            api.sleep(DELETE_RETRY_S)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{name} was being deleted; its deletion is not confirmed. {stop}"
        ) from None


def _ask_to_delete(api: Shadeform, instance_id: str) -> str:
    """ "" when the delete was accepted (or the instance is gone), else the error; safe to repeat."""
    try:
        api.delete(instance_id)
    except NotFound:
        pass
    except (ApiProblem, AuthProblem) as e:
        return str(e)
    return ""


def _check_gone(api: Shadeform, instance_id: str) -> tuple[str, str]:
    """(evidence that the instance is gone or "", its state otherwise)."""
    try:
        try:
            now = api.info(instance_id)
            return (
                ("", f"it is still {now.status}") if now.billing else (f"status {now.status}", "")
            )
        except (
            NotFound,
            BadAnswer,
        ) as e:  # BadAnswer: 200 with an empty record, which alone proves nothing
            listed = api.instances()
            if mine := [i for i in listed if i.id == instance_id and i.billing]:
                return "", f"it is still listed as {mine[0].status}"
            unsure = isinstance(e, BadAnswer) and gap_of(listed)
            return ("", f"{e}; {gap_of(listed)}") if unsure else ("no longer listed", "")
    except (ApiProblem, AuthProblem) as e:
        return "", str(e)
