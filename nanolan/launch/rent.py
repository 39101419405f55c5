"""Renting a prepared run: upload the run folder, write the intent to the ledger, create, read back."""

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
    OutOfStock,
    PreflightFailed,
)
from nanolan.hub.client import Hub
from nanolan.launch.create import create, last_look, stopped
from nanolan.launch.prepare import Prepared
from nanolan.launch.request import box_secrets, create_body, limits, startup_script
from nanolan.money import dollars
from nanolan.run.ledger import Attempt, Entry, Ledger
from nanolan.settings.settings import Settings
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import check_rented, goes_on
from nanolan.shadeform.models import Instance
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.ssh_key import key_on_account, own_key
from nanolan.times import now_utc, parse_time

STALE_S = 15 * 60  # a plan older than this is not rented: its prices and deadline are out of date
LEFTOVERS = (
    "receipt.json",
    "progress.json",
    "stop.json",
    "limit.json",
    "postmortem.json",
)  # of an earlier attempt

No = TypeVar("No", bound=NanolanError)


def rent(
    p: Prepared,
    s: Settings,
    api: Shadeform,
    hub: Hub,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    earlier: tuple[Attempt, ...] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Instance:
    """Upload the run folder, note the intent, create, read back; the id is said and written before any further call.

    `earlier` are the run's attempts so far, if it goes on: what their machines left in the run folder is removed.
    OutOfStock and MachineFailed: nothing is rented, for sure.
    """
    plan = p.plan
    age_s = (now_utc() - parse_time(plan.created_at)).total_seconds()
    if age_s > STALE_S:  # a prompt left open: the deadline in the plan has gone on all the while
        raise PreflightFailed(
            f"the checks and the price are {age_s / 60:.0f} minutes old; nothing was rented. Launch again"
        )
    key_id = key_on_account(api, own_key(s.ssh_public_key)) if s.ssh_public_key else None
    files: dict[str, bytes | Path] = {f"{plan.folder}/plan.json": plan.to_json()}
    if p.bundle:
        files[f"{plan.folder}/code.bundle"] = p.bundle
    if earlier:
        files[f"{plan.folder}/earlier.json"] = msgspec.json.encode(earlier)
    revision = hub.commit(
        plan.runs_repo,
        files,
        f"run {plan.run_id}: plan and code",
        delete=[f"{plan.folder}/{name}" for name in LEFTOVERS] if earlier else (),
    )
    body = create_body(plan, startup_script(plan, box_secrets(s), revision), key_id)
    say(
        f"run {plan.run_id}: plan and code are in {plan.runs_repo}/{plan.folder}; creating {plan.instance_name}"
    )
    with ledger.creating(plan.run_id):
        last_look(api, ledger, plan, say)
        entry, interrupted = create(api, body, Entry(plan, earlier=earlier), ledger, say)
    instance_id = entry.instance_id or ""
    say(f"instance {instance_id} ({dollars(plan.offer.hourly_cents)}/h)")
    try:
        if interrupted:
            raise KeyboardInterrupt
        return check_rented(api, instance_id, plan, limits(plan), say=say, clock=clock)
    except MachineFailed as e:  # it was deleted, and seen to be
        ledger.note(structs.replace(entry, gone=True, note=str(e), spent_cents=e.spent_cents), say)
        raise
    except KeyboardInterrupt as e:
        if not str(e):  # else it was being deleted
            say(f"Ctrl-C or SIGTERM: {goes_on(instance_id, plan)}")
        raise
    except (ApiProblem, AuthProblem) as e:
        if isinstance(e, NotFound) and ledger.stop_asked(plan.run_id):
            raise stopped(plan) from None
        raise MayBeBilling(
            f"the instance could not be read back ({e}); {goes_on(instance_id, plan)}"
        ) from None


def next_offer_hint(
    e: No,
    offer: Offer,
    offers: Iterable[Offer],
    words: Iterable[str] = (),
    why: str = "",
    command: str = "just launch",
) -> No:
    """The definite no with the next offer to try; `words` are the other settings of this launch, as they were typed,
    `why` says what keeps it from being tried without them."""
    o = next((o for o in offers if o != offer), None)
    what = f"{offer.where} {e}" if isinstance(e, OutOfStock) else str(e)
    if o is None:
        return type(e)(f"{what}. {why and why + '. '}Try: just offers --all-configs")
    place = (f"cloud={o.cloud}", f"region={o.region}", f"instance-type={o.instance_type}")
    return type(e)(
        f"{what}. Next: {o.where} for {dollars(o.hourly_cents)}/h{why and f' ({why})'}: "
        f"{command} {shlex.join([*words, *place])}"
    )
