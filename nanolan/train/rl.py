"""rl: on-policy reinforcement learning on GSM8K. Each step samples answers from the current model and takes one
optimizer step towards the better ones.

The loss is -(sum of log p * advantage over sampled tokens) / (sampled tokens of all ranks), without a ratio, clipping
or a reference model. Question i of the data is asked in step i // questions_per_step, by rank i mod size.
A step's tok_per_s are generated tokens, the calculator's included, over the time of the whole step.
See nanolan/train/phase.py for what rl shares with mid and sft.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from nanolan.errors import BadAnswer
from nanolan.model.generation.engine import CUDA_KEPT_SHARE, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.rollouts import (
    Question,
    Rollout,
    digest,
    pass_at,
    policy_batch,
    policy_loss,
    read_questions,
    roll_out,
)
from nanolan.train.job import Job
from nanolan.train.phase import Phase, Start, finish, load_start
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.recipe import Recipe, lr_factor, micro_batch, momentum, resumed_micro_batch
from nanolan.train.step import check_number
from nanolan.train.stop import StopFlag

CPU_POSITIONS = 2048  # of a micro-batch: larger ones need more memory and are no faster


class Reinforcement(Phase):
    """rl in progress."""

    def __init__(
        self,
        start: Start,
        report: ProgressWriter,
        engine: Engine,
        questions: list[Question],
        test: list[Question],
    ) -> None:
        recipe, model = start.recipe, start.model
        self.engine = engine
        self.questions = questions
        self.test = test
        steps = recipe.max_steps or max(1, len(questions) // recipe.questions_per_step)
        longest = max(len(q.prompt) for q in questions) + recipe.max_new_tokens
        before = start.saved.get("micro_batch")
        fits = rows_that_fit(model, longest, start.world)
        micro = resumed_micro_batch(start.job.batch, before, fits)
        super().__init__(
            start,
            report,
            lambda ids, weights: policy_loss(model, ids, weights),
            work={"data": digest(questions), "steps": steps},
            micro=micro,
            settings={},
            about=f"{len(questions):,} questions, {steps} steps of {recipe.questions_per_step} with "
            f"{recipe.samples} answers each, {micro} at a time in the update",
        )
        # mean of each step
        self.rewards: list[float] = list(start.saved.get("rewards", [])) if self.done else []
        # "start" and "end": pass@1, pass@2, ...
        self.passed: dict[str, list[float]] = dict(start.saved.get("passed", {}))

    def measure(self, stop: StopFlag) -> None:
        """pass@k at the end, unless a SIGTERM leaves no time for it."""
        measure_pass(self, "end", stop)

    def meta_values(self) -> dict[str, Any]:
        return {"pass_at_k": self.passed.get("end")}

    def resume_values(self) -> dict[str, Any]:
        return {"rewards": self.rewards, "passed": self.passed}

    def result_values(self) -> dict[str, Any]:
        n = max(1, len(self.rewards) // 10)
        return {
            "tokens": self.report.tokens,
            "reward_start": sum(self.rewards[:n]) / n,
            "reward_end": sum(self.rewards[-n:]) / n,
            **{
                f"pass_at_{k}_{when}": share
                for when, shares in self.passed.items()
                for k, share in enumerate(shares, 1)
            },
        }


def train_rl(job: Job, world: Processes) -> None:
    """Train the job's rl phase and save it; NanolanError if there is no result."""
    report = ProgressWriter(job, world.first)
    report.beat("load")
    t = prepare(job, world, report)
    with StopFlag() as stop, t.states:
        if t.done == 0:
            measure_pass(t, "start", stop)
        loop(t, stop)
        finish(t, stop)
    report.close()


# ------------------------------------------------------------------ load
def prepare(job: Job, world: Processes, report: ProgressWriter) -> Reinforcement:
    """Load everything, from the start or from a saved state."""
    start = load_start(job, world)
    recipe, tokenizer = start.recipe, start.tokenizer
    engine = Engine(start.model, tokenizer)
    # one position for assistant_start
    room = min(recipe.sequence_len, engine.room(recipe.max_new_tokens) - 1)
    if room < 1:
        raise BadAnswer(
            f"answers of {recipe.max_new_tokens} tokens leave no room for a question: "
            f"the model's positions end at {start.model.cos.size(1)}"
        )
    questions = read_questions(job.data_dir, "train", tokenizer, room)
    if not questions:
        raise BadAnswer(f"no question in {job.data_dir}")
    test = test_questions(job, tokenizer, recipe, room)
    return Reinforcement(start, report, engine, questions, test)


def rows_that_fit(model: GPT, longest: int, world: Processes) -> int:
    """Rows of a micro-batch of the update, of at most `longest` tokens each."""
    if world.device.type == "cpu":
        return max(1, CPU_POSITIONS // longest)
    free = 1 - CUDA_KEPT_SHARE  # the engine may keep the rest
    gpu_gib = free * torch.cuda.mem_get_info()[1] / 2**30
    return micro_batch(model.config, longest, gpu_gib, eager=True)


def test_questions(
    job: Job, tokenizer: Tokenizer, recipe: Recipe, max_tokens: int
) -> list[Question]:
    """The test questions for pass@k; none, with a warning, when their file is missing."""
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
        ):  # otherwise no rank has a training signal: the step counts, but changes nothing
            batch = policy_batch(rollouts, t.tokenizer.bos)
            mine = t.stepper.gradients(batch, sampled, lambda: stop.requested) if batch else 0.0
            loss, stops = world.totals(mine / sampled, stop.requested)
            if stops:
                t.stepper.drop()
                return
            check_number("loss", loss, t.done + 1, t.steps, t.states.kept)
            norm = t.optimizer.step(factor, momentum(recipe, t.done))
            check_number("gradient's norm", norm, t.done + 1, t.steps, t.states.kept)
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
        t.states.tend()
        if due and t.done < t.steps:
            t.save_state()


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


def measure_pass(t: Reinforcement, when: str, stop: StopFlag) -> None:
    """pass@1 to pass@eval_samples on the test questions, with the same random numbers each time; stored in `passed`."""
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
