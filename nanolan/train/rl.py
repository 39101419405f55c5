"""rl: on-policy reinforcement on GSM8K. Each step asks the model as it is, and takes one step towards its better tries.

The loss is -(sum of log p * advantage over sampled tokens) / (sampled tokens of all ranks), without a ratio, clipping
or a reference model. Question i of the data is asked in step i // questions_per_step, by rank i mod size.
A step's tok_per_s are generated tokens, the calculator's included, over the time of the whole step.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from nanolan.errors import BadAnswer, RunFailed
from nanolan.model import checkpoint
from nanolan.model.engine import Engine
from nanolan.model.gpt import GPT
from nanolan.model.sampling import Sampling
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from nanolan.train.job import Job
from nanolan.train.optim import Optimizer, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.recipe import Recipe, lr_factor, micro_batch, momentum, recipe_for
from nanolan.train.rollouts import (
    Question,
    Rollout,
    digest,
    pass_at,
    policy_batch,
    policy_loss,
    read_questions,
    roll_out,
)
from nanolan.train.state import Resume, States, find_state, how_to_resume, load_optimizer
from nanolan.train.step import Stepper, check_number, finite
from nanolan.train.stop import StopFlag
from nanolan.train.supervised import check_fit

CPU_POSITIONS = 2048  # of a micro-batch: larger ones are no faster, but take memory


@dataclass
class Reinforcement:
    """The phase under way."""

    job: Job
    world: Processes
    report: ProgressWriter
    recipe: Recipe
    tokenizer: Tokenizer
    model: GPT
    engine: Engine
    questions: list[Question]
    test: list[Question]
    optimizer: Optimizer
    stepper: Stepper
    states: States
    settings: dict[str, Any]  # of the meta's user_config and of wandb
    agreed: dict[str, Any]  # what a state can only be gone on from under
    steps: int
    done: int
    rewards: list[float]  # mean of each step
    passed: dict[str, list[float]] = field(
        default_factory=dict
    )  # "start" and "end": pass@1, pass@2, ...


def train_rl(job: Job, world: Processes) -> None:
    """Train the job's rl phase and save it; NanolanError if there is no result."""
    report = ProgressWriter(job, world.first)
    report.beat("load")
    t = prepare(job, world, report)
    with StopFlag() as stop:
        if t.done == 0:
            examine(t, "start", stop)
        loop(t, stop)
        finish(t, stop)
    report.close()


