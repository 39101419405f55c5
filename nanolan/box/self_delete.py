"""The end of a machine: what it may be deleted for, and its deletion, by itself or by whoever holds a key."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from nanolan.box.context import BoxRun, say
from nanolan.box.upload.checkpoint import save_the_rest
from nanolan.hub.proof import MoneyStop, NothingToSave, Proven, UserStop, Warrant
from nanolan.run.record import SUCCEEDED, Receipt
from nanolan.shadeform.lifecycle import delete_and_confirm
from nanolan.times import parse_time

RETRY_DELETE_S = 60.0
POWER_OFF_S = 60.0


def warrant_of(box: BoxRun, receipt: Receipt) -> Warrant:
    """What this machine may be deleted for."""
    if box.unsaved:
        return MoneyStop(receipt.message, ", ".join(box.unsaved))
    if receipt.verdict == SUCCEEDED:
        return Proven(tuple(box.proofs))
    return (
        UserStop() if receipt.reason == "user" else NothingToSave(receipt.reason or receipt.verdict)
    )


def accepted(box: BoxRun, warrant: Warrant) -> Warrant:
    """The warrant, if it holds. One that says "all is proven" while a phase has no proof is refused: what is whole here is saved
    and proven first, within the limits; then the machine goes, with what is lost by its name. It never stays for that."""
    lacking = (
        [phase for phase in box.plan.phases if phase not in proven_phases(warrant)]
        if isinstance(warrant, Proven)
        else []
    )
    if not lacking:
        return warrant
    say(f"NOT deleting yet: no proof of {', '.join(lacking)}; saving what there is")
    try:
        save_the_rest(box, set(box.plan.phases) - set(lacking))
    except Exception as e:  # whatever it is, the machine must go
        say(f"that failed: {type(e).__name__}: {e}")
    return (
        MoneyStop("not everything was proven", ", ".join(box.unsaved))
        if box.unsaved
        else NothingToSave("not everything was proven")
    )


def proven_phases(warrant: Proven) -> set[str]:
    """The phases whose result it proves."""
    return {p.manifest.phase for p in warrant.proofs if p.manifest.final}


def delete(box: BoxRun, warrant: Warrant) -> None:
    """Delete this machine: for 15 minutes every few seconds, then slower; after the provider's own limit it is powered off."""
    say(f"deleting for {accepted(box, warrant)}")
    while True:
        try:
            gone = delete_and_confirm(box.api, box.me, clock=box.deps.clock)
            say(f"deleted: {gone.seen}")
            return
        except Exception as e:  # whatever was answered, the machine must go
            say(f"{type(e).__name__}: {e}")
        if box.deps.now() > parse_time(box.meter.deadline):
            power_off()
        box.deps.sleep(RETRY_DELETE_S)


def wait_to_be_deleted(box: BoxRun, warrant: Warrant) -> None:
    """The end of a machine without a key: whoever holds one deletes it; after the provider's own limit it is powered off."""
    say(
        f"may be deleted for {accepted(box, warrant)}. No Shadeform key is on this machine: it waits for just guard, or for the "
        f"provider at {box.meter.deadline}, and bills until then"
    )
    while (left_s := (parse_time(box.meter.deadline) - box.deps.now()).total_seconds()) > 0:
        box.deps.sleep(min(RETRY_DELETE_S, left_s))
    power_off()


def power_off() -> None:
    """The last act: nobody says that it ends the bill, but nothing is computed any more, and the provider may notice."""
    say(
        "it was not deleted and the provider's limit has passed: powering off. Look: https://platform.shadeform.ai/instances"
    )
    if os.environ.get("BOX_ROOT"):
        return
    try:
        subprocess.run(["systemctl", "poweroff"], check=True, timeout=POWER_OFF_S)
    except (
        OSError,
        MemoryError,
        subprocess.SubprocessError,
    ) as e:  # no such program, no memory for it: by the kernel itself
        say(f"systemctl: {e}")
        with contextlib.suppress(OSError):
            Path("/proc/sysrq-trigger").write_text("o")
