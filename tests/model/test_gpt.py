"""The model: nanochat's logits, strict loading, and a loss that never needs all logits at once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.errors import BadAnswer
from nanolan.model.checkpoint import load
from nanolan.model.gpt import GPT, IGNORE, GPTConfig, rotary_tables, squared_relu, stored_dtype

CONFIG = GPTConfig(sequence_len=16, vocab_size=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=32)


@pytest.mark.parametrize(
    ("folder", "tolerance"),
    [("tiny", 1e-4), ("tiny_compiled_prefix", 1e-4), ("tiny_cuda_like", 1e-2)],
)  # the last has a bf16 embedding
def test_logits_agree_with_nanochats(fixtures: Path, folder: str, tolerance: float) -> None:
    want = json.loads((fixtures / "reference_logits.json").read_text())["tiny/base"]
    model = load(fixtures / folder / "base_checkpoints" / "d2").model
    with torch.no_grad():
        logits = model(torch.tensor([want["prompt_ids"]]))[0]
    assert logits[-1].tolist() == pytest.approx(want["logits_last"], abs=tolerance)
    assert logits.mean(-1).tolist() == pytest.approx(want["logits_mean_per_pos"], abs=tolerance)


def noisy(config: GPTConfig = CONFIG) -> GPT:
    model = GPT.fresh(config)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model


def batch(rows: int = 3, T: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(
        0, CONFIG.vocab_size, (rows, T + 1), generator=torch.Generator().manual_seed(2)
    )
    targets = x[:, 1:].clone()
    targets[:, ::3] = IGNORE
    return x[:, :-1], targets


def test_the_loss_is_summed_over_targets_that_are_not_ignored() -> None:
    model, (ids, targets) = noisy(), batch()
    logp = model(ids).log_softmax(-1)
    want = -torch.stack(
        [logp[b, t, targets[b, t]] for b in range(3) for t in range(10) if targets[b, t] >= 0]
    ).sum()
    assert model.loss_sum(ids, targets).item() == pytest.approx(want.item(), rel=1e-5)


def test_the_loss_in_chunks_has_the_same_value_and_gradients() -> None:
    model, (ids, targets) = noisy(), batch()
    results = []
    for chunk in (1 << 28, 4 * CONFIG.vocab_size):
        loss = model.loss_sum(ids, targets, None, chunk)
        results.append((loss.item(), torch.autograd.grad(loss, list(model.parameters()))))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for whole, chunked in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-5)


def test_no_chunk_of_the_loss_is_larger_than_its_limit() -> None:
    model, (ids, targets) = noisy(), batch()
    seen, plain = [], model.chunk_loss
    model.chunk_loss = lambda h, w, t: (seen.append(len(h)), plain(h, w, t))[1]
    model.loss_sum(ids, targets, None, 4 * CONFIG.vocab_size)
    assert seen == [4] * 5, (
        "18 of 30 positions have a target; whole chunks, so that one shape is compiled"
    )


def test_no_logits_are_made_where_there_is_no_target() -> None:
    model, (ids, targets) = noisy(), batch()
    seen, plain = [], model.chunk_loss
    model.chunk_loss = lambda h, w, t: (seen.append(len(h)), plain(h, w, t))[1]
    model.loss_sum(ids, targets)
    assert seen == [int((targets != IGNORE).sum())]


def test_a_batch_without_any_target_gives_zero_loss_and_zero_gradients() -> None:
    model, (ids, targets) = noisy(), batch()
    loss = model.loss_sum(ids, torch.full_like(targets, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_later_token_never_changes_an_earlier_logit() -> None:
    model, (ids, _) = noisy(), batch()
    other = ids.clone()
    other[:, 6:] = 0
    torch.testing.assert_close(model(ids)[:, :6], model(other)[:, :6])


def test_a_fresh_model_predicts_every_token_alike() -> None:
    ids, _ = batch()
    assert not GPT.fresh(CONFIG)(ids).any()


def test_the_embedding_is_bf16_on_cuda_only() -> None:
    wte, head = "transformer.wte.weight", "lm_head.weight"
    assert stored_dtype(wte, torch.device("cuda")) == torch.bfloat16
    assert stored_dtype(head, torch.device("cuda")) == torch.float32
    assert stored_dtype(wte, torch.device("cpu")) == torch.float32


def test_position_tables_are_bf16_and_ten_rows_long() -> None:
    cos, sin = rotary_tables(CONFIG, torch.device("cpu"))
    assert cos.dtype == sin.dtype == torch.bfloat16
    assert cos.shape == (1, 160, 1, 4)


def test_rows_longer_than_the_position_tables_are_refused() -> None:
    with pytest.raises(BadAnswer, match="position tables end at 160"):
        noisy()(torch.zeros(1, 161, dtype=torch.long))


def test_a_loaded_model_trains_and_leaves_the_state_dict_it_came_from() -> None:
    state = {key: t.clone() for key, t in noisy().state_dict().items()}
    model = GPT.from_state(CONFIG, state)
    assert all(p.requires_grad for p in model.parameters())
    assert set(model.state_dict()) == set(state)


def spoil_missing(s: dict[str, torch.Tensor]) -> None:
    del s["lm_head.weight"]


def spoil_extra(s: dict[str, torch.Tensor]) -> None:
    s["resid_lambdas"] = torch.ones(2)


def spoil_shape(s: dict[str, torch.Tensor]) -> None:
    s["lm_head.weight"] = torch.zeros(63, 32)


def spoil_dtype(s: dict[str, torch.Tensor]) -> None:
    s["lm_head.weight"] = torch.zeros(64, 32, dtype=torch.int8)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_missing, "no lm_head.weight"),
        (spoil_extra, "resid_lambdas does not belong"),
        (spoil_shape, r"lm_head.weight is \(63, 32\)"),
        (spoil_dtype, "lm_head.weight does not hold floats"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(spoil: Any, says: str) -> None:
    state = dict(noisy().state_dict())
    spoil(state)
    with pytest.raises(BadAnswer, match=says):
        GPT.from_state(CONFIG, state, where="model_000001.pt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_layer": None}, "n_layer is None"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"n_embd": "64"}, "n_embd is '64'"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"n_head": 3}, "does not divide"),
        ({"n_layer": True}, "n_layer is True"),
        ({"window_pattern": "SSSL"}, "window_pattern: a newer architecture"),
    ],
)
def test_a_config_that_is_not_this_architecture_is_refused(
    change: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadAnswer, match=says):
        GPTConfig.from_meta(asdict(CONFIG) | change)


def test_a_squared_relu_has_the_value_and_gradient_that_autograd_finds() -> None:
    x = torch.tensor([[-2.0, -0.0, 0.0, 0.5, 3.0]], requires_grad=True)
    ours, plain = squared_relu(x), torch.relu(x).square()
    assert torch.equal(ours, plain)
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    for a, b in zip(
        *(torch.autograd.grad((weight * y).sum(), x) for y in (ours, plain)), strict=True
    ):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert squared_relu(x).grad_fn is None


def test_d20_has_the_published_number_of_parameters() -> None:
    assert replace(CONFIG, n_layer=20, n_embd=1280, vocab_size=65_536).n_params == 560_988_160


def test_two_names_for_the_same_numbers_become_two_tensors() -> None:
    """As of a model whose head was tied: each is trained by itself."""
    config = GPTConfig(16, 64, 1, 2, 2, 32)
    state = GPT.fresh(config).state_dict()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    model = GPT.from_state(config, state)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert model.transformer["wte"].weight.abs().sum() > 0  # type: ignore[operator]


def test_a_transposed_tensor_is_laid_out_anew() -> None:
    config = GPTConfig(16, 64, 1, 2, 2, 32)
    state = {k: v.T.contiguous().T for k, v in GPT.fresh(config).state_dict().items()}
    assert all(p.is_contiguous() for p in GPT.from_state(config, state).parameters())
