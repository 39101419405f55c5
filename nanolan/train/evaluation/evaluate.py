"""Accuracy on ARC, MMLU, GSM8K, SpellingBee and, on request, HumanEval, combined in ChatCORE.

    evaluate_model(model, tokenizer, data_dir, world, scope="quick")
    -> {"scope": "quick", "arc_easy_acc": 0.31, ..., "chatcore": 0.12, "chatcore_tasks": 5, "not_measured": {...}}

Problems are dealt to the ranks; all get the same results. A task that cannot be measured has no number, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from nanolan.errors import BadAnswer, UsageProblem
from nanolan.model.generation.engine import Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT, softcap
from nanolan.model.tokenizer import Tokenizer
from nanolan.train.data.rollouts import Question, roll_out
from nanolan.train.evaluation.humaneval import Problem, program_of, prompt_of, run_all
from nanolan.train.evaluation.tasks import TASKS, Choice, Task, chat_core, problems_of
from nanolan.train.job import SCOPES
from nanolan.train.processes import Processes
from nanolan.train.step import autocast

MAX_NEW_TOKENS = 512
POSITIONS, CUDA_POSITIONS = 4096, 65_536  # of a batch of multiple choice prompts
WHY_NOT = "it runs code that the model wrote; only on request"


@dataclass(frozen=True)
class Exam:
    """The model and settings of an evaluation."""

    engine: Engine
    sampling: Sampling
    max_tokens: int  # of a prompt
    positions: int  # of a batch of multiple choice prompts
    stopped: Callable[[], bool]


def evaluate_model(
    model: GPT,
    tokenizer: Tokenizer,
    data_dir: Path,
    world: Processes,
    scope: str = "quick",
    *,
    humaneval: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    most_problems: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    beat: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Accuracies by task key, ChatCORE over the measured tasks, and the reasons for the others; the same on every rank.

    `quick` takes a few hundred problems, the same ones each time; `most_problems` of a task at most. Every rank calls
    this; `beat` is called before each task; once any rank is `stopped()` the rest is not measured. The model is left
    uncompiled.
    """
    if scope not in SCOPES:
        raise UsageProblem(f"evaluation {scope!r} is unknown; there is {' and '.join(SCOPES)}")
    model.plain_parts()
    engine = Engine(model, tokenizer)
    exam = Exam(
        engine,
        Sampling(max_new_tokens, temperature=0.0),
        engine.room(max_new_tokens) - 1,
        CUDA_POSITIONS if engine.device.type == "cuda" else POSITIONS,
        stopped,
    )
    accuracies: dict[str, float] = {}
    not_measured: dict[str, str] = {}
    for task in TASKS:
        beat()
        if task.kind == "code" and not humaneval:
            not_measured[task.name] = WHY_NOT
            continue
        right, n, why = measure(task, exam, scope, data_dir, world, most_problems)
        if why:
            not_measured[task.name] = why
            say(f"{task.name}: not measured: {why}")
        else:
            accuracies[task.key] = right / n
            say(f"{task.name}: {right / n:.4f} ({right} of {n})")
    core = chat_core(accuracies)
    if core is not None:
        say(f"ChatCORE over {len(accuracies)} tasks: {core:.4f}")
    return {
        "scope": scope,
        **accuracies,
        "chatcore": core,
        "chatcore_tasks": len(accuracies),
        "not_measured": not_measured,
    }


def measure(
    task: Task, exam: Exam, scope: str, data_dir: Path, world: Processes, most: int | None = None
) -> tuple[int, int, str]:
    """Right answers, problems, and the reason for no result ("" if there is one), over all ranks."""
    why, right = "", []
    try:
        if exam.max_tokens < 1:
            raise BadAnswer("the model's positions leave no room for an answer")
        problems = problems_of(task, scope, data_dir, exam.engine.tokenizer, exam.max_tokens)[:most]
        right = MEASURES[task.kind](exam, problems[world.rank :: world.size])
    except BadAnswer as e:
        why = str(e)
    n_right, n, failed, stops = world.totals(sum(right), len(right), bool(why), exam.stopped())
    if stops:
        return 0, 0, "stopped"
    return (
        int(n_right),
        int(n),
        why or ("another rank could not" if failed else "" if n else "no problems"),
    )


def answer_choices(exam: Exam, problems: Sequence[Choice]) -> list[bool]:
    """Whether the likeliest letter after the prompt is the right one; prompts of similar length share a batch."""
    model, device = exam.engine.source, exam.engine.device
    order = sorted(range(len(problems)), key=lambda i: len(problems[i].prompt))
    right = [False] * len(problems)
    while order and not exam.stopped():
        rows = max(1, exam.positions // len(problems[order[-1]].prompt))  # the longest comes last
        batch, order = order[-rows:], order[:-rows]
        ids = pad_sequence([torch.tensor(problems[i].prompt) for i in batch], batch_first=True)
        last = torch.tensor([len(problems[i].prompt) - 1 for i in batch])
        with torch.inference_mode(), autocast(device):
            hidden = model.trunk(ids.to(device))[
                torch.arange(len(batch)), last
            ]  # padding is to the right: unseen
            logits = softcap(model.lm_head(hidden)).float().cpu()
        for i, line in zip(batch, logits, strict=True):
            right[i] = int(line[problems[i].letters].argmax()) == problems[i].right
    return right


def answer_numbers(exam: Exam, problems: Sequence[Question]) -> list[bool]:
    """Whether the number after #### in the greedy answer is the right one."""
    rollouts = roll_out(exam.engine, problems, range(len(problems)), 1, exam.sampling, exam.stopped)
    return [r.rewards == [1.0] for r in rollouts]


def write_code(exam: Exam, problems: Sequence[Problem]) -> list[bool]:
    """Whether the greedy answer's code passes its tests. Runs it: see nanolan.train.evaluation.humaneval."""
    tokenizer = exam.engine.tokenizer
    prompts = [prompt_of(p, tokenizer, exam.max_tokens) for p in problems]
    answers = exam.engine.complete(prompts, exam.sampling, stopped=exam.stopped)
    if exam.stopped():
        return []
    return run_all(
        [program_of(p, tokenizer.decode(c.ids)) for p, [c] in zip(problems, answers, strict=True)]
    )


MEASURES: dict[str, Callable[[Exam, Sequence[Any]], list[bool]]] = {
    "choice": answer_choices,
    "number": answer_numbers,
    "code": write_code,
}
