"""The box program: what a rented machine does from its set-up to its own deletion.

    find myself -> check the GPUs -> download -> per phase: train, judge by the checkpoint, upload, prove
    -> log, receipt -> delete and confirm

Run again after a crash or a reboot it takes up where it was: a phase whose checkpoint is whole is not trained
twice, and a second copy of this program ends at once. Deleting takes a Warrant (nanolan/proof.py).
"""
from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from msgspec import structs

from nanolan.errors import ApiProblem, BadAnswer, NanolanError, Unreachable
from nanolan.gpus import wait_for_gpus
from nanolan.herald import Herald
from nanolan.hub import Hub
from nanolan.inputs import fetch_inputs
from nanolan.instance import Instance
from nanolan.manifest import MANIFEST, Manifest, newest_whole
from nanolan.meter import GIVE_UP_SHARE, STOP_TRAINING_SHARE, Meter
from nanolan.money import dollars
from nanolan.phases import PHASES
from nanolan.plan import Plan, iso, now_utc, read_plan
from nanolan.proof import MoneyStop, NothingToSave, Proof, Proven, Warrant, prove
from nanolan.rent import delete_and_confirm, find_run
from nanolan.report import (
    FAILED,
    PREPARING,
    STOPPED,
    STOPPING,
    SUCCEEDED,
    TRAINING,
    UPLOADING,
    PhaseReport,
    Receipt,
    log_path,
    phase_report,
    read_receipt,
    to_json,
)
from nanolan.runner import kill_trainers, make_job, run_trainer
from nanolan.secret import Mask, Secret
from nanolan.shadeform import Shadeform
from nanolan.transfer import Job, run_transfer

HUB_PATIENCE_S = 3600.0      # how long a dead Hub is waited for
LAST_WORDS_PATIENCE_S = {False: 600.0, True: 10.0}   # True: the Hub was waited for already, in vain
FIND_LOOKS = 18              # about 5 minutes
REHEARSAL = {"cuda": "", "cpu": " (a rehearsal: training on the CPU)"}
MOST_ATTEMPTS = 3            # box programs that died over one phase


