"""The box program: what a rented instance does from its set-up to its own deletion.

    find this instance -> check it -> download -> per phase: train, upload, evaluate, prove, gate
    -> log, receipt -> delete and confirm

Started again after a crash or a reboot it goes on where it was: a phase whose checkpoint is whole is not trained
twice, and a second copy of this program ends at once. Deleting takes a Warrant (nanolan/hub/proof.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from nanolan.box.context import BoxDeps, BoxRun, RunStopped, note, say
from nanolan.box.fork import prepare_fork
from nanolan.box.machine_check import already_here
from nanolan.box.phase import evaluate, fetch_state, pass_first_gate, pass_gate, train
from nanolan.box.phase_runner import uses_torchrun
from nanolan.box.platform.attempt import NotNeeded
from nanolan.box.platform.platforms import platform_of
from nanolan.box.probation import try_gpus
from nanolan.box.self_delete import warrant_of
from nanolan.box.speed_check import should_replace, slow_reason
from nanolan.box.start import start
from nanolan.box.upload.checkpoint import save_the_rest, upload
from nanolan.box.upload.final_files import public_leak_warning, publish_final_files
from nanolan.box.upload.recheck import prove_again, prove_the_rest_again
from nanolan.box.upload.scores import note_results
from nanolan.box.upload.states import remove_states, saved_states
from nanolan.box.watch.timeline import phase_seconds
from nanolan.errors import BadAnswer, NanolanError
from nanolan.hub.download import fetch_inputs, patience_of
from nanolan.money import dollars
from nanolan.phases import GATE
from nanolan.plan import Plan
from nanolan.redact import hide
from nanolan.run.jobs import SUPERSEDED
from nanolan.run.ledger import PREEMPTED
from nanolan.run.record import (
    FAILED,
    PREPARING,
    STOPPED,
    STOPPING,
    SUCCEEDED,
    UPLOADING,
    Receipt,
    log_path,
    read_receipt,
    to_json,
)
from nanolan.times import SERVICE_CLOCK, iso
from nanolan.version import VERSION

REHEARSAL = {"cuda": "", "cpu": " (a rehearsal: training on the CPU)"}
LIMITS = ("spend_limit", "max_duration")
ENDS = {
    **dict.fromkeys(LIMITS, STOPPED),
    "user": STOPPED,
    GATE: STOPPED,
    PREEMPTED: STOPPED,
}  # reason -> verdict; all others failed
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DEPS = BoxDeps()


def main(state: Path, work: Path, deps: BoxDeps = DEPS) -> int:
    """Run the plan in `state`. Returns when this instance is powered off (without a key) or left to whoever started it as a job,
    or when another copy of this program is running; one that deletes itself takes this program with it, but in a rehearsal. The
    value is this program's exit code."""
    with _lock(work) as acquired:
        if acquired:
            SERVICE_CLOCK.on_difference = say
            try:
                box = start(state, work, deps)
            except NotNeeded as e:
                say(str(e))
                return e.exit_code
            return live(box)
        say("another copy of the box program is running; nothing to do")
        return 0


def live(box: BoxRun) -> int:
    """Run once, publish the final files, then end this machine; the exit code."""
    receipt = run_once(box)
    platform = platform_of(box.plan)
    say(f"verdict: {receipt.verdict} {receipt.reason} {receipt.message}".rstrip())
    spent = f"spent {dollars(receipt.spent_cents)} in {receipt.seconds} s"
    say(f"{spent}; {platform.parting} this machine")
    if receipt.reason != SUPERSEDED:  # else the run folder is another machine's
        publish_final_files(box, receipt)
    platform.leave(box, warrant_of(box, receipt))
    return platform.exit_code(receipt)


def run_once(box: BoxRun) -> Receipt:
    """The receipt of this run. A failure stands, also after a restart: nothing is trained again after it."""
    path = box.state / "verdict.json"
    if (earlier := _earlier(path)) and earlier.verdict != SUCCEEDED:
        return earlier
    with box.deps.pool() as pool:  # leaving it waits for all uploads
        receipt = run(box, pool)
    note(path, to_json(receipt))
    return receipt


def _earlier(path: Path) -> Receipt | None:
    """The verdict of an earlier start; None when there is none, or a crash has cut it off."""
    try:
        return read_receipt(path.read_bytes())
    except (OSError, BadAnswer):
        return None


