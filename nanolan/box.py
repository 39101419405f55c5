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
import subprocess
import sys
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nanolan.errors import ApiProblem, BadAnswer, NanolanError, Unreachable
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
    to_json,
)
from nanolan.runner import kill_trainers, run_trainer
from nanolan.secret import Mask, Secret
from nanolan.shadeform import Shadeform
from nanolan.transfer import Job, run_transfer

HUB_PATIENCE_S = 3600.0      # how long a dead Hub is waited for
FINAL_LOG_PATIENCE_S = 600.0
FIND_LOOKS = 30              # x 10 s
GPU_PATIENCE_S = {"cuda": 300.0, "cpu": 2.0}
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
    rescued: list[str] = field(default_factory=list)   # phases without a result whose newest state is on the Hub

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
    receipt = _run(box)
    _last_words(box, receipt)
    delete(box, _warrant(box, receipt))


def _run(box: Box) -> Receipt:
    """Everything between waking up and the receipt; whatever goes wrong becomes a verdict."""
    verdict, reason, message = SUCCEEDED, "", ""
    uploads: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:   # leaving it waits for all uploads
        try:
            kill_trainers(box.plan.run_id)   # left over by a box program that was killed
            box.herald.tell(PREPARING)
            check_gpus(box.plan)
            fetch_inputs(box.plan, box.token, box.work, give_up=lambda: box.meter.over(GIVE_UP_SHARE), say=say)
            for phase in box.plan.phases:
                folder, manifest = train(box, phase)
                uploads.append(pool.submit(upload, box, phase, folder, manifest))
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
            box.herald.tell(STOPPING, message)
            uploads.append(pool.submit(save_the_rest, box))
    for problem in filter(None, (u.exception() for u in uploads)):
        if verdict == SUCCEEDED:
            verdict, reason, message = FAILED, "upload_failed", str(problem)
        say(f"upload: {problem}")
    if box.unsaved:
        message += f". NOT saved: {', '.join(box.unsaved)}"
    if box.meter.over(STOP_TRAINING_SHARE) and (box.unsaved or verdict == STOPPED and not box.rescued):
        reason = "limit_lost"
    return Receipt(box.plan.run_id, verdict, reason, Mask(box.secrets.values()).hide(message.strip()), box.herald.phases,
                   log_path(box.plan, verdict), box.meter.spent_cents, int(box.meter.age_s), iso(now_utc()))


# ------------------------------------------------------------------ GPUs
def check_gpus(plan: Plan) -> None:
    """RunStopped unless this machine has the GPUs that were rented, all usable."""
    end = time.monotonic() + GPU_PATIENCE_S[plan.device]
    while problem := gpu_problem(plan, gpu_names(), usable_cuda_devices() if plan.device == "cuda" else None):
        if time.monotonic() > end:
            raise RunStopped("boot_failed", problem)
        time.sleep(1)
    say(f"GPUs: {plan.offer.num_gpus}x {plan.offer.gpu}, as rented" +
        ("" if plan.device == "cuda" else " (a rehearsal: training on the CPU)"))


def gpu_problem(plan: Plan, names: list[str], usable: int | None) -> str:
    """What is wrong with the GPUs seen, or ""; `usable` counts CUDA devices that torch can use."""
    if len(names) != plan.offer.num_gpus:
        return f"{plan.offer.num_gpus} GPUs were rented, nvidia-smi shows {len(names)}"
    if usable is not None and usable != plan.processes:
        return f"{plan.processes} CUDA devices are needed, torch can use {usable}"
    return ""


def gpu_names() -> list[str]:
    """GPU names from nvidia-smi, the machine's own or the rehearsal's; [] when it fails."""
    own = Path(os.environ.get("BOX_ROOT", "") + "/usr/bin/nvidia-smi")
    command = [str(own) if own.is_file() else "nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return out.stdout.split("\n")[:-1] if out.returncode == 0 else []


def usable_cuda_devices() -> int:
    """CUDA devices on which torch can compute, counted in a process that ends before training starts."""
    probe = ("import torch\nfor i in range(torch.cuda.device_count()): torch.ones(2, device=f'cuda:{i}').sum().item()\n"
             "print(torch.cuda.device_count())")
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=240)
    return int(out.stdout) if out.returncode == 0 else 0


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
    code, stopped = run_trainer(box.plan, job(box, phase), box.work / f"job-{phase}.json", Path.cwd(), host=os.environ,
                                wandb_key=key.reveal() if key else None, stop=lambda: box.meter.over(STOP_TRAINING_SHARE))
    if found := newest_whole(box.out_dir(phase), phase, final=True):
        say(f"phase {phase}: done at step {found[1].step}")
        return found
    box.herald.phase(phase, PhaseReport("failed"))
    if stopped:
        raise RunStopped("spend_limit" if dollars(box.plan.limit_cents) in stopped else "max_duration", f"{phase}: {stopped}")
    if code < 0 and attempt < MOST_ATTEMPTS:   # torchrun itself was killed: once more
        say(f"phase {phase}: torchrun was killed by signal {-code}; starting it again")
        return train(box, phase)
    raise RunStopped("trainer_failed", f"phase {phase}: the trainer ended with exit code {code} and saved no final checkpoint")


