"""The trainer: one phase, from a folder with a checkpoint to a folder with a checkpoint.

    torchrun --standalone --nproc-per-node N -m nanolan.train JOB.json     (or python -m, for one process)

Exit 0: the result is saved whole (or, after SIGTERM, whatever was trained); 1: it is not, the last line says why.
"""
from __future__ import annotations

import gc
import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")   # read when CUDA starts

import torch  # noqa: E402

from nanolan.errors import BadAnswer, NanolanError, RunFailed  # noqa: E402
from nanolan.train import checkpoint  # noqa: E402
from nanolan.train.job import Job, read_job  # noqa: E402
from nanolan.train.model import GPT  # noqa: E402
from nanolan.train.optim import make_optimizer  # noqa: E402
from nanolan.train.recipe import (  # noqa: E402
    Recipe,
    lr_factor,
    micro_batch,
    momentum,
    recipe_for,
    rows_per_step,
    steps_of,
)
from nanolan.train.report import Report  # noqa: E402
from nanolan.train.rows import Rows, make_rows  # noqa: E402
from nanolan.train.step import Stepper, even_micro_batch, validate  # noqa: E402
from nanolan.train.stop import StopFlag, follow_parent  # noqa: E402
from nanolan.train.tasks import TRAINING, VALIDATION, open_part  # noqa: E402
from nanolan.train.tokenizer import Tokenizer, load_token_bytes, load_tokenizer  # noqa: E402
from nanolan.train.world import World, join_world  # noqa: E402


def main(argv: list[str]) -> int:
    """Run the job in the file argv[0]; the exit code."""
    if len(argv) != 1:
        print("usage: python -m nanolan.train JOB.json", file=sys.stderr)
        return 1
    follow_parent()
    try:
        job = read_job(Path(argv[0]))
        train(job, join_world(job.device))
    except NanolanError as e:
        print(f"nanolan.train: {e}", file=sys.stderr, flush=True)
        return 1
    return 0


def train(job: Job, world: World) -> None:
    """Train the job's phase and save it; NanolanError if there is no result."""
    report = Report(job, world.first)

    # ---- load: recipe, tokenizer, model, data -----------------------------------------------------------
    report.beat("load")
    recipe = recipe_for(job.phase, job.recipe)
    tokenizer = load_tokenizer(job.tokenizer_dir)
    start = checkpoint.load(job.init_dir, world.device)
    model = start.model
    check_fit(model, tokenizer, recipe)
    rows = make_rows(TRAINING[job.phase], job.data_dir, tokenizer, recipe, world, job.out_dir / ".tokens")
    val_rows = validation_rows(job, tokenizer, recipe, world)

    # ---- batch: the recipe's rows a step, split over ranks and micro-batches ----------------------------
    per_step = rows_per_step(recipe, len(rows), rows.n_conversations)
    per_rank = -(-per_step // world.size)
    gpu_gib = torch.cuda.mem_get_info()[1] / 2 ** 30 if world.device.type == "cuda" else None
    fits = job.batch or micro_batch(model.config, recipe.sequence_len, gpu_gib)
    micro = even_micro_batch(per_rank, fits)
    steps = report.steps = steps_of(recipe, len(rows), per_step)
    settings = {**asdict(recipe), "run": job.run_name, "rows_per_step": per_step, "micro_batch": micro,
                "processes": world.size, "init_step": start.step}
    report.say(f"{job.phase} of {job.model_tag} step {start.step}: {model.config.n_params / 1e6:.1f}M parameters on "
               f"{world.size} x {world.device.type}; {rows.n_conversations:,} conversations in {len(rows):,} rows of "
               f"{recipe.sequence_len}; {steps} steps of {per_step} rows, {micro} at a time")
    report.open_wandb(settings)
    if world.device.type == "cuda":
        report.beat("compile")
        model.compile_parts()

    # ---- train ------------------------------------------------------------------------------------------
    optimizer = make_optimizer(model, world, unembedding_lr=recipe.unembedding_lr,
                               embedding_lr=recipe.embedding_lr, matrix_lr=recipe.matrix_lr)
    stepper = Stepper(model.loss_sum, list(model.parameters()), micro, world.device)
    gc.freeze()          # the packed rows are millions of objects that the collector need not visit again
    done = 0
    with StopFlag() as stop:
        while done < steps:
            t0 = time.perf_counter()
            mine = range(done * per_step, (done + 1) * per_step)[world.rank::world.size]
            ids, targets = rows.batch(mine, -(-per_rank // micro) * micro)
            n_trained, stops = world.totals(int((targets >= 0).sum()), stop.requested)
            if stops:
                break
            loss = world.totals(stepper.gradients(ids, targets, n_trained))[0] / n_trained
            if not math.isfinite(loss):
                raise RunFailed(f"the loss is {loss} at step {done + 1} of {steps}: stopped, nothing saved")
            factor = lr_factor(recipe, done, steps)
            optimizer.step(factor, momentum(recipe, done))
            done += 1
            report.step(done, loss, recipe.matrix_lr * factor, per_step * recipe.sequence_len,
                        time.perf_counter() - t0)

        # ---- validate and save: SIGTERM no longer matters, this is short --------------------------------
        values: dict[str, float | None] = {}
        if done == steps and val_rows is not None:
            values = measure(job, model, tokenizer, val_rows, recipe.val_rows, stepper.micro, world, report)
        world.close()
        if world.first:
            settings["micro_batch"] = stepper.micro
            save(job, model, recipe, done, done == steps, values, settings, report)
    report.close()


def check_fit(model: GPT, tokenizer: Tokenizer, recipe: Recipe) -> None:
    """BadAnswer if model, tokenizer and row length do not belong together."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise BadAnswer(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}")
    if recipe.sequence_len > model.cos.size(1):
        raise BadAnswer(f"rows of {recipe.sequence_len} tokens, but the model's positions end at {model.cos.size(1)}")


def validation_rows(job: Job, tokenizer: Tokenizer, recipe: Recipe, world: World) -> Rows | None:
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
    return make_rows(parts, job.data_dir, tokenizer, recipe, world, job.out_dir / ".tokens-val")


def measure(job: Job, model: GPT, tokenizer: Tokenizer, rows: Rows, n_rows: int, micro: int, world: World,
            report: Report) -> dict[str, float | None]:
    """val_bpb of mid, val_loss of sft."""
    sizes = load_token_bytes(job.tokenizer_dir, tokenizer) if job.phase == "mid" else None
    name = "val_loss" if sizes is None else "val_bpb"
    model.plain_parts()
    value = validate(model, rows, n_rows, micro, world, sizes)
    if value is not None:
        report.say(f"{job.phase} {name} {value:.4f}")
        report.row({"step": report.steps, name: value})
    return {name: value}


def save(job: Job, model: GPT, recipe: Recipe, step: int, final: bool, values: dict[str, float | None],
         settings: dict[str, object], report: Report) -> None:
    """Save what was trained, whole; nothing when no step was."""
    if step == 0:
        report.say(f"{job.phase} stopped before its first step: nothing to save")
        return
    report.beat("save", step)
    meta = checkpoint.meta_of(job.phase, model.config, recipe.sequence_len,
                              {"step": step, "user_config": settings, **values})
    folder = checkpoint.save(job.out_dir, step, model, meta, run_id=job.run_id, phase=job.phase, final=final,
                             extra={**report.loss_span(), **values, "micro_batch": settings["micro_batch"]})
    report.beat("save", step)
    report.say(f"{job.phase} {'done' if final else 'stopped'} at step {step}: saved {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
