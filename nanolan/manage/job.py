"""`just stop` and `just limit` of a run whose machines SkyPilot or Hugging Face rents: by the request files in its run folder.

nanolan cannot end such a machine. Where a request does not do, the command that does is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from nanolan.errors import MayBeBilling, NanolanError, UsageProblem
from nanolan.hub.client import Hub
from nanolan.manage.limit import request_of, with_limit
from nanolan.manage.stop_request import LOOK_EVERY_S, ask_to_stop
from nanolan.money import dollars
from nanolan.run.jobs import NAMES, cancel_command, job_name, queue_command
from nanolan.run.ledger import STOPPED_BY_USER, Entry, Ledger
from nanolan.run.presence import name_of
from nanolan.run.record import UNKNOWN
from nanolan.shadeform.client import Shadeform
from nanolan.status.status import look
from nanolan.status.text import render_run
from nanolan.status.view import RunView
from nanolan.times import now_utc

if TYPE_CHECKING:
    from nanolan.cli.run import Account


@dataclass(frozen=True)
class ManagedJob:
    """One run of a job. `say` takes progress, `show` the result; `agree` raises UsageProblem unless the user agrees."""

    ledger: Ledger
    api: Shadeform
    entry: Entry
    hub: Hub
    say: Callable[[str], None]
    show: Callable[[str], None]
    agree: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    @classmethod
    def of(
        cls,
        account: Account,
        entry: Entry,
        show: Callable[[str], None],
        agree: Callable[[str], None],
    ) -> ManagedJob:
        """A run of this laptop."""
        from nanolan.cli.run import say

        account.settings.need("hf_token")
        return cls(account.ledger, account.api, entry, account.hub(entry), say, show, agree)

    @property
    def name(self) -> str:
        plan = self.entry.plan
        return f"run {plan.run_id} (job {job_name(plan)} of {NAMES[plan.platform]})"

    def look(self) -> RunView:
        """Its state now; a failed read raises."""
        seen = look(self.ledger, [self.entry], self.api, lambda _: self.hub)
        view = seen.runs[0]
        if view.problems:
            raise MayBeBilling(f"{view.problems[0]}. It may bill: {name_of(self.entry)}")
        return view


def stop_job(job: ManagedJob, *, now: bool, cancelled: bool, timeout_s: float) -> int:
    """Stop the run of a job; the exit code."""
    view = job.look()
    plan = view.entry.plan
    if view.receipt:
        ended = f"{view.state} {view.reason}".rstrip()
        job.show(f"{job.name} is over ({ended}); nothing to stop")
        return 0
    if cancelled:
        return _record(job, view)
    if now:
        raise MayBeBilling(
            f"nanolan cannot end a machine of {NAMES[plan.platform]}; nothing was done. {_by_hand(view.entry)}"
        )
    job.agree(f"Stop {job.name}? It saves what it has, uploads it, and its job ends.")
    try:
        ask_to_stop(job.hub, plan)
    except NanolanError as e:
        raise MayBeBilling(
            f"{job.name} could not be asked to stop ({e}). {_by_hand(view.entry)}"
        ) from None
    if view.progress is None or view.state == UNKNOWN:
        text = (
            f"{job.name} does not report now. It is asked to stop: a machine that comes up ends at once. Whether its job waits "
            f"or runs: {queue_command(plan)}. {_by_hand(view.entry)}"
        )
        if view.state == UNKNOWN:
            raise MayBeBilling(text)
        job.say(text)
        return 0
    job.say(f"{job.name} is asked to stop; it checks once a minute. Ctrl-C only stops waiting.")
    return _wait(job, timeout_s)


def _by_hand(entry: Entry) -> str:
    command = cancel_command(entry.plan, entry.instance_id)
    return f"At once: {command}; then: just stop {entry.plan.run_id} --cancelled"


def _wait(job: ManagedJob, timeout_s: float) -> int:
    """Wait for the receipt; MayBeBilling if there is none in time. A look that fails is shown, and the next one follows."""
    end, said = job.clock() + timeout_s, ""
    while True:
        try:
            view = job.look()
            if view.receipt:
                job.show("\n".join(render_run(view)))
                return 0
            spent = dollars(view.spent_cents)
            stage = f"{f'{view.state}: {view.reason}'.rstrip(': ')} ({spent} spent)"
        except MayBeBilling as e:
            stage = str(e)
        if stage != said:
            job.say(f"  {stage}")
            said = stage
        if job.clock() >= end:
            late = f"{job.name} has not ended within {timeout_s / 60:.0f} minutes ({stage})"
            raise MayBeBilling(f"{late}. {_by_hand(job.entry)}")
        job.sleep(min(LOOK_EVERY_S, max(0.0, end - job.clock())))


def _record(job: ManagedJob, view: RunView) -> int:
    """Record that the user has cancelled the job. A request to stop is left for a machine that comes up all the same."""
    plan = view.entry.plan
    command = cancel_command(plan, view.entry.instance_id)
    job.agree(
        f"Have you cancelled {job.name} ({command}), and is its machine gone? nanolan cannot see that."
    )
    ask_to_stop(job.hub, plan)
    spent = view.spent_cents
    ended = structs.replace(view.entry, gone=True, note=STOPPED_BY_USER, spent_cents=spent)
    job.ledger.put(ended)
    job.show(f"{job.name} is recorded as cancelled; only {NAMES[plan.platform]} knows its bill")
    return 0


def limit_job(job: ManagedJob, limit_cents: int, max_duration_s: int | None) -> int:
    """Let the newest machine of a job cost so much, from its start on; the ones after it get the rest."""
    view = job.look()
    old = view.entry.plan
    usd = f"spend-limit={limit_cents // 100}"
    if view.receipt:
        raise UsageProblem(f"{job.name} is over. To continue it: just resume {old.run_id} {usd}")
    if view.progress is None:
        raise UsageProblem(
            f"{job.name} has no machine that reports yet; nothing was changed. Export again with {usd}"
        )
    plan = with_limit(old, limit_cents, max_duration_s, view.spent_cents, now_utc())
    limit = dollars(plan.limit_cents)
    job.agree(
        f"Let this machine of run {plan.run_id} cost up to {limit} instead of {dollars(old.limit_cents)}, until "
        f"{plan.deadline}? Only nanolan on the machine enforces it."
    )
    job.hub.commit(plan.runs_repo, request_of(plan), f"run {plan.run_id}: limit {limit}")
    job.ledger.note(structs.replace(view.entry, plan=plan), job.say)
    job.show(f"run {plan.run_id}: limit {limit}, deadline {plan.deadline}; its machine is told")
    return 0