# ------------------------------------------------------------------ load
def prepare(job: Job, world: Processes, report: ProgressWriter) -> Reinforcement:
    """Recipe, tokenizer, questions, model and optimizer, from the start or from a saved state."""
    recipe = recipe_for("rl", job.recipe)
    tokenizer = load_tokenizer(job.tokenizer_dir)
    state = find_state(job, world)
    start = checkpoint.load(state or job.init_dir, world.device)
    model = start.model
    check_fit(model, tokenizer, recipe)
    engine = Engine(model, tokenizer)
    room = min(
        recipe.sequence_len, engine.room(recipe.max_new_tokens) - 1
    )  # one for assistant_start
    if room < 1:
        raise BadAnswer(
            f"answers of {recipe.max_new_tokens} tokens leave no room for a question: "
            f"the model's positions end at {model.cos.size(1)}"
        )
    questions = read_questions(job.data_dir, "train", tokenizer, room)
    if not questions:
        raise BadAnswer(f"no question in {job.data_dir}")
    test = test_questions(job, tokenizer, recipe, room)

    steps = report.steps = recipe.max_steps or max(1, len(questions) // recipe.questions_per_step)
    agreed = {
        "processes": world.size,
        "data": digest(questions),
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
    longest = max(len(q.prompt) for q in questions) + recipe.max_new_tokens
    micro = job.batch or saved.get("micro_batch") or rows_that_fit(model, longest, world)
    settings = {
        **asdict(recipe),
        "run": job.run_name,
        "micro_batch": micro,
        "processes": world.size,
        "init_step": saved.get("init_step", start.step),
    }
    report.say(
        f"rl of {job.model_tag} step {settings['init_step']}: {model.config.n_params / 1e6:.1f}M parameters on "
        f"{world.size} x {world.device.type}; {len(questions):,} questions, {steps} steps of "
        f"{recipe.questions_per_step} with {recipe.samples} answers each, {micro} at a time in the update"
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
    if state:
        report.say(
            f"rl goes on from {state}: step {resume.step}"
            + ("" if resume.optimizer else ", the weights alone")
        )
    if state and resume.optimizer:
        report.losses = load_optimizer(state, start.step, optimizer, world)
    stepper = Stepper(
        lambda ids, weights: policy_loss(model, ids, weights),
        list(model.parameters()),
        micro,
        world.device,
    )
    return Reinforcement(
        job,
        world,
        report,
        recipe,
        tokenizer,
        model,
        engine,
        questions,
        test,
        optimizer,
        stepper,
        states,
        settings,
        agreed,
        steps,
        resume.step,
        list(saved.get("rewards", [])) if resume.step else [],
        dict(saved.get("passed", {})),
    )


def rows_that_fit(model: GPT, longest: int, world: Processes) -> int:
    """Rows of a micro-batch of the update, of at most `longest` tokens each."""
    if world.device.type == "cpu":
        return max(1, CPU_POSITIONS // longest)
    return micro_batch(model.config, longest, torch.cuda.mem_get_info()[1] / 2**30)


def test_questions(
    job: Job, tokenizer: Tokenizer, recipe: Recipe, max_tokens: int
) -> list[Question]:
    """The questions of the examination; none, with a warning, when their file is not there."""
    if not recipe.eval_questions:
        return []
    try:
        return read_questions(job.data_dir, "test", tokenizer, max_tokens, recipe.eval_questions)
    except BadAnswer as e:
        print(f"warning: no pass@k: {e}", file=sys.stderr, flush=True)
        return []


# ------------------------------------------------------------------ train
def loop(t: Reinforcement, stop: StopFlag) -> None:
    """Steps to the end, or until all ranks have agreed to stop."""
    world, recipe = t.world, t.recipe
    while t.done < t.steps:
        t0 = time.perf_counter()
        rollouts = ask(t, stop)
        generated_s = time.perf_counter() - t0
        tries = [c for r in rollouts for c in r.tries]
        reward, n, sampled, tokens, teaching, due, stops = world.totals(
            sum(sum(r.rewards) for r in rollouts),
            len(tries),
            sum(sum(c.mask) for c in tries),
            sum(len(c.ids) for c in tries),
            sum(r.teaches for r in rollouts),
            t.states.due(),
            stop.requested,
        )
        if stops:
            return
        factor, loss, norm = lr_factor(recipe, t.done, t.steps), 0.0, 0.0
        if (
            teaching
        ):  # else no rank has anything to learn from: the step counts, but changes nothing
            batch = policy_batch(rollouts, t.tokenizer.bos)
            mine = t.stepper.gradients(batch, sampled, lambda: stop.requested) if batch else 0.0
            loss, stops = world.totals(mine / sampled, stop.requested)
            if stops:
                t.stepper.drop()
                return
            check_number("loss", loss, t.done + 1, t.steps, t.states.kept())
            norm = t.optimizer.step(factor, momentum(recipe, t.done))
            check_number("gradient's norm", norm, t.done + 1, t.steps, t.states.kept())
        t.done += 1
        t.rewards.append(reward / n)
        t.report.step(
            t.done,
            loss,
            recipe.matrix_lr * factor,
            int(tokens),
            time.perf_counter() - t0,
            reward=reward / n,
            skipped=recipe.questions_per_step - teaching,
            answer_tokens=tokens / n,
            norm=norm,
            generated_s=generated_s,
        )
        if due and t.done < t.steps:
            save_state(t)


def ask(t: Reinforcement, stop: StopFlag) -> list[Rollout]:
    """This rank's tries at the questions of the next step."""
    r = t.recipe
    mine = range(t.done * r.questions_per_step, (t.done + 1) * r.questions_per_step)[
        t.world.rank :: t.world.size
    ]
    t.engine.refresh()
    sampling = Sampling(r.max_new_tokens, r.temperature, r.top_k, r.seed)
    return roll_out(
        t.engine,
        [t.questions[i % len(t.questions)] for i in mine],
        list(mine),
        r.samples,
        sampling,
        lambda: stop.requested,
    )


def examine(t: Reinforcement, when: str, stop: StopFlag) -> None:
    """pass@1 to pass@eval_samples on the test questions, by the same random numbers each time; kept in `passed`."""
    if not t.test:
        return
    t.report.beat("validate", t.done)
    r, mine = t.recipe, range(t.world.rank, len(t.test), t.world.size)
    t.engine.refresh()
    rollouts = roll_out(
        t.engine,
        [t.test[i] for i in mine],
        list(mine),
        r.eval_samples,
        Sampling(r.max_new_tokens, 1.0, r.top_k, r.seed),
        lambda: stop.requested,
    )
    *passed, stops = t.world.totals(*pass_at(rollouts, r.eval_samples), stop.requested)
    if stops:
        return
    t.passed[when] = [n / len(t.test) for n in passed]
    t.report.say(
        f"rl at the {when}: "
        + ", ".join(f"pass@{k} {p:.3f}" for k, p in enumerate(t.passed[when], 1))
        + f" of {len(t.test)} test questions"
    )
    t.report.row({"step": t.done, **{f"pass_at_{k}": p for k, p in enumerate(t.passed[when], 1)}})


# ------------------------------------------------------------------ save
def meta_of(t: Reinforcement) -> dict[str, Any]:
    """nanochat's meta of this phase, with what was measured."""
    return checkpoint.meta_of(
        "rl",
        t.model.config,
        t.recipe.sequence_len,
        {
            "step": t.done,
            "pass_at_k": t.passed.get("end"),
            "user_config": {**t.settings, "micro_batch": t.stepper.micro},
        },
    )


def save_state(t: Reinforcement) -> bool:
    """Save what is needed to go on after step `done`; False if the disk did not take it."""
    t.report.beat("save", t.done)
    resume = {
        "agreed": t.agreed,
        "micro_batch": t.stepper.micro,
        "init_step": t.settings["init_step"],
        "rewards": t.rewards,
        "passed": t.passed,
    }
    good = t.states.save(t.done, meta_of(t) | {"resume": resume}, t.report.losses)
    if good:
        t.report.say(f"rl state saved at step {t.done}")
    return good


def finish(t: Reinforcement, stop: StopFlag) -> None:
    """The result of a phase that is done, the state of one that was stopped."""
    if t.done == t.steps:
        return save_result(t, stop)
    if t.done == 0:
        return t.report.say("rl stopped before its first step: nothing to save")
    if not save_state(t):
        raise RunFailed(f"stopped at step {t.done}, which could not be saved; {t.states.kept()}")
    return t.report.say(f"rl stopped at step {t.done} of {t.steps}: {t.states.kept()}")


def save_result(t: Reinforcement, stop: StopFlag) -> None:
    """Examine, unless a SIGTERM says that there is no time for it, and save."""
    if not finite(t.model):
        raise RunFailed(f"a weight is not a number after step {t.done}: {t.states.kept()}")
    examine(t, "end", stop)
    t.world.close()
    if not t.world.first:
        return
    t.report.beat("save", t.done)
    n = max(1, len(t.rewards) // 10)
    extra = {
        **t.report.loss_span(),
        "tokens": t.report.tokens,
        "reward_start": sum(t.rewards[:n]) / n,
        "reward_end": sum(t.rewards[-n:]) / n,
        **{f"pass_at_{k}_{when}": p for when, ps in t.passed.items() for k, p in enumerate(ps, 1)},
    }
    folder = checkpoint.save(
        t.job.out_dir,
        t.done,
        t.model,
        meta_of(t),
        run_id=t.job.run_id,
        phase="rl",
        final=True,
        extra=extra,
    )
    t.states.clear()
    t.report.beat("save", t.done)
    t.report.say(f"rl done at step {t.done}: saved {folder}")
