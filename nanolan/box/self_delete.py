"""Deletes this instance and polls until it is gone; without a key on it, waits to be deleted by `just guard` or the provider."""

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
    """The warrant to delete this instance."""
    if box.unsaved:
        return MoneyStop(receipt.message, ", ".join(box.unsaved))
    if receipt.verdict == SUCCEEDED:
        return Proven(tuple(box.proofs))
    return (
        UserStop() if receipt.reason == "user" else NothingToSave(receipt.reason or receipt.verdict)
    )


def accepted(box: BoxRun, warrant: Warrant) -> Warrant:
    """The warrant, if each of its phases has a proof. Else what is whole on this disk is saved and proven first, within the limits,
    and the warrant names what is lost. The instance is deleted in any case."""
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
    except Exception as e:  # the instance must be deleted all the same
        say(f"that failed: {type(e).__name__}: {e}")
    return (
        MoneyStop("not everything was proven", ", ".join(box.unsaved))
        if box.unsaved
        else NothingToSave("not everything was proven")
    )


def proven_phases(warrant: Proven) -> set[str]:
    """The phases whose result has a proof."""
    return {p.manifest.phase for p in warrant.proofs if p.manifest.final}


def delete(box: BoxRun, warrant: Warrant) -> None:
    """Delete this instance and poll until it is gone: every few seconds for 15 minutes, then slower. Past its deadline it is also
    powered off."""
    say(f"deleting this instance: {accepted(box, warrant)}")
    while True:
        try:
            gone = delete_and_confirm(box.api, box.me, clock=box.deps.clock)
            say(f"deleted; Shadeform shows: {gone.seen}")
            return
        except Exception as e:  # the instance must be deleted, whatever was answered
            say(f"{type(e).__name__}: {e}")
        if box.deps.now() > parse_time(box.meter.deadline):
            power_off()
        box.deps.sleep(RETRY_DELETE_S)


def wait_to_be_deleted(box: BoxRun, warrant: Warrant) -> None:
    """Without a Shadeform key: wait for `just guard` or the provider to delete this instance; past its deadline power it off."""
    say(
        f"ready to be deleted: {accepted(box, warrant)}. No Shadeform key is on this machine: it waits for just guard, or for the "
        f"provider at {box.meter.deadline}, and bills until then"
    )
    while (left_s := (parse_time(box.meter.deadline) - box.deps.now()).total_seconds()) > 0:
        box.deps.sleep(min(RETRY_DELETE_S, left_s))
    power_off()


def power_off() -> None:
    """Power this machine off. That may not end the bill, but nothing runs any more, and the provider may notice."""
    say(
        "not deleted, and past the provider's limit: powering off. It may still bill: https://platform.shadeform.ai/instances"
    )
    if os.environ.get("BOX_ROOT"):
        return
    try:
        subprocess.run(["systemctl", "poweroff"], check=True, timeout=POWER_OFF_S)
    except (
        OSError,
        MemoryError,
        subprocess.SubprocessError,
    ) as e:  # no such program or no memory for it: ask the kernel
        say(f"systemctl: {e}")
        with contextlib.suppress(OSError):
            Path("/proc/sysrq-trigger").write_text("o")
