"""`just stop`: ask the box to save and delete itself, or delete its instance at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from msgspec import structs

from nanolan.cost.overdue import InstanceFacts, overdue
from nanolan.cost.spending import newest_cents
from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    LedgerProblem,
    MayBeBilling,
    NanolanError,
    UsageProblem,
)
from nanolan.hub.client import Hub
from nanolan.manage.stop_request import (
    ask_to_stop,
    still_billing_error,
    stop_launch,
    wait_until_gone,
    why_not_listening,
)
from nanolan.manage.stop_target import candidates, find_target
from nanolan.money import dollars
from nanolan.net.deadline import with_timeout
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.run.ledger import STOPPED_BY_USER, Entry, Ledger
from nanolan.run.presence import Presence, billing_error, unknown_text
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import delete_and_confirm
from nanolan.shadeform.models import Instance
from nanolan.status.status import look
from nanolan.status.text import render_run
from nanolan.status.view import Overview, RunView
from nanolan.times import SERVICE_CLOCK, now_utc

MARK_S = 8.0  # for the mark on the Hub, before a deletion at once


def has_rented_nothing(entry: Entry) -> bool:
    """Whether a run waits for an offer, or did, and never had an instance: then nobody need be asked."""
    return entry.waiting is not None and not any(a.instance_id for a in entry.earlier)


@dataclass(frozen=True)
class Stop:
    """One `just stop`: finds the run's instances and ends when their deletion is confirmed.

    `say` takes progress, `show` the result; `agree` raises UsageProblem unless the user agrees to its question. `hub` makes a
    client from address and token; it, `clock` and `sleep` can be passed in.
    """

    ledger: Ledger
    api: Shadeform
    settings: Settings
    say: Callable[[str], None]
    show: Callable[[str], None]
    agree: Callable[[str], None]
    hub: Callable[[str, Secret], Hub] = Hub
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def run(self, which: str | None, owner: str | None, now: bool, timeout_s: float) -> int:
        """Stop the run that `which` names (None: the newest) and return the exit code; `now` does not wait for it to save."""
        try:
            return self._stop(which, owner, now, timeout_s)
        except (ApiProblem, AuthProblem) as e:
            raise billing_error(e, candidates(self.ledger, which)) from None

    def _stop(self, which: str | None, owner: str | None, now: bool, timeout_s: float) -> int:
        known = candidates(self.ledger, which)
        launching = len(known) == 1 and self.ledger.is_launching(known[0].plan.run_id)
        if launching:  # between two attempts there is no instance to stop
            run_id = known[0].plan.run_id
            self.agree(
                f"Stop run {run_id}? Its launch is still running; it will rent no other instance."
            )
            stop_launch(self.ledger, run_id, self.say, clock=self.clock, sleep=self.sleep)
            known = [self.ledger.find(run_id)]
            self = replace(self, agree=lambda question: None)
        if len(known) == 1 and has_rented_nothing(known[0]):  # no create is in progress
            more = "it no longer waits for an offer" if launching else "nothing to stop"
            self.show(f"run {known[0].plan.run_id} has rented nothing; {more}")
            return 0
        entry, present = find_target(self.ledger, self.api, self.settings, which, owner, self.say)
        instances = list(present.billing or present.machines[:1])
        if entry and not instances:
            return self._stop_without_instance(entry, present, launching)
        if now or entry is None:
            return self.delete(entry, instances)
        self._refuse_several(entry, instances[0])
        return self._ask_and_wait(entry, instances, timeout_s)

    def _stop_without_instance(self, entry: Entry, present: Presence, launching: bool) -> int:
        """A run without a visible instance: 0 if there is none, MayBeBilling if that is unknown."""
        run_id, token = entry.plan.run_id, self.settings.hf_token
        hub = self.hub(entry.plan.hf_endpoint, token) if token else None
        view = self._look(entry, hub).runs[0] if hub else None
        unknown = (view.unknown if view else "") or present.unknown
        over = unknown and view and view.ended  # by its receipt
        with suppress(LedgerProblem):  # also stops a resume that waits at its prompt
            self.ledger.ask_to_stop(run_id)
        left, asked = self._leave_request(entry, hub)  # a resume may wait for an offer elsewhere
        if unknown and not over:
            raise MayBeBilling(
                f"run {run_id}: {unknown_text(entry, unknown)}; {asked}. Look again: just status {run_id}"
            )
        if not left:
            self._warn_of_others(entry, asked, bool(over))
        self.show(
            f"run {run_id} has no instance now; its launch was notified and rents no other"
            if launching
            else f"run {run_id} has no instance on this account (any more); nothing to stop"
        )
        return 0

    def _leave_request(self, entry: Entry, hub: Hub | None) -> tuple[bool, str]:
        """(whether a request to stop is in the run folder, for a box that comes up late and for a launch on another laptop; what
        that means)."""
        if not hub:
            return False, "without HF_TOKEN no request to stop can be left for it"
        try:
            ask_to_stop(hub, entry.plan)
        except NanolanError as e:
            return False, f"no request to stop could be left for it ({e})"
        return True, "if it comes up, it finds the request to stop and ends by itself"

    def _warn_of_others(self, entry: Entry, why: str, over: bool) -> None:
        """Say that another laptop may rent for the run; MayBeBilling for a spot run, which a guard takes up by itself."""
        run_id = entry.plan.run_id
        text = (
            f"run {run_id} has no instance now, but {why}: a launch, resume or guard on another machine may rent one. "
            f"End those, or try again: just stop {run_id}"
        )
        if entry.plan.offer.spot and entry.receipt is None and not over:
            raise MayBeBilling(text)
        self.say(text)

    def _refuse_several(self, entry: Entry, instance: Instance) -> None:
        """UsageProblem when several instances of the run bill: each of them reads the request."""
        run_id = entry.plan.run_id
        if sum(i.is_run(run_id) and i.billing for i in self.api.instances()) > 1:
            raise UsageProblem(
                f"run {run_id} has several instances, and all would stop: just stop {instance.id} --now deletes this "
                f"one, just stop {run_id} --now all of them; nothing was stopped"
            )

    def _ask_and_wait(self, entry: Entry, instances: list[Instance], timeout_s: float) -> int:
        """Ask the box to save and delete itself, and wait for that; Ctrl-C only stops waiting."""
        plan = entry.plan
        hub, view = self._require_listening(entry, instances[0])
        self.agree(
            f"Stop run {plan.run_id} ({instances[0].name})? It saves what it has, uploads it and "
            f"{'deletes itself' if plan.self_delete else 'is then deleted'}."
        )
        self._refuse_newer(entry)
        try:
            ask_to_stop(hub, plan)
        except NanolanError as e:
            raise still_billing_error(view, f"the box could not be asked to stop ({e})") from None
        # a launch that waits for this instance must not rent another one
        self.ledger.note(structs.replace(entry, note=STOPPED_BY_USER), self.say)
        when = (
            "it checks about once a minute"
            if view.progress
            else "it has not reported yet and finds the request when it comes up; to delete it at once: "
            f"just stop {plan.run_id} --now"
        )
        self.say(f"run {plan.run_id} is asked to stop; {when}. Ctrl-C only stops waiting.")

        over = False

        def look_and_delete() -> Overview:
            nonlocal over
            overview = self._look(self.ledger.newest(entry), hub)
            over = self._delete_if_over(overview.runs[0], over)
            return overview

        try:
            view = wait_until_gone(
                look_and_delete, self.say, timeout_s=timeout_s, clock=self.clock, sleep=self.sleep
            )
        except KeyboardInterrupt as e:
            if str(e):  # during a deletion
                raise
            self.say(
                f"\nno longer waiting; run {plan.run_id} continues to stop by itself. Check: just status {plan.run_id}; "
                f"delete it at once: just stop {plan.run_id} --now"
            )
            return 130
        # without a receipt: its price for its whole life, which is the most that it can have cost
        least = view.spent_cents if view.receipt else instances[0].cost_now_cents()
        deleted = structs.replace(
            entry,
            instance_id=instances[0].id,
            gone=True,
            note=STOPPED_BY_USER,
            receipt=view.receipt,
            spent_cents=least,
        )
        view = replace(view, entry=deleted, spent_cents=newest_cents(deleted, view.receipt))
        self.ledger.note(deleted, self.say)
        self.show("\n".join(render_run(view)))
        if view.receipt is None:
            self.say("it left no receipt: what was not yet on the Hub is lost")
        return 0

    def _refuse_newer(self, entry: Entry) -> None:
        """MayBeBilling if the run has another attempt than the one that the user was asked about."""
        plan = self.ledger.newest(entry).plan
        if plan.attempt != entry.plan.attempt:
            raise MayBeBilling(
                f"run {plan.run_id} went on as attempt {plan.attempt} while you were asked; nothing was stopped. "
                f"It may bill: just stop {plan.run_id}"
            )

    def _require_listening(self, entry: Entry, instance: Instance) -> tuple[Hub, RunView]:
        """The run's Hub and state; MayBeBilling when its box would not read a request."""
        if self.settings.hf_token is None:
            raise still_billing_error(
                RunView(entry, "", instance=instance),
                "without HF_TOKEN the box cannot be asked to stop",
            )
        hub = self.hub(entry.plan.hf_endpoint, self.settings.hf_token)
        view = self._look(entry, hub).runs[0]
        if why := why_not_listening(view, now_utc()):
            raise still_billing_error(
                view, f"run {entry.plan.run_id} cannot be asked to stop: {why}"
            )
        return hub, view

    def _look(self, entry: Entry, hub: Hub) -> Overview:
        return look(self.ledger, [entry], self.api, lambda _: hub)

    def _delete_if_over(self, view: RunView, before: bool) -> bool:
        """Delete an instance without a key, which cannot delete itself, a minute after its receipt. Returns whether it is over: one
        look that says so deletes nothing, unless the look before it did, too."""
        plan, instance, now = view.entry.plan, view.instance, SERVICE_CLOCK.agreed()
        if not now or not instance or plan.self_delete:
            return False
        why = overdue(InstanceFacts(instance, plan, view.receipt), now)
        if why and before:
            self.say(f"  {why}: deleting its instance")
            delete_and_confirm(self.api, instance, clock=self.clock)
            self.ledger.note(structs.replace(view.entry, gone=True), self.say)
        return bool(why)

    def _forbid_take_over(self, plan: Plan) -> None:
        """Leave the marks that keep a launch or a guard, here and elsewhere, from taking the run up; in seconds, best effort."""
        with suppress(LedgerProblem):
            self.ledger.ask_to_stop(plan.run_id)
        token = self.settings.hf_token
        try:
            if token is None:
                raise UsageProblem("HF_TOKEN is not set")
            hub = self.hub(plan.hf_endpoint, token)
            with_timeout(MARK_S, lambda: ask_to_stop(hub, plan))
        except (NanolanError, TimeoutError) as e:
            self.say(
                f"no request to stop could be left on the Hub ({e}): a launch or guard on another machine may rent another "
                f"instance for run {plan.run_id}. End those first"
            )

    def delete(self, entry: Entry | None, instances: list[Instance]) -> int:
        """Delete the instances at once, polling each until it is gone. MayBeBilling if the run has a newer one then."""
        asked_about = entry
        for instance in instances:
            self.agree(
                f"Delete {instance.name} ({instance.id}, {dollars(instance.hourly_cents)}/h)? What is not on the Hub yet is lost."
            )
            entry = self.ledger.newest(entry) if entry else None
            newest = (
                entry
                and instance.attempt == entry.plan.attempt
                and (entry.instance_id in (None, instance.id) or len(instances) > 1)
            )
            if entry and newest:  # not for a second instance alone
                self._forbid_take_over(entry.plan)
                # recorded first: a launch that waits for it must not rent another
                entry = structs.replace(entry, instance_id=instance.id, note=STOPPED_BY_USER)
                self.ledger.note(entry, self.say)
            gone = delete_and_confirm(self.api, instance, clock=self.clock)
            cents = instance.cost_now_cents()
            if entry and newest:
                deleted = structs.replace(entry, gone=True, spent_cents=cents)
                cents = newest_cents(deleted)
                self.ledger.note(structs.replace(deleted, spent_cents=cents), self.say)
            self.show(
                f"{instance.name} ({instance.id}) is gone: {gone.seen}. It cost about {dollars(cents)}"
            )
        if asked_about:
            self._refuse_later_instance(asked_about)
        return 0

    def _refuse_later_instance(self, entry: Entry) -> None:
        """MayBeBilling if an instance of a later attempt bills: a launch has rented it while the user was asked."""
        run_id, attempt = entry.plan.run_id, entry.plan.attempt
        try:
            listed = self.api.instances()
        except (ApiProblem, AuthProblem) as e:
            self.say(
                f"whether run {run_id} has another instance is unknown ({e}): just status {run_id}"
            )
            return
        for i in listed:
            if i.is_run(run_id) and i.billing and i.attempt > attempt:
                raise MayBeBilling(
                    f"run {run_id} went on meanwhile: {i.name} ({i.id}, {dollars(i.hourly_cents)}/h) bills. "
                    f"Delete it, too: just stop {run_id} --now"
                )
