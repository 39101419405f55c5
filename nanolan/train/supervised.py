"""mid and sft: train on packed conversations, validate, save; resume from a saved state.

A phase that receives SIGTERM saves a state. See nanolan/train/phase.py for what it shares with rl.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

import torch

from nanolan.checkpoint.compile_forecast import CompileForecast, compile_forecast
from nanolan.errors import BadAnswer, RunFailed
from nanolan.model.attention import flex_works
from nanolan.model.tokenizer import Tokenizer, load_token_bytes
from nanolan.phases import IDENTITY_FILE, VALIDATED
from nanolan.train.data.mixtures import IDENTITY, TRAINING, VALIDATION, Part, open_part
from nanolan.train.data.packing import NothingToTrain, Rows, make_rows
from nanolan.train.job import Job
from nanolan.train.phase import Phase, Start, finish, load_start
from nanolan.train.processes import Processes
from nanolan.train.progress import (
    ProgressWriter,
    flops_per_token,
    mfu_per_token,
    peak_flops,
)
from nanolan.train.recipe import (
    Recipe,
    lr_factor,
    micro_batch,
    momentum,
    resumed_micro_batch,
    rows_per_step,
    steps_of,
)
from nanolan.train.reduction import Reduction
from nanolan.train.step import (
    check_number,
    check_start,
    even_micro_batch,
    expected_loss,
    validate,
)
from nanolan.train.stop import StopFlag


class Training(Phase):
    """mid or sft in progress."""

    def __init__(
        self, start: Start, report: ProgressWriter, rows: Rows, val_rows: Rows | None
    ) -> None:
        recipe = start.recipe
        self.rows = rows
        self.val_rows = val_rows
        self.per_step = rows_per_step(recipe, len(rows), rows.n_conversations)  # of all ranks
        self.measured: dict[str, float | None] = {}
        # loss that the meta of the initial checkpoint implies
        self.expected = expected_loss(start.meta, start.tokenizer)
        steps = steps_of(recipe, len(rows), self.per_step)
        mine = len(rows_of_rank(0, self.per_step, start.world))
        self.device = start.world.device
        most = -(-self.per_step // start.world.size)  # rows of a rank: all ranks decide alike
        self.compiling = forecast_of(start, steps - start.step * bool(start.state), most)
        micro = micro_rows(start, mine, eager=not self.compiles)
        super().__init__(
            start,
            report,
            start.model.loss_sum,
            work={"data": rows.digest(), "rows_per_step": self.per_step, "steps": steps},
            micro=micro,
            settings={"rows_per_step": self.per_step},
            about=f"{rows.n_conversations:,} conversations in {len(rows):,} rows of "
            f"{recipe.sequence_len}; {steps} steps of {self.per_step} rows, {micro} at a time",
        )
        if self.world.size > 1:
            self.stepper.reduction = Reduction(self.optimizer, self.world)
        for loss in report.losses:
            self.health.see(loss)

    @property
    def compiles(self) -> bool:
        """Whether the model is compiled: on CUDA, unless that takes longer than it saves."""
        cuda = self.device.type == "cuda"
        return cuda and (self.compiling is None or self.compiling.worth)

    def measure(self, stop: StopFlag) -> None:
        """Validation: val_bpb of mid, val_loss of sft. SIGTERM does not stop it, since it is short."""
        if self.val_rows is None:
            return
        self.report.beat("validate", self.done)
        phase = self.job.phase
        name = VALIDATED[phase]
        in_bits = name == "val_bpb"
        sizes = load_token_bytes(self.job.tokenizer_dir, self.tokenizer) if in_bits else None
        self.model.plain_parts()
        value = validate(
            self.model, self.val_rows, self.recipe.val_rows, self.stepper.micro, self.world, sizes
        )
        if value is not None:
            self.report.say(f"{phase} {name} {value:.4f}")
            self.report.row({"step": self.steps, name: value})
        self.measured = {name: value}

    def meta_values(self) -> dict[str, Any]:
        return self.measured

    def result_values(self) -> dict[str, Any]:
        return {
            **self.measured,
            "tokens": self.report.tokens,
            "micro_batch": self.stepper.micro,
        }


def train_supervised(job: Job, world: Processes) -> None:
    """Train the job's phase and save it; NanolanError if there is no result."""
    report = ProgressWriter(job, world.first)
    report.beat("load")
    t = prepare(job, world, report)
    with StopFlag() as stop, t.states:
        loop(t, stop)
        finish(t, stop)
    report.close()


