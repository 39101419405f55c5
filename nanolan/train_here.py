"""Train the same phases on this machine's own GPUs, without a cloud, from and into NANOCHAT_BASE_DIR.

Ctrl-C saves the state; the same command continues from it (the run id is kept until the phase is done).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from nanolan.box.phase_runner import evaluation_of, make_job, run_trainer
from nanolan.box.sandbox import trainer_folder
from nanolan.checkpoint.conversations import check_file
from nanolan.checkpoint.evaluation import meta_name, read_results, with_results
from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import RunFailed, UsageProblem
from nanolan.files import entries_of
from nanolan.hub.client import Hub
from nanolan.hub.download import fetch, place_conversations
from nanolan.hub.pins import pin_dataset, reads_identity
from nanolan.hub.pull import place
from nanolan.launch.make_plan import WANDB_SET
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Code, Plan, Rented, new_run_id
from nanolan.redact import Secret
from nanolan.run.record import StopReason
from nanolan.settings.settings import OWN_TRAINER, ROOT, Settings
from nanolan.times import iso, now_utc

PATIENCE_S = 300.0
SAVE_S = 300.0  # for a save after Ctrl-C


@dataclass(frozen=True)
class LocalRun:
    """This machine and the options of a local training."""

    base: Path  # NANOCHAT_BASE_DIR
    device: str  # "cuda" or "cpu"
    processes: int
    host: Mapping[str, str]  # the environment
    stop: Callable[[], StopReason | None]  # a reason to save and stop
    say: Callable[[str], None]
    recipe: dict[str, int | float | dict[str, int | float]]
    model_only: bool = False  # use only the weights of a saved state that does not fit


def train_here(s: Settings, local: LocalRun, hub: Hub) -> list[Path]:
    """Train the settings' phases one after the other; returns the folders of their checkpoints. RunFailed if one has no result."""
    if s.trainer != OWN_TRAINER:
        raise UsageProblem("train-here has nanolan's own trainer only: set TRAINER=nanolan")
    tokenizer = local.base / "tokenizer"
    if not (tokenizer / "tokenizer.pkl").is_file():
        raise UsageProblem(
            f"{tokenizer} holds no tokenizer.pkl. Download it: just pull, or set NANOCHAT_BASE_DIR"
        )
    first = local.base / s.input_folder
    if not entries_of(first, "model_*.pt"):
        raise UsageProblem(
            f"{first} holds no checkpoint to start from. Download it: just pull, or set NANOCHAT_BASE_DIR"
        )
    if "mid" in s.phases and not s.no_identity and not (local.base / IDENTITY_FILE).is_file():
        raise UsageProblem(
            f"{local.base} holds no {IDENTITY_FILE}: mid would not learn its identity. Write one: just identity "
            "name=... creator=...; or train without it: --no-identity"
        )
    if reads_identity(s) and (local.base / IDENTITY_FILE).is_file():
        check_file(local.base / IDENTITY_FILE)  # before anything is downloaded
    install_wandb(s, local.say)
    data = fetch_data(s, local, hub)
    return [_train(s, local, phase, data) for phase in s.phases]


def install_wandb(
    s: Settings,
    say: Callable[[str], None],
    find: Callable[[str], object] = find_spec,
    run: Callable[[list[str]], object] = subprocess.run,
) -> None:
    """Install wandb if its key is set and it is missing; without it training goes on, as the trainer says."""
    if s.wandb_api_key and not find("wandb"):
        say("WANDB_API_KEY is set: installing wandb, once")
        run(["sh", str(ROOT / "scripts/setup.sh"), WANDB_SET])