class Outcome(NamedTuple):
    """How the run ended; `reason` is one of the design's closed set, "" for a success."""

    verdict: str
    reason: str = ""
    message: str = ""


def run(box: BoxRun, pool: Executor) -> Receipt:
    """Prepare, run each phase, save what a failure left; every error becomes a verdict."""
    uploads: dict[str, Future[None]] = {}
    try:
        prepare(box)
        for phase in box.plan.phases:
            run_phase(box, phase, pool, uploads)
        prove_again(box)
        outcome = Outcome(SUCCEEDED)
    except Exception as e:
        outcome = outcome_of(e)
    # outside the handler: `e` must not be the context of an error while saving
    if outcome.verdict != SUCCEEDED and outcome.reason != SUPERSEDED:
        say(f"{outcome.verdict}: {outcome.message}")
        box.timeline.enter("save")
        box.heartbeat.set_state(STOPPING, outcome.message)
        damaged = {p for p, u in uploads.items() if isinstance(u.exception(), BadAnswer)}
        # not in the pool: there may be no memory for another thread. Of a damaged result the state before it is saved
        save_the_rest(box, uploads.keys() - damaged)
        prove_the_rest_again(box)
    for error in filter(None, (u.exception() for u in uploads.values())):
        if outcome.verdict == SUCCEEDED:
            outcome = Outcome(FAILED, "upload_failed", str(error))
        say(f"upload: {error}")
    return receipt_of(box, outcome)


def outcome_of(error: Exception) -> Outcome:
    """The verdict for what ended the run early."""
    if isinstance(error, RunStopped):
        return Outcome(ENDS.get(error.reason, FAILED), error.reason, str(error))
    if isinstance(error, NanolanError):
        return Outcome(FAILED, "error", str(error))
    traceback.print_exception(error, file=sys.stdout)
    full = isinstance(error, OSError) and error.errno in DISK_FULL
    return Outcome(FAILED, "disk_full" if full else "error", f"{type(error).__name__}: {error}")


def prepare(box: BoxRun) -> None:
    """Check the machine and download what the run needs; RunStopped when the machine is not as rented."""
    box.timeline.enter("probation")
    box.deps.kill(box.plan.run_id)  # trainers left over by a box program that was killed
    box.heartbeat.set_state(PREPARING)
    if problem := box.deps.inspect(box.plan, box.work, clock=box.deps.clock, sleep=box.deps.sleep):
        raise RunStopped("boot_failed", problem)
    offer = box.plan.offer
    say(f"GPUs: {offer.num_gpus}x {offer.gpu}, as rented{REHEARSAL[box.plan.device]}")
    _try_gpus(box)
    box.timeline.enter("download")
    try:
        _fetch_and_confine(box)
    except RunStopped:
        raise
    except NanolanError as e:
        if stop := box.stop():
            raise RunStopped(stop.reason, f"{stop.text}, before anything was trained") from e
        raise


def _try_gpus(box: BoxRun) -> None:
    """One sum over all GPUs, as the trainer's user; RunStopped when it fails or hangs. A fork has a trial of its own."""
    plan = box.plan
    if plan.device != "cuda" or not uses_torchrun(plan):
        return
    for name in ("model", "data"):  # the trainer's user is tried on them
        (box.work / name).mkdir(parents=True, exist_ok=True)
    account, _ = box.deps.confine(box.work)
    here = {"host": os.environ, "cwd": Path.cwd()}
    problem, box.unconfined = try_gpus(box.deps.collective, plan, box.work, account, **here)
    if problem:
        raise RunStopped("boot_failed", problem)
    say(f"a sum over {plan.processes} GPUs is right")


def _fetch_and_confine(box: BoxRun) -> None:
    """Fetch what the run needs. A fork is tried before its data sets are fetched: most of what can fail does so at once."""
    fork, plan = box.plan.fork, box.plan
    _download(box, structs.replace(plan, datasets=()) if fork else plan)
    pass_first_gate(box)
    fetch_state(box)
    (box.work / "data").mkdir(exist_ok=True)  # a confined trainer must be able to read it
    _confine_trainer(box)
    if fork:
        prepare_fork(box, fork)
        box.timeline.enter("download")
        _download(box, plan)