# ------------------------------------------------------------------ load
def prepare(job: Job, world: Processes, report: ProgressWriter) -> Training:
    """Load everything, from the start or from a saved state, and compile the model."""
    start = load_start(job, world)
    recipe = start.recipe
    parts = mixture(job)
    rows = make_rows(parts, job.data_dir, start.tokenizer, recipe, world, job.out_dir / ".tokens")
    t = Training(start, report, rows, validation_rows(job, start.tokenizer, recipe, world))
    speed_up(t)
    return t


def mixture(job: Job) -> tuple[Part, ...]:
    """The phase's data sets; BadAnswer when mid requires an identity file and has none."""
    if job.identity is False:
        return tuple(part for part in TRAINING[job.phase] if part.data != IDENTITY)
    if job.identity and job.phase == "mid" and not (job.data_dir / IDENTITY_FILE).exists():
        raise BadAnswer(
            f"no {IDENTITY_FILE} in {job.data_dir}: mid would not learn its identity. Put one there, or train "
            'without it by "identity": false'
        )
    return TRAINING[job.phase]


def validation_rows(
    job: Job, tokenizer: Tokenizer, recipe: Recipe, world: Processes
) -> Rows | None:
    """A slice of the test splits; None when it is off or, with a warning, when their files are missing."""
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


def rows_of_rank(step: int, per_step: int, world: Processes) -> range:
    """The rows of a step that this rank trains: every size-th one, from its own number on; as many in each step."""
    return range(step * per_step, (step + 1) * per_step)[world.rank :: world.size]


def forecast_of(start: Start, steps: int, rows: int) -> CompileForecast | None:
    """What compiling takes and saves in so many steps of `rows` rows on a rank; None on the CPU and on an unknown GPU."""
    config, recipe, device = start.model.config, start.recipe, start.world.device
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peak is None:
        return None
    flops = flops_per_token(config, recipe.sequence_len) * recipe.sequence_len * rows
    return compile_forecast(steps, flops, peak, config.n_layer, flex=recipe.own_attention)


def micro_rows(start: Start, per_rank: int, *, eager: bool) -> int:
    """Rows of a micro-batch of this rank, which has `per_rank` rows in a step."""
    device, before = start.world.device, start.saved.get("micro_batch")
    gpu_gib = torch.cuda.mem_get_info()[1] / 2**30 if device.type == "cuda" else None
    fits = micro_batch(start.model.config, start.recipe.sequence_len, gpu_gib, eager=eager)
    return even_micro_batch(max(1, per_rank), resumed_micro_batch(start.job.batch, before, fits))


def speed_up(t: Training) -> None:
    """Compile on CUDA where that saves time; freeze the garbage collector."""
    model, recipe, world, report = t.model, t.recipe, t.world, t.report
    config, T = model.config, recipe.sequence_len
    report.mfu_per_token = mfu_per_token(config, T, world.device, world.size)
    if t.compiles:
        report.beat("compile")
        heads = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        model.compile_parts(flex=recipe.own_attention and flex_works(*heads, T, world.device))
    elif t.compiling:
        takes_s, saves_s = t.compiling
        report.say(f"not compiled: that takes about {takes_s:.0f} s and saves {saves_s:.0f} s")
    gc.freeze()  # the packed rows are millions of objects that the collector need not scan again


# ------------------------------------------------------------------ train
def loop(t: Training, stop: StopFlag) -> None:
    """Steps to the end, or until all ranks have agreed to stop."""
    world, recipe = t.world, t.recipe
    while t.done < t.steps:
        t0 = time.perf_counter()
        mine = rows_of_rank(t.done, t.per_step, world)
        batch = t.rows.batch(mine, t.stepper.padded(len(mine)))
        n_trained = world.totals(int((batch.targets >= 0).sum()))[0]
        loss, stops, due = world.totals(
            t.stepper.gradients(batch, n_trained, lambda: stop.requested),
            stop.requested,
            t.states.due(),
        )
        if stops:  # the signalled rank may have processed only part of its rows: discard the step
            t.stepper.drop()
            return
        loss /= n_trained
        check_number("loss", loss, t.done + 1, t.steps, t.states.kept)
        if t.done == 0:
            check_start(loss, t.expected, t.model.config.vocab_size)
        factor = lr_factor(recipe, t.done, t.steps)
        norm = t.optimizer.step(factor, momentum(recipe, t.done), t.stepper.reduction)
        check_number("gradient's norm", norm, t.done + 1, t.steps, t.states.kept)
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
        t.states.tend()
        if due and t.health.calm and t.done < t.steps:
            t.save_state()
