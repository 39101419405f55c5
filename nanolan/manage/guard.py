"""`just guard`: polls the account and the run folders, deletes overdue instances, reports every change.

It runs on any machine that stays on and may hold the Shadeform key. A failed request is reported; it never causes a deletion,
never ends the guard, and never counts as "no instances".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from msgspec import structs

from nanolan.cost.overdue import SLACK_S, InstanceFacts, outcome_text, overdue
from nanolan.errors import NanolanError, NotFound, UsageProblem
from nanolan.money import dollars, usd
from nanolan.plan import Plan
from nanolan.run.find import RunSearch, rebuild
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.presence import (
    billing_error,
    is_past,
    of_attempt,
    unknown_text,
    unresolved,
    with_tags,
)
from nanolan.run.record import Receipt, read_receipt
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_and_confirm
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import gap_of
from nanolan.shadeform.terms import changed_terms
from nanolan.times import SERVICE_CLOCK, iso, now_utc

CONFIRM_S = 10.0  # between the two looks of which both must say that an instance is overdue
GIVE_UP_S = 60.0  # for one deletion, before the other instances are checked again
SETTLE_S = 120.0  # without instances, before --until-none ends: a listing may lag behind a launch


@dataclass(frozen=True)
class Event:
    """One change; `what` is guards, left alone, unreadable, trouble, unknown, changed, deleting, deleted, failed or gone; with
    --failover also taking up, taken up, not yet or not taken up."""

    what: str
    text: str
    instance: Instance | None = None

    def to_dict(self, now: datetime) -> dict[str, Any]:
        """For --json."""
        i = self.instance
        return {
            "schema_version": 1,
            "time": iso(now),
            "event": self.what,
            "text": self.text,
            "instance_id": i.id if i else None,
            "run_id": i.run_id if i else None,
            "usd_per_hour": usd(i.hourly_cents) if i else None,
        }


class Guard:
    """The rounds of a guard. `facts_of` returns the facts of an instance, or None if the guard must not touch it."""

    def __init__(
        self,
        api: Shadeform,
        facts_of: Callable[[Instance], InstanceFacts | None],
        report: Callable[[Event], object],
        *,
        gone: Callable[[InstanceFacts, str], object] = lambda facts, why: None,
        now: Callable[[], datetime | None] = SERVICE_CLOCK.agreed,
        slack_s: float = SLACK_S,
        clock: Callable[[], float] = time.monotonic,
        entries: Callable[[], Sequence[Entry]] = tuple,
        confirm_s: float = CONFIRM_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._api = api
        self._facts_of = facts_of
        self._on_deleted = gone
        self._now = now
        self._slack_s = slack_s
        self._clock = clock
        self._confirm = lambda: sleep(confirm_s)
        self._entries = entries  # their instances may bill although no listing shows them
        self._report = report
        self._reported: dict[str, str] = {}
        self._guarded: dict[str, Instance] = {}
        self.failed: list[str] = []  # errors of the newest round: what may still bill

    def round(self) -> int | None:
        """Check every instance once and delete the overdue ones. Returns how many still bill; None if unknown."""
        self.failed = []
        try:
            account = self._api.instances()
        except NanolanError as e:
            unread = NanolanError(f"the account could not be read: {e}")
            self.report_failure(str(billing_error(unread, self._entries())))
            return None
        if self._reported.pop("", None):
            self._report(Event("guards", "the account can be read again"))
        listed = [i for i in account if i.billing]
        if gap := gap_of(account):
            self._report_once("gap", Event("unreadable", gap))
        listed += self._unlisted({i.id for i in listed})
        ours = [i for i in (with_tags(i, self._entries()) for i in listed) if i.run_id]
        mine = [s for i in ours if (s := self._facts_or_skip(i))]
        for i in [i for id, i in self._guarded.items() if id not in {s.instance.id for s in mine}]:
            self._report_on(i, "gone", f"{name_of(i)} is gone: deleted by itself or by others")
        self._guarded = {s.instance.id: s.instance for s in mine}
        unclear = unresolved(self._entries(), listed, now_utc())
        for entry in unclear:
            self.failed.append(f"run {entry.plan.run_id}: {unknown_text(entry)}")
            self._report_once(entry.plan.run_id, Event("unknown", self.failed[-1]))
        return sum(not self._delete_if_overdue(s) for s in mine) + len(unclear)

    def _unlisted(self, listed: set[str]) -> list[Instance]:
        """Instances that the listing does not show, read by id: those guarded so far, and the ledger's."""
        now = now_utc()
        young = [
            e for e in self._entries() if e.instance_id and not e.gone and not is_past(e.plan, now)
        ]
        ids = [*self._guarded, *(e.instance_id for e in young if e.instance_id)]
        found = []
        for instance_id in dict.fromkeys(i for i in ids if i not in listed):
            try:
                found.append(self._api.info(instance_id))
            except NotFound:
                continue
            except NanolanError as e:
                self.report_failure(
                    f"instance {instance_id} is not listed and could not be read: {e}. It may still bill: "
                    f"just stop {instance_id} --now"
                )
                found += [self._guarded[instance_id]] if instance_id in self._guarded else []
        return [i for i in found if i.billing]

    @property
    def alive(self) -> set[str]:
        """The runs whose instance billed in the newest round."""
        return {i.run_id for i in self._guarded.values() if i.run_id}

    @property
    def unguarded(self) -> str:
        """The message about the instances that lose this guard when it ends."""
        return "; ".join(f"no longer guarding {name_of(i)}" for i in self._guarded.values())

    def report_failure(self, text: str) -> None:
        """Report a failed round: what bills is unknown."""
        self.failed.append(text)
        self._report_once("", Event("trouble", f"{text}. Trying again"))

    def _facts_or_skip(self, instance: Instance) -> InstanceFacts | None:
        if (facts := self._facts_of(instance)) is None:
            owner = instance.owner
            hint = f". If that is you: just guard --owner {owner}" if owner else ""
            text = f"{name_of(instance)} belongs to owner {owner or '?'}: left alone{hint}"
            self._report_on(instance, "left alone", text)
        return facts

    def _delete_if_overdue(self, facts: InstanceFacts) -> bool:
        """Delete the instance if it is overdue; whether its deletion is confirmed."""
        instance, name, now = facts.instance, name_of(facts.instance), self._now()
        if now is None:  # this machine's clock alone never justifies a deletion
            self.report_failure(
                "Shadeform's answers do not report the time, so nothing is deleted for its age"
            )
            return False
        why = overdue(facts, now, self._slack_s)
        if not why:
            self._report_on(instance, "guards", guarding_text(facts))
            known = facts.plan if not facts.unseen else None
            if known and (terms := changed_terms(instance, known, now)):
                text = f"{name}: {terms}; larger price and nearer limit count"
                self._report_on(instance, "changed", text, f"{instance.id} terms")
            return False
        if not self._overdue_again(instance):
            return False
        self._report_on(instance, "deleting", f"DELETING {name}: {why}")
        try:
            gone = delete_and_confirm(self._api, instance, give_up_s=GIVE_UP_S, clock=self._clock)
        except NanolanError as e:
            self.failed.append(str(e))
            self._report_on(instance, "failed", f"{e}. Trying again")
            return False
        cost = dollars(instance.cost_now_cents())
        self._report_on(instance, "deleted", f"{name} is gone: {gone.seen}; it cost about {cost}")
        del self._guarded[instance.id]
        self._on_deleted(facts, why)
        return True

    def _overdue_again(self, instance: Instance) -> bool:
        """Whether a second look, at what is read anew, says so, too: one odd answer (a price, a bill, a date) deletes nothing."""
        self._confirm()
        bare = replace(instance, limits=None, cost_cents=None, hourly_cents=None)
        facts, now = self._facts_of(bare), self._now()
        return bool(facts and now and overdue(facts, now, self._slack_s))

    def _report_on(self, instance: Instance, what: str, text: str, key: str = "") -> None:
        self._report_once(key or instance.id, Event(what, text, instance))

    def _report_once(self, key: str, event: Event) -> None:
        """Report the event unless it is the last one reported for `key`."""
        if self._reported.get(key) != event.text:
            self._reported[key] = event.text
            self._report(event)