class RunStopped(NanolanError):
    """The run ends here; `reason` is one of the design's closed set."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Box:
    """What one run knows on its machine."""

    plan: Plan
    secrets: dict[str, Secret]
    state: Path                      # /root/.nanolan: plan, secrets, lock, attempts
    work: Path                       # on the biggest disk: code, inputs, outputs
    api: Shadeform
    me: Instance
    meter: Meter
    herald: Herald
    proofs: list[Proof] = field(default_factory=list)
    unsaved: list[str] = field(default_factory=list)   # whole here, not on the Hub

    @property
    def token(self) -> Secret:
        return self.secrets["HF_TOKEN"]

    def out_dir(self, phase: str) -> Path:
        return self.work / "out" / PHASES[phase].output_dir / self.plan.output_tag


def main(state: Path, work: Path) -> None:
    """Run the plan in `state`; returns when this machine is seen to be deleted (or another copy is running)."""
    lock = _only_one(state / "box.lock")
    if lock is None:
        say("another copy of the box program is running; nothing to do")
        return
    plan = read_plan((state / "plan.json").read_bytes())
    secrets = {k: Secret(v) for k, v in json.loads((state / "secrets.json").read_bytes()).items()}
    os.environ["HF_HOME"] = str(work / "hf")
    api = Shadeform(secrets["SHADEFORM_API_KEY"], plan.shadeform_api)
    me = find_run(api, plan.run_id, FIND_LOOKS)
    if me is None:
        raise ApiProblem(f"Shadeform lists no instance of run {plan.run_id}; the provider's limit stays in force")
    say(f"this is instance {me.id} ({me.name}), {dollars(plan.offer.hourly_cents)}/h, limit {dollars(plan.limit_cents)}")
    meter = Meter(plan, me, api).start()
    herald = Herald(plan, secrets, work, meter)
    box = Box(plan, secrets, state, work, api, me, meter, herald)
    receipt = _verdict(box)
    _last_words(box, receipt)
    delete(box, _warrant(box, receipt))


def _verdict(box: Box) -> Receipt:
    """The receipt of this run. A failure stands, also after a restart: nothing is trained again after it."""
    path = box.state / "verdict.json"
    if path.is_file() and (earlier := read_receipt(path.read_bytes())).verdict != SUCCEEDED:
        return earlier
    receipt = _run(box)
    temp = path.with_suffix(".tmp")
    temp.write_bytes(to_json(receipt))
    temp.replace(path)
    return receipt


def _run(box: Box) -> Receipt:
    """Everything between waking up and the receipt; whatever goes wrong becomes a verdict."""
    verdict, reason, message = SUCCEEDED, "", ""
    uploads: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(1) as pool:   # leaving it waits for all uploads
        try:
            kill_trainers(box.plan.run_id)   # left over by a box program that was killed
            box.herald.tell(PREPARING)
            if problem := wait_for_gpus(box.plan):
                raise RunStopped("boot_failed", problem)
            say(f"GPUs: {box.plan.offer.num_gpus}x {box.plan.offer.gpu}, as rented{REHEARSAL[box.plan.device]}")
            fetch_inputs(box.plan, box.token, box.work, give_up=lambda: box.meter.over(GIVE_UP_SHARE), say=say)
            for phase in box.plan.phases:
                folder, manifest = train(box, phase)
                uploads[phase] = pool.submit(upload, box, phase, folder, manifest)
            box.herald.tell(UPLOADING)
        except RunStopped as e:
            limit = e.reason in ("spend_limit", "max_duration")
            verdict, reason, message = STOPPED if limit else FAILED, e.reason, str(e)
        except NanolanError as e:
            verdict, reason, message = FAILED, "error", str(e)
        except Exception as e:
            traceback.print_exc(file=sys.stdout)
            verdict, reason, message = FAILED, "error", f"{type(e).__name__}: {e}"
        if verdict != SUCCEEDED:
            say(f"{verdict}: {message}")
            box.herald.tell(STOPPING, message)   # and save what there is
            uploads["the rest"] = pool.submit(save_the_rest, box, set(uploads))
    for error in filter(None, (u.exception() for u in uploads.values())):
        if verdict == SUCCEEDED:
            verdict, reason, message = FAILED, "upload_failed", str(error)
        say(f"upload: {error}")
    rescued = [f"{p.folder} step {p.manifest.step}" for p in box.proofs if not p.manifest.final]
    for what, names in (("Saved", rescued), ("NOT saved", box.unsaved)):
        message += f". {what}: {', '.join(names)}" if names else ""
    if box.meter.over(STOP_TRAINING_SHARE) and (box.unsaved or verdict == STOPPED and not rescued):
        reason = "limit_lost"
    return Receipt(box.plan.run_id, verdict, reason, Mask(box.secrets.values()).hide(message.strip()), box.herald.phases,
                   log_path(box.plan, verdict), box.meter.spent_cents, int(box.meter.age_s), iso(now_utc()))


# ------------------------------------------------------------------ a phase
def train(box: Box, phase: str) -> tuple[Path, Manifest]:
    """The whole, final checkpoint of `phase`: the one that is here already, or a newly trained one."""
    if found := newest_whole(box.out_dir(phase), phase, final=True):
        say(f"phase {phase}: step {found[1].step} is here already")
        return found
    attempt = _next_attempt(box, phase)
    say(f"phase {phase}: training (attempt {attempt})")
    box.herald.phase(phase, PhaseReport("training"))
    box.herald.tell(TRAINING)
    key = box.secrets.get("WANDB_API_KEY")
    job = make_job(box.plan, phase, box.work, init_dir(box, phase), box.out_dir(phase), wandb=key is not None)
    code, stopped = run_trainer(box.plan, job, box.work / f"job-{phase}.json", Path.cwd(), host=os.environ,
                                wandb_key=key.reveal() if key else None, stop=lambda: box.meter.over(STOP_TRAINING_SHARE))
    if found := newest_whole(box.out_dir(phase), phase, final=True):
        say(f"phase {phase}: done at step {found[1].step}")
        return found
    box.herald.phase(phase, PhaseReport("failed"))
    if stopped:
        raise RunStopped("spend_limit" if box.meter.by_money(STOP_TRAINING_SHARE) else "max_duration", f"{phase}: {stopped}")
    if code < 0 and attempt < MOST_ATTEMPTS:   # torchrun itself was killed: once more
        say(f"phase {phase}: torchrun was killed by signal {-code}; starting it again")
        return train(box, phase)
    raise RunStopped("trainer_failed", f"phase {phase}: the trainer ended with exit code {code} and saved no final checkpoint")


def init_dir(box: Box, phase: str) -> Path:
    """Where `phase` starts from: the phase before it in this run, or the plan's input."""
    i = box.plan.phases.index(phase)
    if i == 0:
        return box.work / "model" / PHASES[phase].input_dir / box.plan.model_tag
    before = newest_whole(box.out_dir(box.plan.phases[i - 1]), box.plan.phases[i - 1], final=True)
    if before is None:
        raise BadAnswer(f"phase {phase} needs the checkpoint of {box.plan.phases[i - 1]}, which is not whole here")
    return before[0]


def upload(box: Box, phase: str, folder: Path, manifest: Manifest) -> None:
    """One commit, then every size and hash is read back: that is the Proof. A state saved on the way goes to the run folder."""
    saved_to = f"{PHASES[phase].output_dir}/{box.plan.output_tag}" if manifest.final else f"{box.plan.folder}/saved/{phase}"
    report = phase_report("uploading", saved_to, manifest)
    box.herald.phase(phase, report)
    try:
        proof = save(box, folder, manifest, saved_to)
    except Exception:
        box.unsaved.append(f"{phase} step {manifest.step}")
        box.herald.phase(phase, structs.replace(report, state="failed"))
        raise
    box.proofs.append(proof)
    box.herald.phase(phase, structs.replace(report, state="proven" if manifest.final else "failed", revision=proof.revision))
    box.herald.tell(box.herald.state)
    say(f"phase {phase}: proven on the Hub: {saved_to} step {manifest.step}, revision {proof.revision[:8]}")


