"""Rents a prepared run: uploads the run folder, writes the intent to the ledger, creates the instance, reads it back."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    NotFound,
    NotRented,
    OutOfStock,
    PreflightFailed,
)
from nanolan.hub.client import Hub
from nanolan.launch.claim import commit_claimed, stopped_error
from nanolan.launch.create import check_before_create, create, pass_stop_on
from nanolan.launch.prepare import Prepared
from nanolan.launch.request import box_secrets, create_body, provider_limits, startup_script
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.ledger import Attempt, Entry, Ledger
from nanolan.run.requests import LIMIT_FILE, STOP_FILE
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import check_rented, still_runs
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.ssh_key import load_own_key, upload_own_key
from nanolan.times import now_utc, parse_time
from nanolan.trainers.fork_job import FORK_BUNDLE

STALE_S = 15 * 60  # an older plan is not rented
LEFTOVERS = (
    "receipt.json",
    "progress.json",
    STOP_FILE,
    LIMIT_FILE,
    "postmortem.json",
)  # of an earlier attempt

Rejection = TypeVar("Rejection", bound=NanolanError)


def rent(
    prepared: Prepared,
    settings: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    earlier: tuple[Attempt, ...] = (),
    first_attempt: int | None = None,
    stops_seen: str | None = None,
    clock: Callable[[], float] = time.monotonic,
    may_create: Callable[[Plan], None] = lambda plan: None,
) -> Instance:
    """Upload the run folder, note the intent, create, read back; the id is shown and stored before any further call.

    `earlier` are the run's earlier attempts: their files in the run folder are removed. A request to stop stays if it may
    be for this launch, whose attempts are those from `first_attempt` on (None: this is the first one); so does one that
    came after the one marked `stops_seen` (None: whichever is there is old).
    OutOfStock, NotRented, CheckUnavailable and MachineFailed guarantee that nothing is rented. `may_create` raises when
    it is too late; it is called last before the create.
    """
    plan = prepared.plan
    first = first_attempt or plan.attempt
    _refuse_stale(plan)
    key_id, revision = _upload(
        prepared, settings, api, hub, ledger.owner, earlier, first, stops_seen
    )
    body = create_body(plan, startup_script(plan, box_secrets(settings), revision), key_id)
    say(
        f"run {plan.run_id}: plan and code are in {plan.runs_repo}/{plan.folder}; creating {plan.instance_name}"
    )
    with ledger.creating(plan.run_id):
        check_before_create(api, hub, ledger, plan, first, say)
        may_create(plan)
        entry, interrupted = create(api, body, Entry(plan, earlier=earlier), ledger, say)
    instance_id = entry.instance_id or ""
    say(f"instance {instance_id} ({dollars(plan.offer.hourly_cents)}/h)")
    try:
        if interrupted:
            raise KeyboardInterrupt
        now = check_rented(api, instance_id, plan, provider_limits(plan), say=say, clock=clock)
        if first < plan.attempt:
            pass_stop_on(hub, plan, first)
        return now
    except MachineFailed as e:  # confirmed deleted
        ledger.note(structs.replace(entry, gone=True, note=str(e), spent_cents=e.spent_cents), say)
        raise
    except KeyboardInterrupt as e:
        if not str(e):  # a text means that it was being deleted
            say(f"Ctrl-C or SIGTERM: {still_runs(instance_id, plan)}")
        raise
    except (ApiProblem, AuthProblem) as e:
        if isinstance(e, NotFound) and ledger.stop_asked(plan.run_id):
            raise stopped_error(plan) from None
        raise MayBeBilling(
            f"the instance could not be read back ({e}); {still_runs(instance_id, plan)}"
        ) from None


def _upload(
    prepared: Prepared,
    settings: Settings,
    api: Shadeform,
    hub: Hub,
    ledger_id: str,
    earlier: tuple[Attempt, ...],
    first: int,
    stops_seen: str | None,
) -> tuple[str | None, str]:
    """(id of the user's SSH key at Shadeform, revision of the run folder on the Hub), both uploaded now."""
    plan, own = prepared.plan, settings.ssh_public_key
    leftovers = LEFTOVERS if first == plan.attempt else [n for n in LEFTOVERS if n != STOP_FILE]
    try:
        key_id = upload_own_key(api, load_own_key(own)) if own else None
        files = _run_folder(prepared, earlier)
        if not earlier:
            return key_id, hub.commit(plan.runs_repo, files, f"run {plan.run_id}: plan and code")
        stale = [f"{plan.folder}/{name}" for name in leftovers]
        seen = stops_seen if first == plan.attempt else None
        return key_id, commit_claimed(hub, plan, ledger_id, files, stale, seen)
    except ApiProblem as e:
        problem = NotRented(f"nothing was rented: {e}")
        problem.exit_code = e.exit_code
        raise problem from None


def _run_folder(prepared: Prepared, earlier: tuple[Attempt, ...]) -> dict[str, bytes | Path]:
    """The files that the box and other laptops read: plan, code and earlier attempts."""
    folder = prepared.plan.folder
    files: dict[str, bytes | Path] = {f"{folder}/plan.json": prepared.plan.to_json()}
    if prepared.bundle:
        files[f"{folder}/code.bundle"] = prepared.bundle
    if prepared.fork_bundle:
        files[f"{folder}/{FORK_BUNDLE}"] = prepared.fork_bundle
    if earlier:
        files[f"{folder}/earlier.json"] = msgspec.json.encode(earlier)
    return files


def _refuse_stale(plan: Plan) -> None:
    """PreflightFailed for an old plan: a prompt was left open, and prices and deadline are out of date."""
    age_s = (now_utc() - parse_time(plan.created_at)).total_seconds()
    if age_s > STALE_S:
        raise PreflightFailed(
            f"the checks and the price are {age_s / 60:.0f} minutes old; nothing was rented. Launch again"
        )


def with_next_offer(
    rejection: Rejection,
    offer: Offer,
    offers: Iterable[Offer],
    typed: Iterable[str] = (),
    why: str = "",
    command: str = "just launch",
) -> Rejection:
    """The rejection with the next offer to try as a command; `typed` are the other settings of this launch,
    `why` says why the offer is not tried automatically."""
    offers = tuple(offers)
    next_offer = next((next_offer for next_offer in offers if next_offer != offer), None)
    what = f"{offer.where} {rejection}" if isinstance(rejection, OutOfStock) else str(rejection)
    if next_offer is None:
        return type(rejection)(f"{what}. {why and why + '. '}Try: just offers --all-configs")
    kind = "only" if next_offer.spot else "no"
    place = (
        f"cloud={next_offer.cloud}",
        f"region={next_offer.region}",
        f"instance-type={next_offer.instance_type}",
        *([f"spot={kind}"] if any(o.spot for o in offers) else []),
    )
    return type(rejection)(
        f"{what}. Next: {next_offer.where} for {dollars(next_offer.hourly_cents)}/h{why and f' ({why})'}: "
        f"{command} {shlex.join([*typed, *place])}"
    )
