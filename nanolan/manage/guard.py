"""The rounds of a guard: look at the account and the run folders, delete what should be gone, tell of every change. And again.

It runs wherever the Shadeform key may be and a machine stays on. A look that fails is told, and is never a reason to delete,
nor to stop, nor to believe that there are no machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import structs

from nanolan.cost.overdue import SLACK_S, InstanceFacts, over_words, overdue
from nanolan.errors import NanolanError, NotFound, UsageProblem
from nanolan.money import dollars, usd
from nanolan.plan import Plan
from nanolan.run.find import RunSearch, rebuild
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.presence import billing_error, is_past, unknown_text, unresolved
from nanolan.run.record import Receipt, read_receipt
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_and_confirm
from nanolan.shadeform.models import Instance
from nanolan.shadeform.records import gap_of
from nanolan.shadeform.terms import changed_terms
from nanolan.times import SERVICE_CLOCK, iso, now_utc

GIVE_UP_S = 60.0  # of deleting one machine, before the others are looked at again
SETTLE_S = 120.0  # with nothing of ours, before that is believed: a listing may lag behind a launch


@dataclass(frozen=True)
class Event:
    """One change: guards, left alone, unreadable, trouble, deleting, deleted, failed, gone."""

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
    """One guard's rounds. `look` says what is known of a machine, None of one that is not its to touch."""

    def __init__(
        self,
        api: Shadeform,
        look: Callable[[Instance], InstanceFacts | None],
        tell: Callable[[Event], object],
        *,
        gone: Callable[[InstanceFacts, str], object] = lambda sight, why: None,
        now: Callable[[], datetime | None] = SERVICE_CLOCK.agreed,
        slack_s: float = SLACK_S,
        clock: Callable[[], float] = time.monotonic,
        entries: Callable[[], Sequence[Entry]] = tuple,
    ) -> None:
        self._api, self._look, self._gone, self._now, self._slack_s, self._clock = (
            api,
            look,
            gone,
            now,
            slack_s,
            clock,
        )
        self._entries = entries  # of the ledger: what may bill though no listing shows it
        self._say, self._said = tell, dict[str, str]()
        self._guarded: dict[str, Instance] = {}
        self.failed: list[str] = []  # of the newest round: what may bill against our will

    def round(self) -> int | None:
        """One look, and what follows from it: how many machines of ours still bill; None: that could not be seen."""
        self.failed = []
        try:
            account = self._api.instances()
        except NanolanError as e:
            self.trouble(
                str(
                    billing_error(
                        NanolanError(f"the account could not be seen: {e}"), self._entries()
                    )
                )
            )
            return None
        if self._said.pop("", None):
            self._say(Event("guards", "the account is seen again"))
        listed = [i for i in account if i.billing]
        if gap := gap_of(account):
            self._tell("gap", Event("unreadable", gap))
        listed += self._unlisted({i.id for i in listed})
        ours = [s for i in listed if i.run_id and (s := self._known(i))]
        for i in [i for id, i in self._guarded.items() if id not in {s.instance.id for s in ours}]:
            self._tell(i.id, Event("gone", f"{name_of(i)} is gone, by itself or by others", i))
        self._guarded = {s.instance.id: s.instance for s in ours}
        unclear = unresolved(self._entries(), listed, now_utc())
        for entry in unclear:
            self.failed.append(f"run {entry.plan.run_id}: {unknown_text(entry)}")
            self._tell(entry.plan.run_id, Event("unknown", self.failed[-1]))
        return sum(not self._attend(s) for s in ours) + len(unclear)

    def _unlisted(self, listed: set[str]) -> list[Instance]:
        """Machines that the listing does not show (any more), by their ids: those guarded so far, and the ledger's."""
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
                self.trouble(
                    f"instance {instance_id} is not listed, and could not be looked at: {e}. It may still bill: "
                    f"just stop {instance_id} --now"
                )
                found += [self._guarded[instance_id]] if instance_id in self._guarded else []
        return [i for i in found if i.billing]

    @property
    def unguarded(self) -> str:
        """What nobody guards any more when this one ends now, in words."""
        return "; ".join(f"no longer guarding {name_of(i)}" for i in self._guarded.values())

    def trouble(self, text: str) -> None:
        """A round that failed: told, and what bills is not known."""
        self.failed.append(text)
        self._tell("", Event("trouble", f"{text}. Looking again"))

    def _known(self, i: Instance) -> InstanceFacts | None:
        if (sight := self._look(i)) is None:
            self._tell(
                i.id,
                Event(
                    "left alone",
                    f"{name_of(i)} is of owner {i.owner or '?'}: left alone"
                    + (f". If that is you: just guard --owner {i.owner}" if i.owner else ""),
                    i,
                ),
            )
        return sight

    def _attend(self, s: InstanceFacts) -> bool:
        """Whether the machine was deleted, and seen to be gone."""
        i, now = s.instance, self._now()
        if now is None:  # a clock of ours alone is no reason to delete
            self.trouble(
                "Shadeform's answers do not say what time it is, so nothing is deleted for its age"
            )
            return False
        why = overdue(s, now, self._slack_s)
        if not why:
            self._tell(i.id, Event("guards", what_holds(s), i))
            if s.plan and not s.unseen and (words := changed_terms(i, s.plan, now)):
                self._tell(
                    f"{i.id} terms",
                    Event(
                        "changed", f"{name_of(i)}: {words}; larger price and nearer limit count", i
                    ),
                )
            return False
        self._tell(i.id, Event("deleting", f"DELETING {name_of(i)}: {why}", i))
        try:
            gone = delete_and_confirm(self._api, i, give_up_s=GIVE_UP_S, clock=self._clock)
        except NanolanError as e:
            self.failed.append(str(e))
            self._tell(i.id, Event("failed", f"{e}. Trying again", i))
            return False
        self._tell(
            i.id,
            Event(
                "deleted",
                f"{name_of(i)} is gone: {gone.seen}; it cost about {dollars(i.cost_now_cents())}",
                i,
            ),
        )
        del self._guarded[i.id]
        self._gone(s, why)
        return True

    def _tell(self, key: str, event: Event) -> None:
        """Once, until something else is to be said of that machine."""
        if self._said.get(key) != event.text:
            self._said[key] = event.text
            self._say(event)


