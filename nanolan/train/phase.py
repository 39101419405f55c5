"""Shared by mid, sft and rl: load a checkpoint or a saved state, save states during training, save the result.

Every rank runs this and must take the same branches, so a decision that depends on a clock or a signal is first
exchanged between the ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nanolan.checkpoint.architecture import check_rows, check_vocabulary
from nanolan.errors import BadAnswer, RunFailed
from nanolan.model import checkpoint
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.job import Job
from nanolan.train.optim import make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.recipe import Recipe, recipe_for
from nanolan.train.state.resume import Resume, Saved, how_to_resume, load_saved, restore_optimizer
from nanolan.train.state.saving import States
from nanolan.train.step import Health, Loss, Stepper, finite
from nanolan.train.stop import StopFlag


@dataclass(frozen=True)
class Start:
    """The inputs of a phase."""

    job: Job
    world: Processes
    recipe: Recipe
    tokenizer: Tokenizer
    model: GPT
    step: int  # of the checkpoint
    meta: dict[str, Any]  # of the checkpoint
    state: Saved | None  # if the checkpoint is one
    saved: dict[str, Any]  # the `resume` entry of the state's meta; empty without a state


def load_start(job: Job, world: Processes) -> Start:
    """Load recipe, tokenizer and the newest saved state that can be loaded, or else the job's initial checkpoint.

    BadAnswer when they do not fit together or a weight is not finite.
    """
    recipe = recipe_for(job.phase, job.recipe)
    tokenizer = load_tokenizer(job.tokenizer_dir)
    state = load_saved(job, world, lambda model: check_fit(model, tokenizer, recipe))
    start = state.model if state else checkpoint.load(job.init_dir, world.device)
    if state is None:
        check_fit(start.model, tokenizer, recipe)
    saved = state.resume if state else {}
    return Start(job, world, recipe, tokenizer, start.model, start.step, start.meta, state, saved)


def check_fit(model: GPT, tokenizer: Tokenizer, recipe: Recipe) -> None:
    """BadAnswer if model, tokenizer and row length do not fit together, or a weight is not finite."""
    if not finite(model):
        raise BadAnswer("a weight is not a number in the checkpoint to train from")
    check_vocabulary(model.config, tokenizer.vocab_size)
    check_rows(model.config, recipe.sequence_len)


def resume_of(start: Start, agreed: dict[str, Any]) -> Resume:
    """How to resume from `start`; UsageProblem when its state does not match `agreed`."""
    if start.state is None:
        return Resume(0, optimizer=False)
    how = how_to_resume(start.saved["agreed"], agreed, start.step, start.job.model_only)
    return Resume(how.step, how.optimizer and start.state.optimizer is not None)


class Phase:
    """A phase in progress. A subclass adds data, the training loop and its own values in meta, state and manifest."""

    def __init__(
        self,
        start: Start,
        report: ProgressWriter,
        loss: Loss,
        *,
        work: dict[str, Any],
        micro: int,
        settings: dict[str, Any],
        about: str,
    ) -> None:
        """Log the start, open wandb, and make optimizer and stepper; restore them from the saved state.

        `work` has "steps", "data" and whatever else must be equal for a state to be resumed, `settings` are those
        to record beside the recipe, `about` is the data and the steps in words. UsageProblem when the saved state
        belongs to other work.
        """
        self.job = job = start.job
        self.world = world = start.world
        self.recipe = recipe = start.recipe
        self.tokenizer = start.tokenizer
        self.model = model = start.model
        self.report = report
        self.steps: int = work["steps"]
        self.health = Health()  # always calm if the losses are not watched
        self.agreed = {  # saved with each state and compared before it is resumed
            "processes": world.size,
            **work,
            "model_config": asdict(model.config),
            **asdict(recipe),
        }
        resume = resume_of(start, self.agreed)
        self.done = resume.step  # steps
        self.settings = {  # for the meta's user_config and for wandb
            **asdict(recipe),
            "run": job.run_name,
            **settings,
            "micro_batch": micro,
            "processes": world.size,
            "init_step": start.saved.get("init_step", start.step),
        }
        report.steps = self.steps
        report.say(
            f"{job.phase} of {job.model_tag} step {self.settings['init_step']}: "
            f"{model.config.n_params / 1e6:.1f}M parameters on {world.size} x {world.device.type}; {about}"
        )
        report.open_wandb(self.settings)
        self.optimizer = make_optimizer(
            model,
            world,
            unembedding_lr=recipe.unembedding_lr,
            embedding_lr=recipe.embedding_lr,
            matrix_lr=recipe.matrix_lr,
        )
        resumed = start.state.folder if start.state and resume.step else None
        self.states = States(job, world, model, self.optimizer, resumed, told=self._saved)
        self.stepper = Stepper(loss, list(model.parameters()), micro, world.device)
        if start.state:
            self._restore(start.state, resume)

    def _restore(self, state: Saved, resume: Resume) -> None:
        if resume.optimizer and state.optimizer is not None:
            self.report.losses = restore_optimizer(state.optimizer, self.optimizer, self.world)
        how = "" if resume.optimizer else ", the weights alone"
        self.report.say(
            f"{self.job.phase} continues from {state.folder} at step {resume.step}{how}"
        )

    def _saved(self, step: int, seconds: float, stopped_s: float) -> None:
        """A state is whole on disk."""
        self.report.save_s = seconds
        stopped = f", {stopped_s:.1f} s of it without training" if stopped_s < seconds else ""
        self.report.say(f"{self.job.phase} state saved at step {step} in {seconds:.1f} s{stopped}")

    # ------------------------------------------------------------------ for subclasses
    def measure(self, stop: StopFlag) -> None:
        """Measure the trained model before it is saved; every rank calls this."""

    def meta_values(self) -> dict[str, Any]:
        """Measurements for the meta file."""
        return {}

    def resume_values(self) -> dict[str, Any]:
        """The contents of a state besides weights, optimizer, random numbers and losses."""
        return {}

    def result_values(self) -> dict[str, Any]:
        """Numbers for the manifest of the result."""
        return {}

    # ------------------------------------------------------------------ save
    def meta(self) -> dict[str, Any]:
        """nanochat's meta of this phase after step `done`."""
        settings = {**self.settings, "micro_batch": self.stepper.micro}
        values = {"step": self.done, "user_config": settings, **self.meta_values()}
        return checkpoint.meta_of(
            self.job.phase, self.model.config, self.recipe.sequence_len, values
        )

    def save_state(self, *, beside: bool = True) -> bool:
        """Save the state after step `done` unless it is saved already: `beside` the training, or now. False, with a
        warning, if it could not be saved now."""
        self.report.beat("save", self.done)
        self.states.settle()
        if self.states.has(self.done):
            return True
        resume = {
            "agreed": self.agreed,
            "micro_batch": self.stepper.micro,
            "init_step": self.settings["init_step"],
            **self.resume_values(),
        }
        # mid's result has another sequence_len than the model that is trained
        model_config = asdict(self.model.config)
        meta = self.meta() | {"model_config": model_config, "resume": resume}
        return self.states.save(self.done, meta, self.report.losses, beside=beside)

    def save_result(self, stop: StopFlag) -> None:
        """Measure and save the trained model; RunFailed if a weight is not finite."""
        if not finite(self.model):
            raise RunFailed(
                f"a weight is not a number after step {self.done}: {self.states.kept()}"
            )
        self.measure(stop)
        self.states.settle()
        self.world.close()
        if not self.world.first:
            return
        self.report.beat("save", self.done)
        folder = checkpoint.save(
            self.job.out_dir,
            self.done,
            self.model,
            self.meta(),
            run_id=self.job.run_id,
            phase=self.job.phase,
            final=True,
            extra={**self.report.loss_span(), **self.result_values()},
        )
        self.states.clear()
        self.report.beat("save", self.done)
        self.report.say(f"{self.job.phase} done at step {self.done}: saved {folder}")


def finish(phase: Phase, stop: StopFlag) -> None:
    """Save the result of a phase that is done, or the state of one that was stopped.

    RunFailed when a stopped phase has no state: it could not be saved, or its loss was high.
    """
    name = phase.job.phase
    done = phase.done
    health = phase.health
    if done == phase.steps:
        return phase.save_result(stop)
    if done == 0:
        return phase.report.say(f"{name} stopped before its first step: nothing to save")
    phase.states.settle()
    if not health.calm:  # the loss may be diverging: an earlier state is better
        phase.report.say(
            f"warning: the loss has been high for {health.high} steps: step {done} is not saved"
        )
        if not phase.states.saved:
            raise RunFailed(f"stopped at step {done} while the loss was high: nothing saved")
    elif not phase.save_state(beside=False):
        raise RunFailed(f"stopped at step {done}, which could not be saved; {phase.states.kept()}")
    return phase.report.say(
        f"{name} stopped at step {done} of {phase.steps}: {phase.states.kept()}"
    )