def fetch_data(s: Settings, local: LocalRun, hub: Hub) -> Path:
    """Download the data sets of the phases, pinned to their current revisions, to base/nanolan/data; skips existing files."""
    data = local.base / "nanolan/data"
    for repo, globs in s.data_files.items():
        pinned = pin_dataset(hub, repo, globs)
        fetch(
            pinned,
            data / repo,
            hub.endpoint,
            hub.token or Secret(""),
            say=local.say,
            patience_s=PATIENCE_S,
            give_up=lambda: stop.text if (stop := local.stop()) else "",
        )
    identity = local.base / IDENTITY_FILE
    if identity.is_file():
        place_conversations(identity, data / IDENTITY_FILE)
    return data


def _train(s: Settings, local: LocalRun, phase: str, data: Path) -> Path:
    work = local.base / "nanolan" / f"{phase}-{s.output_tag or s.model_tag}"
    work.mkdir(parents=True, exist_ok=True)
    plan = make_plan(s, local, run_id_of(work))
    out = work / "out"
    init = (
        local.base
        / plan.phase(phase).input_dir
        / (s.model_tag if phase == s.phases[0] else plan.output_tag)
    )
    job = make_job(plan, phase, work, init, out, s.wandb_api_key is not None)
    job |= {"tokenizer_dir": str(local.base / "tokenizer"), "data_dir": str(data)}
    code, stopped = run_trainer(
        plan,
        job,
        work / "job.json",
        ROOT,
        host=local.host,
        stop=local.stop,
        wandb_key=s.wandb_api_key.reveal() if s.wandb_api_key else None,
        grace_s=lambda: SAVE_S,
    )
    found = newest_whole(out, phase, final=True)
    if found is None:
        state = newest_whole(out, phase, final=False)
        kept = (
            f"step {state[1].step} is saved; the same command continues from it"
            if state
            else "nothing was saved"
        )
        end = f"stopped by {stopped.text}" if stopped else f"ended with exit code {code}"
        raise RunFailed(f"phase {phase} {end}: {kept}")
    results = work / "evaluation.json"
    if plan.evaluate != "none" and not local.stop():
        run_trainer(
            plan,
            evaluation_of(job, plan, results),
            work / "job.json",
            ROOT,
            host=local.host,
            stop=local.stop,
            wandb_key=None,
        )
    target = local.base / plan.result_folder(phase)
    place(found[1], found[0], target, local.say)
    if found_out := read_results(results):
        meta = target / meta_name(found[1])
        meta.write_bytes(with_results(meta.read_bytes(), found[1], found_out)[1])
    metrics = local.base / "nanolan" / f"metrics-{phase}-{plan.run_id}.jsonl"
    (trainer_folder(work) / "metrics.jsonl").replace(metrics)
    local.say(f"{phase}: {target}, metrics in {metrics}")
    shutil.rmtree(work)  # the next run of this phase starts new
    return target


def run_id_of(work: Path) -> str:
    """The id of the unfinished run in `work`, or a new one."""
    path = work / "run_id"
    if not path.is_file():
        path.write_text(new_run_id())
    return path.read_text()


def make_plan(s: Settings, local: LocalRun, run_id: str) -> Plan:
    """A plan for this machine: nothing rented, nothing billed."""
    now = iso(now_utc())
    return Plan(
        run_id=run_id,
        run_name=s.run_name,
        owner="",
        created_at=now,
        deadline=now,
        limit_cents=0,
        phases=s.phases,
        model_tag=s.model_tag,
        output_tag=s.output_tag or s.model_tag,
        hf_repo="",
        runs_repo="",
        hf_endpoint="",
        shadeform_api="",
        offer=Rented("here", "here", "here", local.device, local.processes, 0, 0, ""),
        code=Code("", "", 0, False),
        inputs=(),
        datasets=(),
        wandb_project=s.wandb_project,
        wandb_base_url=s.wandb_base_url,
        device=local.device,
        processes=local.processes,
        batch=s.batch,
        recipe=local.recipe,
        evaluate=s.eval,
        humaneval=s.humaneval,
        identity=not s.no_identity,
        save_minutes=s.save_minutes,
        model_only=local.model_only,
    )
