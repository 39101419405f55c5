"""mid and sft: load, train, save; stop on SIGTERM with a state to go on from, and go on from one.

Every rank runs this and decides alike: what is decided by a clock or a signal is first agreed on.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nanolan.checkpoint.architecture import check_rows, check_vocabulary
from nanolan.errors import BadAnswer, RunFailed
from nanolan.model import checkpoint
from nanolan.model.attention import flex_works
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import Tokenizer, load_token_bytes, load_tokenizer
from nanolan.phases import IDENTITY_FILE
from nanolan.train.data.mixtures import IDENTITY, TRAINING, VALIDATION, Part, open_part
from nanolan.train.data.packing import NothingToTrain, Rows, make_rows
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter, mfu_per_token
from nanolan.train.recipe import (
    Recipe,
    lr_factor,
    micro_batch,
    momentum,
    recipe_for,
    rows_per_step,
    steps_of,
)
from nanolan.train.state import Resume, States, find_state, how_to_resume, load_optimizer
from nanolan.train.step import (
    Health,
    Stepper,
    check_number,
    check_start,
    even_micro_batch,
    expected_loss,
    finite,
    validate,
)
from nanolan.train.stop import StopFlag


@dataclass
class Training:
    """A phase under way."""

    job: Job
    world: Processes
    report: ProgressWriter
    recipe: Recipe
    tokenizer: Tokenizer
    model: GPT
    rows: Rows
    val_rows: Rows | None
    optimizer: Optimizer
    stepper: Stepper
    states: States
    health: Health
    settings: dict[str, Any]  # of the meta's user_config and of wandb
    agreed: dict[str, Any]  # what a state can only be gone on from under
    per_step: int  # rows, of all ranks
    steps: int
    done: int  # steps
    expected: float | None = None  # the loss that the meta of what it starts from speaks of


def train_supervised(job: Job, world: Processes) -> None:
    """Train the job's phase and save it; NanolanError if there is no result."""
    report = ProgressWriter(job, world.first)
    report.beat("load")
    t = prepare(job, world, report)
    with StopFlag() as stop:
        loop(t, stop)
        finish(t)
    report.close()