class Rounds(Protocol):
    """What `run_forever` repeats."""

    def round(self) -> int | None: ...
    def report_failure(self, text: str) -> object: ...


def run_forever(
    guard: Rounds,
    every_s: float,
    *,
    once: bool = False,
    until_none_s: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run rounds forever; only one with `once`; with `until_none_s`, until no instance has billed for that many seconds."""
    empty_since: float | None = None
    while True:
        left = None
        try:
            left = guard.round()
        except Exception as e:  # reported; the next round follows
            guard.report_failure(f"a bug in nanolan: {type(e).__name__}: {e}")
        now = clock()
        if left != 0:
            empty_since = None
        elif empty_since is None:
            empty_since = now
        if (
            once
            or empty_since is not None
            and until_none_s is not None
            and now - empty_since >= until_none_s
        ):
            return
        sleep(every_s)


def name_of(instance: Instance) -> str:
    return f"instance {instance.id} of run {instance.run_id} ({dollars(instance.hourly_cents)}/h)"


def guarding_text(facts: InstanceFacts) -> str:
    """Until when an instance may stay; the text changes only when that does."""
    instance, plan = facts.instance, facts.plan
    limits = instance.limits
    date, cents = "?", None
    if plan:
        date, cents = plan.deadline, plan.limit_cents
    elif limits:
        date, cents = iso(limits.date) if limits.date else "?", limits.spend_cents
    state = f"; {outcome_text(facts.receipt)}, soon to be deleted" if facts.receipt else ""
    return f"guarding {name_of(instance)}, until {date} or {dollars(cents)}{state}" + (
        f"; UNAVAILABLE: {facts.unseen}" if facts.unseen else ""
    )


# ------------------------------------------------------------------ the facts of an instance
def facts_reader(
    search: RunSearch, ledger: Ledger, owner: str | None, info: Callable[[str], Instance]
) -> Callable[[Instance], InstanceFacts | None]:
    """A function that reads the limits, the plan and the receipt of `owner`'s instances; of every owner's if it is None.

    `info` reads one instance of the account: a listing lacks the provider's limits."""

    def look(instance: Instance) -> InstanceFacts | None:
        if owner and instance.owner not in (None, owner):
            return None
        plan, unseen = _plan(search, ledger, instance)
        named = instance.owner or (plan.owner if plan else None)  # tags may be lost
        if owner and named != owner:
            return None
        try:
            instance = with_tags(info(instance.id), ledger.readable()[0])
        except NanolanError as e:
            unseen = f"the provider's limits ({e})"
        receipt, why = _receipt(search, plan) if plan else (None, "")
        return InstanceFacts(instance, plan, receipt, unseen or why)

    return look


def _plan(search: RunSearch, ledger: Ledger, instance: Instance) -> tuple[Plan | None, str]:
    """The plan of an instance from the ledger, else from its run folder; or why it is unavailable."""
    if known := _entry(ledger, instance):
        return known.plan, ""
    try:
        plan = rebuild(search, instance.run_id or "", [instance]).plan
    except NanolanError as e:
        return None, f"its plan ({e}); the provider's limits count"
    if plan.attempt != instance.attempt:
        its = f"the run folder has that of attempt {plan.attempt}, this is {instance.attempt}"
        return None, f"its plan: {its}; the provider's limits count"
    return plan, ""


def _entry(ledger: Ledger, instance: Instance) -> Entry | None:
    """The ledger's entry of the attempt that this instance belongs to."""
    return next((e for e in ledger.readable()[0] if of_attempt(e, instance)), None)


def _receipt(search: RunSearch, plan: Plan) -> tuple[Receipt | None, str]:
    """The receipt of this plan's attempt, if there is one; or why it is unavailable."""
    try:
        if search.hub is None or search.hub.endpoint != plan.hf_endpoint:
            raise UsageProblem(f"HF_ENDPOINT is not {plan.hf_endpoint}")
        receipt = read_receipt(search.hub.read(plan.runs_repo, f"{plan.folder}/receipt.json"))
    except NotFound:
        return None, ""
    except (NanolanError, RecursionError) as e:
        return None, f"whether its run is over ({e or type(e).__name__})"
    of_this = (receipt.run_id, receipt.attempt) == (plan.run_id, plan.attempt)
    return (receipt if of_this else None), ""


def deletion_recorder(
    ledger: Ledger, say: Callable[[str], object]
) -> Callable[[InstanceFacts, str], None]:
    """A function that records a deletion in the ledger, if the ledger has the run."""

    def note(facts: InstanceFacts, why: str) -> None:
        if entry := _entry(ledger, facts.instance):
            ledger.note(
                structs.replace(
                    entry,
                    instance_id=facts.instance.id,
                    gone=True,
                    spent_cents=facts.instance.cost_now_cents(),
                    note=f"deleted by just guard: {why}",
                    receipt=facts.receipt or entry.receipt,
                ),
                say,
            )

    return note
