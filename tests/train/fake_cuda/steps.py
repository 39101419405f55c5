"""Whole steps of mid, sft and rl, by the trainer's own loop, on the fake device."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from nanolan.model.generation.engine import Engine
from nanolan.model.generation.graphs import Recorder
from nanolan.model.gpt import GPT
from nanolan.train import rl, supervised
from nanolan.train.data.rollouts import Question
from nanolan.train.job import Job
from nanolan.train.phase import Start
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.recipe import recipe_for
from nanolan.train.stop import StopFlag
from tests.bench.workload import SHAPES, made_tokenizer, packed_rows
from tests.train.fake_cuda.device import CUDA, GIB, Device, fake_device, fake_ranks
from tests.train.fake_cuda.shapes import config_of

RECIPE = {
    "max_steps": 1,
    "rl": {"max_new_tokens": 16, "eval_questions": 0},
}  # long answers: decode.py
RIGHT = "1"  # the answer to every question


def fake_model(depth: int) -> GPT:
    """A model without contents, on the device."""
    config = config_of(depth)
    with torch.device("meta"):
        shapes = GPT(config).state_dict()
    return GPT.from_state(config, {k: torch.empty(t.shape) for k, t in shapes.items()}, CUDA)


def step(phase: str, depth: int, size: int, gib: float = 79.1) -> dict[str, Any]:
    """What the first step of a phase asks of rank 0 of `size`."""
    loop = rl.loop if phase == "rl" else supervised.loop
    with TemporaryDirectory() as folder, fake_device(gib) as gpu, fake_ranks(size) as world:
        gpu.lists = right_and_wrong
        t = phase_in_progress(phase, fake_model(depth), world, gpu, Path(folder))
        gradients = Counter[str]()
        for p in t.model.parameters():
            p.register_hook(partial(note_gradient, gradients, p))
        gpu.reset()
        loop(t, StopFlag())
        return {
            "done": t.done,
            "micro": t.stepper.micro,
            "compiles": phase != "rl" and t.compiles,
            "launches": sum(gpu.launches.values()),
            "syncs": gpu.syncs,
            "copies": gpu.copies,
            "attention_dtypes": sorted({dtype for _, _, dtype in gpu.attention}),
            "gradients": gradients,
            "peak_gib": gpu.peak / GIB,
        }


def note_gradient(seen: Counter[str], p: Tensor, grad: Tensor) -> None:
    seen.update([f"{grad.dtype} of {p.dtype} on {grad.device}"])


def phase_in_progress(phase: str, model: GPT, world: Processes, gpu: Device, folder: Path) -> Any:
    """The trainer's own object of a phase, with made-up data."""
    shape, recipe = SHAPES["d20"], recipe_for(phase, RECIPE)
    job = Job(
        phase=phase,
        run_id="r",
        run_name="fake",
        model_tag="fake",
        device="cuda",
        init_dir=folder,
        tokenizer_dir=folder,
        data_dir=folder,
        out_dir=folder,
        metrics=folder / "metrics.jsonl",
        heartbeat=folder / "heartbeat.json",
    )
    tokenizer = made_tokenizer(shape)
    start = Start(job, world, recipe, tokenizer, model, 0, {}, None, {})
    report = ProgressWriter(job)
    if phase != "rl":
        return supervised.Training(start, report, packed_rows(shape, phase), None)
    asked = [Question([5] * (90 + 7 * i), RIGHT) for i in range(recipe.questions_per_step)]
    engine = Engine(model, tokenizer, runner=lambda: Recorder(gpu.record))
    return rl.Reinforcement(start, report, engine, asked, [])


def right_and_wrong(t: Tensor) -> Any:
    """Tokens as the host reads them: every other row has the right answer. The first 256 ids are the bytes."""
    if t.dim() != 2:
        return t.shape[0] * [1]
    texts = (" " * t.size(1), f"#### {RIGHT}".ljust(t.size(1)))
    return [list(texts[i % 2][: t.size(1)].encode()) for i in range(len(t))]
