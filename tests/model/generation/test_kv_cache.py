"""The cache: a token at a time in ragged company gives the logits of the whole row alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nanolan.model.generation.kv_cache import Cache
from nanolan.model.gpt import GPT, GPTConfig, softcap
from tests.support.chain import noisy

GROUPED = GPTConfig(sequence_len=16, vocab_size=64, n_layer=3, n_head=4, n_kv_head=2, n_embd=32)
PLAIN = GPTConfig(sequence_len=16, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
LENGTHS = (5, 1, 9, 3)


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    """So that reading what nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def texts(n: int = 4, T: int = 30) -> torch.Tensor:
    return torch.randint(0, 64, (n, T), generator=torch.Generator().manual_seed(3))


def logits(model: GPT, hidden: torch.Tensor) -> torch.Tensor:
    return softcap(model.lm_head(hidden))


@torch.no_grad()
@pytest.mark.parametrize("more", [1, 7], ids=["exact", "rounded up"])
@pytest.mark.parametrize("config", [GROUPED, PLAIN], ids=["grouped", "plain"])
def test_ragged_rows_have_the_logits_of_each_row_alone(config: GPTConfig, more: int) -> None:
    model, ids = noisy(config), texts()
    whole, lengths, rows = model(ids), torch.tensor(LENGTHS), torch.arange(4)
    cache = Cache(model, rows=4, slots=36)
    prompts = torch.stack(
        [row.masked_fill(torch.arange(30) >= n, 63) for row, n in zip(ids, LENGTHS, strict=True)]
    )
    cache.fill(prompts[:, :9], rows, rows)
    for step in range(20):
        at = lengths - 1 + step  # the first step repeats the prompt's last token
        hidden = cache.advance(ids[rows, at], at, int(at.max()) + more)
        torch.testing.assert_close(logits(model, hidden), whole[rows, at], atol=1e-4, rtol=0)


@torch.no_grad()
def test_rows_that_leave_and_rows_that_come_change_nothing_for_the_others() -> None:
    model, ids = noisy(GROUPED), texts(6)
    whole = model(ids)
    cache = Cache(model, rows=4, slots=30)
    cache.fill(ids[:4, :8], torch.arange(4), torch.arange(4))
    cache.move(3, 0, 8)  # rows 0 and 2 have left
    cache.fill(ids[4:, :5], torch.tensor([1, 0]), torch.tensor([2, 3]))
    text, at = torch.tensor([3, 1, 5, 4]), torch.tensor([8, 8, 3, 5])
    for _ in range(10):
        hidden = cache.advance(ids[text, at], at, int(at.max()) + 1)
        torch.testing.assert_close(logits(model, hidden), whole[text, at], atol=1e-4, rtol=0)
        at = at + 1


@torch.no_grad()
def test_a_prompt_read_once_serves_many_rows_which_then_part() -> None:
    model, ids = noisy(PLAIN), texts(3)
    ids[:, :6] = ids[0, :6]
    cache = Cache(model, rows=3, slots=30)
    cache.fill(ids[:1, :6], torch.zeros(3, dtype=torch.long), torch.arange(3))
    whole = model(ids)
    for at in range(6, 12):
        hidden = cache.advance(ids[:, at], torch.full((3,), at), at + 1)
        torch.testing.assert_close(logits(model, hidden), whole[:, at], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_row_set_back_forgets_what_came_after() -> None:
    model, ids = noisy(PLAIN), texts(2)
    cache = Cache(model, rows=2, slots=30)
    cache.fill(ids[:, :4], torch.arange(2), torch.arange(2))
    for at in range(4, 9):
        cache.advance(ids[:, at], torch.full((2,), at), at + 1)
    other = ids.clone()
    other[0, 6:] = 5
    positions = torch.tensor([6, 9])  # row 0 goes back by three tokens
    hidden = cache.advance(other[torch.arange(2), positions], positions, 10)
    torch.testing.assert_close(
        logits(model, hidden), model(other)[torch.arange(2), positions], atol=1e-4, rtol=0
    )
