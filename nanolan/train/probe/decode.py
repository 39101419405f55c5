"""How fast the engine decodes, by the number of rows; and whether the device's greedy tokens are the CPU's."""

from __future__ import annotations

from typing import Any

import torch

from nanolan.model.generation.engine import Completion, Engine
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.train.probe.inputs import SEED, config_of, tokenizer_of
from nanolan.train.probe.timing import seconds
from nanolan.train.processes import Processes

GREEDY = Sampling(max_new_tokens=24, temperature=0.0)


def measure(setup: dict[str, Any], world: Processes) -> dict[str, Any]:
    """{"rows": {N: {"ms", "first_s", "tok_per_s", ...}}, "greedy_same"}: ms a step of N rows, once warm.

    On CUDA also "kernels" a step and "busy", the GPU's share of the time.
    """
    config = config_of(setup["size"])
    engine = Engine(GPT.fresh(config, SEED).to(world.device), tokenizer_of(config.vocab_size))
    prompt = [(7 * i) % 256 for i in range(setup["prompt"])]
    found = {str(n): _rows(engine, prompt, n, setup["new"]) for n in setup["rows"]}
    return {"rows": found, "greedy_same": greedy_same(setup["small"], world.device)}


def _rows(engine: Engine, prompt: list[int], rows: int, new: int) -> dict[str, Any]:
    sampling = Sampling(max_new_tokens=new)
    done: list[list[Completion]] = []

    def complete() -> None:
        done[:] = engine.complete([prompt], sampling, samples=rows)

    first_s = seconds(complete, engine.device)
    again_s = seconds(complete, engine.device)
    lengths = [len(c.ids) for c in done[0]]
    figures = {
        "ms": round(1000 * again_s / max(1, *lengths), 3),
        "first_s": round(first_s, 3),
        "tok_per_s": round(sum(lengths) / again_s, 1),
    }
    if engine.device.type == "cuda":
        figures |= _profile(complete, max(1, *lengths))
    return figures


def _profile(act: Any, steps: int) -> dict[str, float]:
    """{"kernels", "busy"}: kernels a step, and the share of the time in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
        took_s = seconds(act, torch.device("cuda"))
    kernels = [e for e in p.events() or () if "CUDA" in str(e.device_type)]
    busy_s = sum(e.time_range.elapsed_us() for e in kernels) / 1e6
    return {"kernels": round(len(kernels) / steps, 1), "busy": round(busy_s / took_s, 3)}


def greedy_same(size: dict[str, int], device: torch.device) -> float:
    """The share of greedy tokens of a small model, up to the first that differs, that are the CPU's. In bf16 some may differ."""
    config = config_of(size)
    tokenizer = tokenizer_of(config.vocab_size)
    prompts = [[(k * i + k) % 256 for i in range(20)] for k in range(1, 9)]
    answers = [
        Engine(GPT.fresh(config, SEED).to(place), tokenizer).complete(prompts, GREEDY)
        for place in ("cpu", device)
    ]
    same = total = 0
    for [exact], [found] in zip(*answers, strict=True):
        total += len(exact.ids)
        pairs = list(zip(exact.ids, found.ids, strict=False))
        same += next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return round(same / max(1, total), 3)