def job(box: Box, phase: str) -> dict[str, Any]:
    """What the trainer is told: see nanolan/train/__main__.py."""
    plan, work = box.plan, box.work
    i = plan.phases.index(phase)
    if i:
        before = newest_whole(box.out_dir(plan.phases[i - 1]), plan.phases[i - 1], final=True)
        if before is None:
            raise BadAnswer(f"phase {phase} needs the checkpoint of {plan.phases[i - 1]}, which is not whole here")
        init = before[0]
    else:
        init = work / "model" / PHASES[phase].input_dir / plan.model_tag
    wandb = {"project": plan.wandb_project, "name": f"{plan.run_name}-{phase}", "group": plan.run_name}
    return {"phase": phase, "run_id": plan.run_id, "run_name": plan.run_name, "model_tag": plan.model_tag,
            "device": plan.device, "init_dir": str(init), "tokenizer_dir": str(work / "model" / "tokenizer"),
            "data_dir": str(work / "data"), "out_dir": str(box.out_dir(phase)), "metrics": str(work / "metrics.jsonl"),
            "heartbeat": str(work / "heartbeat.json"), "batch": plan.batch, "recipe": plan.recipe,
            "wandb": wandb if "WANDB_API_KEY" in box.secrets else None}


def upload(box: Box, phase: str, folder: Path, manifest: Manifest) -> None:
    """One commit into the phase's folder, then every size and hash is read back: that is the Proof."""
    target = f"{PHASES[phase].output_dir}/{box.plan.output_tag}"
    report = PhaseReport("uploading", target, step=manifest.step, loss_start=manifest.extra.get("loss_start"),
                         loss_end=manifest.extra.get("loss_end"))
    box.herald.phase(phase, report)
    box.herald.tell(UPLOADING)
    try:
        proof = save(box, folder, manifest, target)
    except NanolanError:
        box.unsaved.append(f"{phase} step {manifest.step}")
        box.herald.phase(phase, PhaseReport("failed", target, step=manifest.step))
        raise
    box.proofs.append(proof)
    box.herald.phase(phase, PhaseReport("proven", target, proof.revision, manifest.step, report.loss_start, report.loss_end))
    box.herald.tell(box.herald.state)
    say(f"phase {phase}: proven on the Hub: {target} step {manifest.step}, revision {proof.revision[:8]}")


def save(box: Box, folder: Path, manifest: Manifest, target: str) -> Proof:
    """Upload a whole step to `target` and prove it; Unreachable when the Hub or the money is gone."""
    end = time.monotonic() + HUB_PATIENCE_S

    def give_up() -> str:
        return box.meter.over(GIVE_UP_SHARE) or ("the Hub did not take it for an hour" if time.monotonic() > end else "")
    plan = box.plan
    hub = Hub(plan.hf_endpoint, box.token, patience_s=60)
    repo = plan.hf_repo if not target.startswith("runs/") else plan.runs_repo
    while True:
        names = (*(f.path for f in manifest.files), MANIFEST)
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


def save_the_rest(box: Box) -> None:
    """After a failure: the newest whole state of a phase that has no result goes to the run folder."""
    for phase in box.plan.phases:
        found = newest_whole(box.out_dir(phase), phase, final=False)
        if found and not newest_whole(box.out_dir(phase), phase, final=True):
            try:
                box.proofs.append(save(box, *found, f"{box.plan.folder}/saved/{phase}"))
                box.rescued.append(phase)
                say(f"phase {phase}: step {found[1].step} saved to {box.plan.folder}/saved/{phase}")
            except NanolanError:
                box.unsaved.append(f"{phase} step {found[1].step}")
                raise


# ------------------------------------------------------------------ the end
def _last_words(box: Box, receipt: Receipt) -> None:
    """Log, metrics and receipt in one commit; the verdict stands there after the machine is gone."""
    say(f"verdict: {receipt.verdict} {receipt.reason} {receipt.message}".rstrip())
    say(f"spent {dollars(receipt.spent_cents)} in {receipt.seconds} s; deleting this machine")
    box.herald.close()
    box.meter.stop()
    files: dict[str, bytes | Path] = {receipt.log: box.herald.log(), f"{box.plan.folder}/receipt.json": to_json(receipt)}
    if (box.work / "metrics.jsonl").is_file():
        files[f"{box.plan.folder}/metrics.jsonl"] = (box.work / "metrics.jsonl").read_bytes()
    try:
        Hub(box.plan.hf_endpoint, box.token, patience_s=FINAL_LOG_PATIENCE_S).commit(
            box.plan.runs_repo, files, f"run {box.plan.run_id}: {receipt.verdict}")
    except NanolanError as e:
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