def _download(box: BoxRun, plan: Plan) -> None:
    """Fetch the plan's inputs; RunStopped when this machine's way to the Hub is too slow."""

    def give_up() -> str:
        stop = box.stop()
        return stop.text if stop else ""

    started = box.deps.clock()
    before = already_here(box.work)
    fetch_inputs(
        plan,
        box.token,
        box.work,
        give_up=give_up,
        say=say,
        transfer=box.deps.transfer,
        patience_s=patience_of(box.meter.hourly_cents),
    )
    _judge_speed(box, already_here(box.work) - before, box.deps.clock() - started)


def _judge_speed(box: BoxRun, size: int, seconds: float) -> None:
    """RunStopped when downloading `size` bytes was so slow that another machine is cheaper; a warning when only slow."""
    if not size:
        return
    text = slow_reason(box.plan, "download", "bytes/s of the Hub", size / max(seconds, 0.001))
    if text and should_replace(box.plan, box.meter.spent_cents - box.spent_before_cents):
        raise RunStopped("boot_failed", text)
    if text:
        say(f"warning: {text}")


def _confine_trainer(box: BoxRun) -> None:
    """Give the trainer a user of its own where that is possible, and keep it from the metadata service in any case."""
    box.account, why = (None, box.unconfined) if box.unconfined else box.deps.confine(box.work)
    if box.account:
        say(f"the trainer runs as user {box.account.uid}")
    else:
        say(f"the trainer runs as the box program's user: {why}")
    if os.environ.get("BOX_ROOT"):  # a rehearsal never touches a firewall
        return
    if why := box.deps.fence(box.account):
        say(
            "warning: the trainer can reach the cloud's metadata service, which may show it the startup script and "
            f"its keys: {why}"
        )


def run_phase(box: BoxRun, phase: str, pool: Executor, uploads: dict[str, Future[None]]) -> None:
    """Train, upload while the model is evaluated, prove, and decide whether the next phase may begin."""
    folder, manifest = train(box, phase)
    uploads[phase] = pool.submit(upload, box, phase, folder, manifest)
    results = evaluate(box, phase)
    box.timeline.enter(f"{phase}.upload")
    box.heartbeat.set_state(UPLOADING)
    if error := uploads[phase].exception():  # the next phase begins when this one is proven
        raise RunStopped("upload_failed", str(error))
    if results:
        note_results(box, phase, folder, manifest, results)
    measured = box.heartbeat.phases[phase].measured
    scores = ", ".join(f"{name} {value:.3g}" for name, value in measured.items())
    spent = dollars(box.meter.spent_cents)
    box.notify.send(
        f"{phase} proven",
        f"{box.target(phase)} step {manifest.step} is on the Hub, {spent} spent. {scores}",
    )
    remove_states(box, phase)
    pass_gate(box, phase, measured)


def receipt_of(box: BoxRun, outcome: Outcome) -> Receipt:
    """The receipt: verdict, what was saved and what was not, the bill."""
    verdict, reason, message = outcome
    saved = saved_states(box)
    for what, names in (("Saved", saved), ("NOT saved", box.unsaved)):
        message += f". {what}: {', '.join(names)}" if names else ""
    if reason in LIMITS and _lost(box, saved) or box.unsaved and box.meter.should_stop():
        reason = "limit_lost"
    # a gate has said so, with the words to type
    if verdict != SUCCEEDED and reason != GATE and (box.proofs or saved):
        message += f". Go on: just resume {box.plan.run_id}"
    stages = box.timeline.stages()
    plan, meter, warning = box.plan, box.meter, public_leak_warning(box)
    message = ". ".join(filter(None, (message.strip(), warning)))
    return Receipt(
        plan.run_id,
        verdict,
        reason,
        hide(message),
        box.heartbeat.phases,
        log_path(plan, verdict, reason),
        meter.spent_cents,
        int(meter.age_s),
        iso(box.deps.now()),
        plan.attempt,
        meter.metered_cents,
        meter.provider_cents,
        stages,
        {p: meter.cost_of(phase_seconds(stages, p)) for p in plan.phases},
        plan.predicted,
        warning,
        VERSION,
        plan.offer.spot,
    )


def _lost(box: BoxRun, saved: list[str]) -> bool:
    """Whether something that was trained is on no disk but this one."""
    nowhere = any(r.state == "failed" and not r.folder for r in box.heartbeat.phases.values())
    return bool(box.unsaved) or nowhere and not saved or not (saved or box.proofs)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Lock a folder; False when another process holds the lock. It takes no room on the disk."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        yield _acquire(lock)
    finally:
        os.close(lock)


def _acquire(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
