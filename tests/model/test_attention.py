"""Attention within a conversation: as if each were alone in its row, in both forms of the mask."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch

from nanolan.model.attention import causal, flex_works, furthest, plain_mask, within
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.data.mixtures import TRAINING
from nanolan.train.data.packing import make_rows
from nanolan.train.processes import Processes
from nanolan.train.recipe import Recipe, recipe_for
from tests.support.chain import noisy

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = GPTConfig(sequence_len=128, vocab_size=304, n_layer=2, n_head=4, n_kv_head=2, n_embd=64)


def positions_of(*lengths: int) -> torch.Tensor:
    return torch.cat([torch.arange(n) for n in lengths])[None]


def test_the_logits_of_a_packed_conversation_are_those_of_it_alone(
    tiny: Path, tmp_path: Path
) -> None:
    recipe, model = Recipe(sequence_len=128, own_attention=True), noisy(CONFIG)
    tokenizer = load_tokenizer(tiny / "tokenizer")
    rows = make_rows(TRAINING["sft"], tiny / "data", tokenizer, recipe, ALONE, tmp_path / "s")
    full = next(i for i, row in enumerate(rows.packed) if len(row) > 2)
    batch = rows.batch([full])
    with torch.no_grad():
        packed, begin = model(batch.ids, batch.positions)[0], 0
        for c in rows.packed[full]:
            tokens = rows.store[c].tolist()
            ids = torch.tensor([[t if t >= 0 else ~t for t in tokens]])[:, : 128 - begin]
            torch.testing.assert_close(
                packed[begin : begin + ids.size(1)], model(ids)[0], rtol=0, atol=1e-4
            )
            begin += len(tokens)


def test_without_positions_a_conversation_sees_what_precedes_it() -> None:
    model, ids = (
        noisy(CONFIG),
        torch.randint(0, 304, (1, 60), generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        assert (model(ids)[0, 30:] - model(ids[:, 30:])[0]).abs().max() > 0.01


def test_the_gradient_of_a_packed_row_is_the_sum_of_its_conversations_gradients() -> None:
    ids = torch.randint(0, 304, (1, 60), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 304, (1, 60), generator=torch.Generator().manual_seed(1))
    grads = []
    for parts in ([slice(0, 60)], [slice(0, 25), slice(25, 60)]):
        model = noisy(CONFIG)
        for part in parts:
            positions = positions_of(25, 35) if len(parts) == 1 else None
            model.loss_sum(ids[:, part], targets[:, part], positions).backward()
        grads.append([p.grad for p in model.parameters()])
    for packed, alone in zip(*grads, strict=True):
        torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_only_sft_keeps_to_conversations() -> None:
    assert recipe_for("sft").own_attention
    assert not recipe_for("mid").own_attention


def test_a_mask_admits_what_is_earlier_in_the_same_conversation_and_nothing_else() -> None:
    mask = plain_mask(positions_of(2, 3))[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_one_conversation_in_a_row_is_plain_causal_attention() -> None:
    q, k, v = (torch.randn(1, heads, 9, 16) for heads in (4, 2, 2))
    torch.testing.assert_close(within(plain_mask(positions_of(9)))(q, k, v), causal(q, k, v))


def test_padding_and_rows_that_fill_up_a_batch_stay_finite(tiny: Path, tmp_path: Path) -> None:
    recipe = Recipe(sequence_len=128, own_attention=True)
    rows = make_rows(
        TRAINING["sft"],
        tiny / "data",
        load_tokenizer(tiny / "tokenizer"),
        recipe,
        ALONE,
        tmp_path / "s",
    )
    batch = rows.batch([len(rows) - 1], 3)
    assert batch.positions is not None
    assert batch.positions[1:].tolist() == [list(range(128))] * 2
    assert noisy(CONFIG)(batch.ids, batch.positions).isfinite().all()


@pytest.mark.slow
def test_flex_attention_that_does_not_serve_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if torch.cuda.is_available():
        assert flex_works(4, 2, 64, 256, torch.device("cuda"))
        return
    assert not flex_works(4, 2, 64, 256, torch.device("cpu"))  # it has no backward pass there
    assert "warning: flex_attention does not serve here" in capsys.readouterr().err


def test_the_self_check_of_flex_attention_warns_of_nothing_else() -> None:
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert furthest(causal, causal, (q, q, q)) == 0
        assert furthest(causal, lambda q, k, v: 2 * causal(q, k, v), (q, q, q)) > 0.1


@pytest.mark.slow
def test_compiled_flex_attention_agrees_with_the_plain_mask() -> None:
    model: GPT = noisy(CONFIG)
    ids = torch.randint(0, 304, (2, 128), generator=torch.Generator().manual_seed(0))
    dice = random.Random(0)
    with torch.no_grad():
        for _ in range(3):
            first = dice.randint(1, 120)
            positions = torch.cat([positions_of(first, 128 - first), positions_of(128)])
            want = model.loss_sum(ids, ids, positions)
            model.compile_parts(flex=True)
            torch.testing.assert_close(
                model.loss_sum(ids, ids, positions), want, rtol=1e-5, atol=1e-3
            )
            model.plain_parts()
