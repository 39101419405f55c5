"""Sampling: the right chances, from numbers that belong to the row."""

from __future__ import annotations

import pytest
import torch

from nanolan.model.generation.sampling import Sampling, draw, uniforms

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("temperature", "top_k"), [(1.0, None), (1.0, 50), (1.0, 3), (0.5, 2), (2.0, 1)]
)
def test_tokens_are_drawn_with_the_chances_of_softmax_over_the_top_k(
    temperature: float, top_k: int | None
) -> None:
    n = 100_000
    even = (torch.arange(n) + 0.5) / n
    drawn = draw(LOGITS.expand(n, -1), Sampling(temperature=temperature, top_k=top_k), even)
    least = LOGITS.topk(min(top_k or 5, 5)).values[-1]
    want = torch.where(least <= LOGITS, LOGITS / temperature, -torch.inf).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=5) / n, want, atol=1e-4, rtol=0)


def test_temperature_0_takes_the_likeliest() -> None:
    assert draw(LOGITS[None], Sampling(temperature=0.0), torch.tensor([0.99])).tolist() == [1]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform: float) -> None:
    logits = torch.full((1, 1000), -1e9)
    logits[0, 7] = logits[0, 8] = 0.0
    assert draw(logits, Sampling(top_k=None), torch.tensor([uniform])).item() in (7, 8)


def test_numbers_depend_on_seed_key_and_sample_and_nothing_else() -> None:
    rows = {
        (s, k, j): tuple(uniforms(s, k, j, 4).tolist())
        for s in (0, 1)
        for k in (0, 1)
        for j in (0, 1)
    }
    assert len(set(rows.values())) == 8
    assert tuple(uniforms(1, 0, 1, 9).tolist()[:4]) == rows[1, 0, 1]
    assert all(0 <= u < 1 for u in uniforms(0, 0, 0, 10_000).tolist())