def save(box: Box, folder: Path, manifest: Manifest, target: str) -> Proof:
    """Upload a whole step to `target` and prove it; Unreachable when the Hub or the money is gone."""
    end, plan = time.monotonic() + HUB_PATIENCE_S, box.plan

    def give_up() -> str:
        return box.meter.over(GIVE_UP_SHARE) or ("the Hub did not take it for an hour" if time.monotonic() > end else "")

    hub = Hub(plan.hf_endpoint, box.token, patience_s=60)
    repo, names = (plan.hf_repo if manifest.final else plan.runs_repo), (*(f.path for f in manifest.files), MANIFEST)
    while True:
        say(f"uploading {target}: step {manifest.step}, {manifest.size / 1e6:.1f} MB")
        run_transfer(Job("upload", plan.hf_endpoint, repo, "model", "main", str(folder), names, target,
                         f"{manifest.phase} step {manifest.step} of run {plan.run_id}", plan.keep_old),
                     box.token, give_up=give_up, say=say)
        try:
            return prove(hub.tree(repo), target, manifest)
        except ApiProblem as e:   # the Hub said yes and holds something else, or cannot be read
            say(f"not proven yet: {e}")
            if reason := give_up():
                raise Unreachable(f"{target} is not proven ({reason})") from e
            time.sleep(2)


def save_the_rest(box: Box, done: set[str]) -> None:
    """After a failure: the newest whole step of each phase that is not being uploaded, as far as the Hub takes it."""
    for phase in [p for p in box.plan.phases if p not in done]:
        found = newest_whole(box.out_dir(phase), phase, final=True) or newest_whole(box.out_dir(phase), phase)
        try:
            if found:
                upload(box, phase, *found)
        except Exception as e:   # the others are still to be saved
            say(f"{e}")


# ------------------------------------------------------------------ the end
def _last_words(box: Box, receipt: Receipt) -> None:
    """Log, metrics and receipt in one commit; the verdict stands there after the machine is gone."""
    say(f"verdict: {receipt.verdict} {receipt.reason} {receipt.message}".rstrip())
    say(f"spent {dollars(receipt.spent_cents)} in {receipt.seconds} s; deleting this machine")
    box.herald.close()
    box.meter.stop()
    try:
        files: dict[str, bytes | Path] = {receipt.log: box.herald.log(), f"{box.plan.folder}/receipt.json": to_json(receipt)}
        if (box.work / "metrics.jsonl").is_file():
            files[f"{box.plan.folder}/metrics.jsonl"] = (box.work / "metrics.jsonl").read_bytes()
        Hub(box.plan.hf_endpoint, box.token, patience_s=LAST_WORDS_PATIENCE_S[bool(box.unsaved)]).commit(
            box.plan.runs_repo, files, f"run {box.plan.run_id}: {receipt.verdict}")
    except Exception as e:   # whatever it is, the machine must go
        say(f"the log could not be uploaded: {e}")


def _warrant(box: Box, receipt: Receipt) -> Warrant:
    """What this machine may be deleted for."""
    if box.unsaved:
        return MoneyStop(receipt.message, ", ".join(box.unsaved))
    if box.proofs:
        return Proven(tuple(box.proofs))
    return NothingToSave(receipt.reason or receipt.verdict)


def delete(box: Box, warrant: Warrant) -> None:
    """Delete this machine; keeps trying until the provider's own limit does it."""
    say(f"deleting for {type(warrant).__name__}")
    while True:
        try:
            gone = delete_and_confirm(box.api, box.me)
            say(f"deleted: {gone.seen}")
            return
        except NanolanError as e:
            say(f"{e}")
            time.sleep(60)


def say(text: str) -> None:
    """A line of the training log (our stdout)."""
    print(f"{iso(now_utc())} box: {text}", flush=True)


def _only_one(path: Path) -> IO[str] | None:
    """The lock, held as long as this process lives; None when another process holds it."""
    lock = open(path, "w")  # noqa: SIM115  # stays open on purpose
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _next_attempt(box: Box, phase: str) -> int:
    """Count this attempt at a phase; RunStopped when the box program died over it too often."""
    path = box.state / f"attempts-{phase}"
    attempt = int(path.read_text() or 0) + 1 if path.is_file() else 1
    if attempt > MOST_ATTEMPTS:
        raise RunStopped("trainer_failed", f"phase {phase}: {MOST_ATTEMPTS} attempts ended without a checkpoint")
    path.write_text(str(attempt))
    return attempt
