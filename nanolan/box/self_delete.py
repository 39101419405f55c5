"""Deletes this instance, again and again while it runs; without a key on it, waits for `just guard` or the provider to do so."""

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
# After a deletion that was confirmed, until the next look; True: in a rehearsal
AGAIN_S = {False: 180.0, True: 0.5}
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


def delete(box: BoxRun, warrant: Warrant, rehearsal: bool | None = None) -> None:
    """Delete this instance, and look again until it takes this program with it. Past its deadline it is also powered off.

    While this program runs, no answer shows that the instance is gone, and a provider may take a deletion back. In a rehearsal
    the instance is a process: there two confirmations in a row will do, and this returns.
    """
    say(f"deleting this instance: {accepted(box, warrant)}")
    rehearsal = bool(os.environ.get("BOX_ROOT")) if rehearsal is None else rehearsal
    confirmed = 0
    while confirmed < 2 or not rehearsal:
        confirmed = confirmed + 1 if _try_to_delete(box) else 0
        if box.deps.now() > parse_time(box.meter.deadline):
            power_off()
        box.deps.sleep(AGAIN_S[rehearsal] if confirmed else RETRY_DELETE_S)


def _try_to_delete(box: BoxRun) -> bool:
    """Whether the provider confirms the deletion; asked every few seconds, for 15 minutes at most."""
    try:
        gone = delete_and_confirm(box.api, box.me, clock=box.deps.clock)
    except Exception as e:  # the instance must be deleted, whatever was answered
        say(f"{type(e).__name__}: {e}")
        return False
    say(f"deleted; Shadeform shows: {gone.seen}")
    return True


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
        "it still runs past the provider's limit: powering off. It may still bill: https://platform.shadeform.ai/instances"
    )
    root = os.environ.get("BOX_ROOT", "")  # a rehearsal touches nothing outside it
    command = [f"{root}/usr/bin/systemctl" if root else "systemctl", "poweroff"]
    try:
        code = subprocess.Popen(command, stdin=subprocess.DEVNULL).wait(POWER_OFF_S)
    except (
        OSError,
        MemoryError,
        subprocess.SubprocessError,
    ) as e:  # no such program, no memory for it, or it hangs
        code, problem = -1, str(e)
    else:
        problem = f"exit code {code}"
    if code:
        say(f"systemctl: {problem}; asking the kernel")
        with contextlib.suppress(OSError):
            Path(f"{root}/proc/sysrq-trigger").write_text("o")
