"""Creating a run's machine: a last look, the intent in the ledger, the create, its id. One launch of this laptop at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import structs

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    MayBeBilling,
    NanolanError,
    PreflightFailed,
    RunFailed,
)
from nanolan.launch.preflight import check_outputs
from nanolan.launch.request import output_tags
from nanolan.plan import Plan
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, Entry, Ledger
from nanolan.run.presence import name_of, presence
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.lifecycle import create_once
from nanolan.times import now_utc


def create(
    api: Shadeform, body: dict[str, Any], entry: Entry, ledger: Ledger, say: Callable[[str], None]
) -> tuple[Entry, bool]:
    """(the entry with its instance, whether Ctrl-C came). The ledger has the intent first, or nothing is rented."""
    ledger.put(entry)
    try:
        instance_id, interrupted = create_once(api, body, entry.plan, say=say)
    except MayBeBilling:  # the entry stays as it is: nobody knows
        raise
    except NanolanError as e:
        ledger.note(structs.replace(entry, gone=True, note=f"{REFUSED}: {e}"), say)
        raise
    entry = structs.replace(entry, instance_id=instance_id)
    ledger.note(entry, say)
    return entry, interrupted


def stopped(plan: Plan) -> RunFailed:
    """The end of a launch that somebody stopped from elsewhere."""
    return RunFailed(
        f"run {plan.run_id} was {STOPPED_BY_USER}; nothing of it bills, and no machine was rented after that"
    )


def last_look(api: Shadeform, ledger: Ledger, plan: Plan, say: Callable[[str], None]) -> None:
    """Right before a create, which nobody else on this laptop sends meanwhile: the run was not stopped, and no other run writes
    its folders, be it listed or not."""
    if ledger.stop_asked(plan.run_id):
        for entry in (
            e for e in ledger.readable()[0] if e.plan.run_id == plan.run_id
        ):  # of the attempt before
            ledger.note(structs.replace(entry, note=STOPPED_BY_USER), say)
        raise stopped(plan)
    try:
        listed = api.instances()
    except (ApiProblem, AuthProblem) as e:
        raise PreflightFailed(
            f"whether another run writes the same folder cannot be seen ({e}); nothing was rented"
        ) from None
    check = check_outputs(listed, output_tags(plan))
    if check.ok is False:
        raise PreflightFailed(f"{check.text}; nothing was rented")
    for other in ledger.readable()[0]:
        same = (
            "" if other.gone or other.plan.run_id == plan.run_id else _same_folder(other.plan, plan)
        )
        if same and not presence(api.info, other, listed, now_utc()).gone:
            raise PreflightFailed(
                f"{same} may be written by run {other.plan.run_id}: {name_of(other)}. Wait, stop it, or use "
                "another folder: output-tag=NAME; nothing was rented"
            )


def _same_folder(one: Plan, other: Plan) -> str:
    """A folder on the Hub that both write, or ""."""
    if one.hf_endpoint != other.hf_endpoint:
        return ""
    theirs = {t.lower() for t in output_tags(one)}
    return next((t.partition("=")[2] for t in output_tags(other) if t.lower() in theirs), "")