def run_forever(
    patrol: Guard,
    every_s: float,
    *,
    once: bool = False,
    until_none_s: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Rounds for ever; one with `once`; else until all of them have shown for `until_none_s` that nothing of ours bills."""
    empty_since: float | None = None
    while True:
        left = None
        try:
            left = patrol.round()
        except Exception as e:  # whatever it is, it is told, and the next round follows
            patrol.trouble(f"a fault of nanolan: {type(e).__name__}: {e}")
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


def name_of(i: Instance) -> str:
    return f"instance {i.id} of run {i.run_id} ({dollars(i.hourly_cents)}/h)"


def what_holds(s: InstanceFacts) -> str:
    """Until when a machine may stay, in words that change only when that does."""
    i, plan = s.instance, s.plan
    date, cents = (
        (plan.deadline, plan.limit_cents)
        if plan
        else (
            (iso(i.limits.date) if i.limits.date else "?", i.limits.spend_cents)
            if i.limits
            else ("?", None)
        )
    )
    state = f"; {over_words(s.receipt)}, soon to be deleted" if s.receipt else ""
    return f"guarding {name_of(i)}, until {date} or {dollars(cents)}{state}" + (
        f"; NOT SEEN: {s.unseen}" if s.unseen else ""
    )


# ------------------------------------------------------------------ what is known of a machine
def knowledge(
    there: RunSearch, ledger: Ledger, owner: str | None, info: Callable[[str], Instance]
) -> Callable[[Instance], InstanceFacts | None]:
    """A function that looks up the limits, the plan and the receipt of `owner`'s machines; with None of everybody's that name a
    run. `info` is the account's: a listing does not tell the provider's limits."""

    def look(i: Instance) -> InstanceFacts | None:
        if owner and i.owner not in (None, owner):
            return None
        plan, unseen = _plan(there, ledger, i)
        if (
            owner and i.owner is None and (plan is None or plan.owner != owner)
        ):  # tags may be lost: then the plan has to say it
            return None
        try:
            i = info(i.id)
        except NanolanError as e:
            unseen = f"the provider's limits ({e})"
        receipt, why = _receipt(there, plan) if plan else (None, "")
        return InstanceFacts(i, plan, receipt, unseen or why)

    return look


def _plan(there: RunSearch, ledger: Ledger, i: Instance) -> tuple[Plan | None, str]:
    """The plan of a machine, by the ledger if that knows it, else by its run folder; or why there is none."""
    run_id = i.run_id or ""
    known = next(
        (
            e.plan
            for e in ledger.readable()[0]
            if e.plan.run_id == run_id and e.plan.attempt == i.attempt
        ),
        None,
    )
    if known:
        return known, ""
    try:
        plan = rebuild(there, run_id, [i]).plan
    except NanolanError as e:
        return None, f"its plan ({e}); the provider's limits count"
    if plan.attempt != i.attempt:
        return (
            None,
            f"its plan, only that of attempt {plan.attempt} (this is {i.attempt}); the provider's limits count",
        )
    return plan, ""


def _receipt(there: RunSearch, plan: Plan) -> tuple[Receipt | None, str]:
    """What the machine of this plan left at its end, if it did; or why that cannot be said."""
    try:
        if there.hub is None or there.hub.endpoint != plan.hf_endpoint:
            raise UsageProblem(f"HF_ENDPOINT is not {plan.hf_endpoint}")
        receipt = read_receipt(there.hub.read(plan.runs_repo, f"{plan.folder}/receipt.json"))
    except NotFound:
        return None, ""
    except (NanolanError, RecursionError) as e:
        return None, f"whether its run is over ({e or type(e).__name__})"
    return (
        receipt if (receipt.run_id, receipt.attempt) == (plan.run_id, plan.attempt) else None
    ), ""


def note_in(ledger: Ledger, say: Callable[[str], object]) -> Callable[[InstanceFacts, str], None]:
    """What writes a deletion into the ledger, if that knows the run."""

    def note(s: InstanceFacts, why: str) -> None:
        run_id = s.instance.run_id or ""
        entry = next(
            (
                e
                for e in ledger.readable()[0]
                if e.plan.run_id == run_id and e.plan.attempt == s.instance.attempt
            ),
            None,
        )
        if entry:
            ledger.note(
                structs.replace(
                    entry,
                    instance_id=s.instance.id,
                    gone=True,
                    spent_cents=s.instance.cost_now_cents(),
                    note=f"deleted by just guard: {why}",
                    receipt=s.receipt or entry.receipt,
                ),
                say,
            )

    return note
