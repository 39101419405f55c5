"""The end of a machine: what it may be deleted for, and its deletion, by itself or by whoever holds a key."""
from __future__ import annotations

import os
import subprocess

from nanolan.errors import NanolanError
from nanolan.machine import Machine, say
from nanolan.plan import parse_time
from nanolan.proof import MoneyStop, NothingToSave, Proven, UserStop, Warrant
from nanolan.rent import delete_and_confirm
from nanolan.report import Receipt

RETRY_DELETE_S = 60.0


def warrant_of(m: Machine, receipt: Receipt) -> Warrant:
    """What this machine may be deleted for."""
    if m.unsaved:
        return MoneyStop(receipt.message, ", ".join(m.unsaved))
    if m.proofs:
        return Proven(tuple(m.proofs))
    return UserStop() if receipt.reason == "user" else NothingToSave(receipt.reason or receipt.verdict)


def delete(m: Machine, warrant: Warrant) -> None:
    """Delete this machine: for 15 minutes every few seconds, then slower; after the provider's own limit it is powered off."""
    say(f"deleting for {type(warrant).__name__}")
    while True:
        try:
            gone = delete_and_confirm(m.api, m.me, clock=m.tools.clock)
            say(f"deleted: {gone.seen}")
            return
        except NanolanError as e:
            say(f"{e}")
        if m.tools.now() > parse_time(m.meter.deadline):
            power_off()
        m.tools.sleep(RETRY_DELETE_S)


def wait_to_be_deleted(m: Machine, warrant: Warrant) -> None:
    """The end of a machine without a key: whoever holds one deletes it; after the provider's own limit it is powered off."""
    say(f"may be deleted ({type(warrant).__name__}). No Shadeform key is on this machine: it waits for just guard, or for the "
        f"provider at {m.meter.deadline}, and bills until then")
    while (left_s := (parse_time(m.meter.deadline) - m.tools.now()).total_seconds()) > 0:
        m.tools.sleep(min(RETRY_DELETE_S, left_s))
    power_off()


def power_off() -> None:
    """The last act: nobody says that it ends the bill, but nothing is computed any more, and the provider may notice."""
    say("it was not deleted and the provider's limit has passed: powering off. Look: https://platform.shadeform.ai/instances")
    if not os.environ.get("BOX_ROOT"):
        subprocess.run(["systemctl", "poweroff"], check=False)