# ------------------------------------------------------------------ load
def prepare(job: Job, world: Processes, report: ProgressWriter) -> Training:
    """Recipe, tokenizer, data, model and optimizer, from the start or from a saved state."""
    recipe = recipe_for(job.phase, job.recipe)
    tokenizer = load_tokenizer(job.tokenizer_dir)
    state = find_state(job, world)
    start = checkpoint.load(state or job.init_dir, world.device)
    model = start.model
    check_fit(model, tokenizer, recipe)
    rows = make_rows(mixture(job), job.data_dir, tokenizer, recipe, world, job.out_dir / ".tokens")
    val_rows = validation_rows(job, tokenizer, recipe, world)

    per_step = rows_per_step(recipe, len(rows), rows.n_conversations)
    steps = report.steps = steps_of(recipe, len(rows), per_step)
    agreed = {
        "processes": world.size,
        "data": rows.digest(),
        "rows_per_step": per_step,
        "steps": steps,
        "model_config": asdict(model.config),
        **asdict(recipe),
    }
    saved = start.meta.get("resume") or {} if state else {}
    resume = (
        how_to_resume(saved.get("agreed", {}), agreed, start.step, job.model_only)
        if state
        else Resume(0, False)
    )
    micro = micro_rows(
        job, model, recipe, world, -(-per_step // world.size), saved.get("micro_batch")
    )
    settings = {
        **asdict(recipe),
        "run": job.run_name,
        "rows_per_step": per_step,
        "micro_batch": micro,
        "processes": world.size,
        "init_step": saved.get("init_step", start.step),
    }
    report.say(
        f"{job.phase} of {job.model_tag} step {settings['init_step']}: {model.config.n_params / 1e6:.1f}M "
        f"parameters on {world.size} x {world.device.type}; {rows.n_conversations:,} conversations in "
        f"{len(rows):,} rows of {recipe.sequence_len}; {steps} steps of {per_step} rows, {micro} at a time"
    )
    report.open_wandb(settings)

    optimizer = make_optimizer(
        model,
        world,
        unembedding_lr=recipe.unembedding_lr,
        embedding_lr=recipe.embedding_lr,
        matrix_lr=recipe.matrix_lr,
    )
    states = States(job, world, model, optimizer, state if resume.step else None)
    health = take_up(state, start.step, resume, optimizer, world, report) if state else Health()
    speed_up(model, recipe, world, report)
    stepper = Stepper(model.loss_sum, list(model.parameters()), micro, world.device)
    return Training(
        job,
        world,
        report,
        recipe,
        tokenizer,
        model,
        rows,
        val_rows,
        optimizer,
        stepper,
        states,
        health,
        settings,
        agreed,
        per_step,
        steps,
        resume.step,
        expected_loss(start.meta, tokenizer),
    )


def take_up(
    state: Path,
    step: int,
    resume: Resume,
    optimizer: Optimizer,
    world: Processes,
    report: ProgressWriter,
) -> Health:
    """Fill optimizer and report from a saved state, if they fit; the health of the steps so far."""
    health = Health()
    if resume.optimizer:
        report.losses = load_optimizer(state, step, optimizer, world)
        for loss in report.losses:
            health.see(loss)
    how = "" if resume.optimizer else ", the weights alone"
    report.say(f"{report.job.phase} goes on from {state} at step {resume.step}{how}")
    return health


def check_fit(model: GPT, tokenizer: Tokenizer, recipe: Recipe) -> None:
    """BadAnswer if model, tokenizer and row length do not belong together, or a weight is no number."""
    if not finite(model):
        raise BadAnswer("a weight is not a number in the checkpoint that was to be trained from")
    check_vocabulary(model.config, tokenizer.vocab_size)
    check_rows(model.config, recipe.sequence_len)


def mixture(job: Job) -> tuple[Part, ...]:
    """The phase's data sets; BadAnswer when mid must have an identity file and has none."""
    if job.identity is False:
        return tuple(part for part in TRAINING[job.phase] if part.data != IDENTITY)
    if job.identity and job.phase == "mid" and not (job.data_dir / IDENTITY_FILE).exists():
        raise BadAnswer(
            f"no {IDENTITY_FILE} in {job.data_dir}: mid would not learn who it is. Put one there, or go "
            'without it by "identity": false'
        )
    return TRAINING[job.phase]


def validation_rows(
    job: Job, tokenizer: Tokenizer, recipe: Recipe, world: Processes
) -> Rows | None:
    """A slice of the test splits; None when it is not wanted or, with a warning, when their files are not there."""
    parts = VALIDATION[job.phase]
    try:
        for part in parts if recipe.val_rows else ():
            open_part(part, job.data_dir, recipe.seed)
    except BadAnswer as e:
        print(f"warning: no validation: {e}", file=sys.stderr, flush=True)
        return None
    if not recipe.val_rows:
        return None
    try:
        return make_rows(parts, job.data_dir, tokenizer, recipe, world, job.out_dir / ".tokens-val")
    except NothingToTrain as e:
        print(f"warning: no validation: {e}", file=sys.stderr, flush=True)
        return None


def micro_rows(
    job: Job, model: GPT, recipe: Recipe, world: Processes, per_rank: int, before: int | None
) -> int:
    """Rows of a micro-batch: the job's wish, else as before (memory may have run out), else what the memory allows."""
    gpu_gib = torch.cuda.mem_get_info()[1] / 2**30 if world.device.type == "cuda" else None
    return even_micro_batch(
        per_rank, job.batch or before or micro_batch(model.config, recipe.sequence_len, gpu_gib)
    )


def speed_up(model: GPT, recipe: Recipe, world: Processes, report: ProgressWriter) -> None:
    """Compile on CUDA; let the collector be."""
    config, T = model.config, recipe.sequence_len
    report.mfu_per_token = mfu_per_token(config, T, world.device, world.size)
    if world.device.type == "cuda":
        report.beat("compile")
        heads = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        model.compile_parts(flex=recipe.own_attention and flex_works(*heads, T, world.device))
    gc.freeze()  # the packed rows are millions of objects that the collector need not visit again


# ------------------------------------------------------------------ train
def loop(t: Training, stop: StopFlag) -> None:
    """Steps to the end, or until all ranks have agreed to stop."""
    world, recipe = t.world, t.recipe
    per_rank = -(-t.per_step // world.size)
    while t.done < t.steps:
        t0 = time.perf_counter()
        mine = range(t.done * t.per_step, (t.done + 1) * t.per_step)[world.rank :: world.size]
        batch = t.rows.batch(mine, -(-per_rank // t.stepper.micro) * t.stepper.micro)
        n_trained = world.totals(int((batch.targets >= 0).sum()))[0]
        loss, stops, due = world.totals(
            t.stepper.gradients(batch, n_trained, lambda: stop.requested),
            stop.requested,
            t.states.due(),
        )
        if (
            stops
        ):  # whoever got the signal may have gone through less than its rows: the step is void
            t.stepper.drop()
            return
        loss /= n_trained
        check_number("loss", loss, t.done + 1, t.steps, t.states.kept())
        if t.done == 0:
            check_start(loss, t.expected, t.model.config.vocab_size)
        factor = lr_factor(recipe, t.done, t.steps)
        norm = t.optimizer.step(factor, momentum(recipe, t.done))
        check_number("gradient's norm", norm, t.done + 1, t.steps, t.states.kept())
        t.done += 1
        t.report.step(
            t.done,
            loss,
            recipe.matrix_lr * factor,
            t.per_step * recipe.sequence_len,
            time.perf_counter() - t0,
            norm=norm,
        )
        t.health.see(loss)
        if problem := t.health.exploded():
            raise RunFailed(
                f"{problem}, up to step {t.done} of {t.steps}: stopped, {t.states.kept()}"
            )
        if due and t.health.calm and t.done < t.steps:
            save_state(t)


def save_state(t: Training) -> bool:
    """Save what is needed to go on after step `done`, if it is not there; False if the disk did not take it."""
    if t.states.has(t.done):
        return True
    t.report.beat("save", t.done)
    before = time.perf_counter()
    resume = {
        "agreed": t.agreed,
        "micro_batch": t.stepper.micro,
        "init_step": t.settings["init_step"],
    }
    meta = meta_of(t, {}) | {
        "model_config": asdict(t.model.config),
        "resume": resume,
    }  # mid's changes at its end
    good = t.states.save(t.done, meta, t.report.losses)
    if good:
        t.report.say(
            f"{t.job.phase} state saved at step {t.done} in {time.perf_counter() - before:.1f} s"
        )
    return good


def meta_of(t: Training, values: dict[str, float | None]) -> dict[str, Any]:
    settings = {**t.settings, "micro_batch": t.stepper.micro}
    return checkpoint.meta_of(
        t.job.phase,
        t.model.config,
        t.recipe.sequence_len,
        {"step": t.done, "user_config": settings, **values},
    )


# ------------------------------------------------------------------ save
def finish(t: Training) -> None:
    """The result of a phase that is done, the state of one that was stopped."""
    if t.done == t.steps:
        return save_result(t)
    if t.done == 0:
        return t.report.say(f"{t.job.phase} stopped before its first step: nothing to save")
    if not t.health.calm:  # it may be exploding: the state before that is the better one
        t.report.say(
            f"warning: the loss has been high for {t.health.high} steps: step {t.done} is not saved"
        )
        if not t.states.saved:
            raise RunFailed(f"stopped at step {t.done} while the loss was high: nothing saved")
    elif not save_state(t):
        raise RunFailed(f"stopped at step {t.done}, which could not be saved; {t.states.kept()}")
    return t.report.say(f"{t.job.phase} stopped at step {t.done} of {t.steps}: {t.states.kept()}")


def save_result(t: Training) -> None:
    """Validate and save; SIGTERM no longer matters, this is short."""
    if not finite(t.model):
        raise RunFailed(f"a weight is not a number after step {t.done}: {t.states.kept()}")
    values = measure(t)
    t.world.close()
    if not t.world.first:
        return
    t.report.beat("save", t.done)
    extra = {
        **t.report.loss_span(),
        **values,
        "tokens": t.report.tokens,
        "micro_batch": t.stepper.micro,
    }
    folder = checkpoint.save(
        t.job.out_dir,
        t.done,
        t.model,
        meta_of(t, values),
        run_id=t.job.run_id,
        phase=t.job.phase,
        final=True,
        extra=extra,
    )
    t.states.clear()
    t.report.beat("save", t.done)
    t.report.say(f"{t.job.phase} done at step {t.done}: saved {folder}")


def measure(t: Training) -> dict[str, float | None]:
    """val_bpb of mid, val_loss of sft."""
    if t.val_rows is None:
        return {}
    t.report.beat("validate", t.done)
    sizes = load_token_bytes(t.job.tokenizer_dir, t.tokenizer) if t.job.phase == "mid" else None
    name = "val_loss" if sizes is None else "val_bpb"
    t.model.plain_parts()
    value = validate(t.model, t.val_rows, t.recipe.val_rows, t.stepper.micro, t.world, sizes)
    if value is not None:
        t.report.say(f"{t.job.phase} {name} {value:.4f}")
        t.report.row({"step": t.steps, name: value})
    return {name: value}
