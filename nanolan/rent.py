"""Renting without losing a machine: create once, find it again, delete until it is seen to be gone."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanolan.errors import ApiProblem, AuthProblem, MayBeBilling, NotFound, UnclearAnswer
from nanolan.instance import Instance
from nanolan.money import dollars
from nanolan.shadeform import DASHBOARD, Shadeform

ADOPT_LOOKS, ADOPT_WAIT_S = 6, 10.0     # a listing may lag a minute behind a create
DELETE_RETRY_S, DELETE_GIVE_UP_S = 5.0, 15 * 60.0


@dataclass(frozen=True)
class Gone:
    """Proof of deletion: how it was seen that the instance no longer bills."""

    id: str
    seen: str


def create_once(api: Shadeform, body: dict[str, Any], run_id: str) -> str:
    """Create an instance, never two: after an unclear answer (or Ctrl-C) look for the run id and adopt it."""
    try:
        return api.create(body)
    except (UnclearAnswer, KeyboardInterrupt) as e:
        why = "Ctrl-C" if isinstance(e, KeyboardInterrupt) else str(e)
        found = find_run(api, run_id)
        if found:
            return found.id
        raise MayBeBilling(
            f"UNKNOWN: an instance named {body['name']} at {body['cloud']}/{body['region']} may exist ({why}), though "
            f"{ADOPT_LOOKS} looks did not show it; if it does, it deletes itself at "
            f"${body['auto_delete']['spend_threshold']}. Look: just status; stop it: just stop {run_id}; "
            f"or by hand: {DASHBOARD}") from None


def find_run(api: Shadeform, run_id: str, looks: int = ADOPT_LOOKS) -> Instance | None:
    """The instance of a run, looked for `looks` times; a failed last look is never "there is none"."""
    failed: Exception | None = None
    for look in range(looks):
        if look:
            api.sleep(ADOPT_WAIT_S)
        try:
            failed = None
            found = [i for i in api.instances() if i.is_run(run_id)]
            if found:
                return min(found, key=lambda i: (not i.billing, str(i.created_at)))
        except ApiProblem as e:
            failed = e
    if failed:
        raise MayBeBilling(f"UNKNOWN: could not see whether an instance of run {run_id} exists ({failed}). "
                           f"Look: just status; stop it: just stop {run_id}; or by hand: {DASHBOARD}")
    return None


def delete_and_confirm(api: Shadeform, instance: Instance, *, give_up_s: float = DELETE_GIVE_UP_S,
                       clock: Callable[[], float] = time.monotonic) -> Gone:
    """Delete until it is *seen* to be gone; `instance` was seen, so a 404 and an empty listing together count."""
    end = clock() + give_up_s
    while True:
        problem = _ask_to_delete(api, instance.id)
        seen, state = _look(api, instance.id)
        if seen:
            return Gone(instance.id, seen)
        if clock() >= end:
            raise MayBeBilling(
                f"instance {instance.id} ({dollars(instance.hourly_cents)}/h) could not be deleted: {problem or state}. "
                f"It may still bill. Stop it: just stop {instance.id}; or by hand: {DASHBOARD}")
        api.sleep(DELETE_RETRY_S)


def _ask_to_delete(api: Shadeform, instance_id: str) -> str:
    """"" when the delete was taken (or the instance is gone), else what went wrong; safe to repeat."""
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
            return ("", f"it is still {now.status}") if now.billing else (f"status {now.status}", "")
        except NotFound:
            listed = [i for i in api.instances() if i.id == instance_id and i.billing]
            return ("", f"it is still listed as {listed[0].status}") if listed else ("no longer listed", "")
    except (ApiProblem, AuthProblem) as e:
        return "", str(e)
