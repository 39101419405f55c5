"""Decoding on the fake device, with graphs that count as one launch each time they are replayed."""

from __future__ import annotations

from typing import Any

from nanolan.model.generation.engine import Engine
from nanolan.model.generation.graphs import Recorder
from nanolan.model.generation.sampling import Sampling
from tests.bench.workload import SHAPES, made_tokenizer
from tests.train.fake_cuda.device import GIB, fake_device
from tests.train.fake_cuda.steps import fake_model


def decode(depth: int, questions: int, samples: int, new_tokens: int) -> dict[str, Any]:
    """Answers of `new_tokens` tokens to questions of different lengths, twice: the figures of the second time."""
    with fake_device() as gpu:
        engine = Engine(
            fake_model(depth), made_tokenizer(SHAPES["d20"]), runner=lambda: Recorder(gpu.record)
        )
        prompts = [[5] * (90 + 37 * i) for i in range(questions)]
        gpu.reset()
        engine.complete(prompts, Sampling(new_tokens), samples)
        shapes, recorded = {(q, k) for q, k, _ in gpu.attention if q[2] == 1}, gpu.recorded
        gpu.reset()
        engine.complete(prompts, Sampling(new_tokens), samples)
        return {
            "shapes": sorted(shapes),
            "new_shapes": len({(q, k) for q, k, _ in gpu.attention if q[2] == 1} - shapes),
            "recorded": recorded,
            "recorded_again": gpu.recorded["graphs"],
            "launches": gpu.launches.total(),
            "replays": gpu.launches["graph"],
            "syncs": gpu.syncs,
            "copies": gpu.copies,
            "peak_gib": gpu.peak / GIB,
        }
