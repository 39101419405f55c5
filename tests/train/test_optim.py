"""Muon and AdamW: nanochat's two recorded steps, and the formulas by themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nanolan.model.checkpoint import load, read_state
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.train.optim import AdamW, Muon, by_gram, by_steps, make_optimizer, orthogonalise
from nanolan.train.processes import Processes
from tests.support.ranks import run_ranks

ALONE = Processes(0, 1, torch.device("cpu"))
RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}


def test_two_steps_agree_with_nanochats_record(fixtures: Path) -> None:
    trace = json.loads((fixtures / "tiny" / "two_steps.json").read_text())
    want, batches = (
        read_state(fixtures / "tiny" / "after_2_steps.pt"),
        torch.tensor(trace["tokens"]),
    )
    model = load(fixtures / "tiny" / "base_checkpoints" / "d2").model
    before = {key: t.clone() for key, t in model.state_dict().items()}
    optimizer, losses = make_optimizer(model, ALONE, **RATES), []
    for i in (0, 1, 0):
        loss = model.loss_sum(batches[i][:, :-1], batches[i][:, 1:]) / batches[i][:, 1:].numel()
        losses.append(loss.item())
        if len(losses) < 3:
            loss.backward()
            optimizer.step(1.0, 0.95)
    assert losses == pytest.approx(trace["losses_step0_step1_then_step0_batch_again"], rel=1e-4)
    for key, t in model.state_dict().items():
        error = (t - want[key]).norm() / (
            want[key] - before[key]
        ).norm()  # of the way that was gone
        assert error < 0.03, key


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 32, 8), (2, 8, 32)])
def test_orthogonalising_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(g, torch.float32))
    assert values.max() < 1.3
    assert values.median() > 0.6


@pytest.mark.parametrize("shape", [(2, 8, 32), (2, 32, 8), (1, 16, 32)])
def test_the_short_way_for_long_matrices_gives_the_same(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.logspace(0, -3, shape[-1])
    )
    x = g.mT if shape[-2] > shape[-1] else g
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(by_gram(x), by_steps(x), rtol=1e-3, atol=1e-4)
    want = by_gram(x).mT if shape[-2] > shape[-1] else by_gram(x)
    torch.testing.assert_close(orthogonalise(g, torch.float32), want, rtol=1e-4, atol=1e-6)


def test_bf16_goes_step_by_step() -> None:
    g = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    half = orthogonalise(g, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    x = g.bfloat16()
    torch.testing.assert_close(
        half, by_steps(x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)), rtol=0, atol=0
    )
    assert (half.float() - orthogonalise(g, torch.float32)).abs().max() < 0.05


def test_orthogonalising_zeros_gives_zeros() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 4), torch.float32).any()


def test_muon_steps_by_rate_times_root_of_the_aspect() -> None:
    p = torch.zeros(32, 8)
    p.grad = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    want = -0.02 * 0.5 * 2 * orthogonalise(p.grad[None], torch.float32)[0]
    muon = Muon([p], 0.02, ALONE)
    muon.step(muon.summed(), 0.5, 0.95)
    torch.testing.assert_close(
        p, want, rtol=1e-3, atol=1e-5
    )  # the first step is the gradient's direction
    assert p.grad is None


def test_adamw_agrees_with_torch() -> None:
    ours, theirs = torch.ones(6, 4), torch.nn.Parameter(torch.ones(6, 4))
    torchs = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    adamw = AdamW(ours, 0.2, ALONE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        ours.grad = torch.randn(6, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        adamw.step(adamw.summed(), 0.5, 0.95)
        torchs.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_a_bf16_embedding_has_fp32_moments() -> None:
    p = torch.ones(6, 4, dtype=torch.bfloat16)
    p.grad = torch.ones_like(p)
    adamw = AdamW(p, 0.1, ALONE)
    adamw.step(adamw.summed(), 1.0, 0.95)
    assert p.dtype == torch.bfloat16
    assert adamw.exp_avg_sq is not None
    assert adamw.exp_avg_sq.dtype == torch.float32
    assert p[0, 0].item() == pytest.approx(0.9, abs=0.004)


@dataclass(frozen=True)
class Stage(Processes):
    """One of several ranks whose partners' tensors are given instead of sent."""

    others: tuple[torch.Tensor, ...] = ()

    def sum_(self, tensor: torch.Tensor) -> None:
        """Nothing to add: the gradients are already sums."""

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return (
            torch.cat([part, *self.others]) if self.rank == 0 else torch.cat([*self.others, part])
        )


def test_each_rank_keeps_the_momentum_of_its_own_matrices_only() -> None:
    params = [torch.zeros(8, 8) for _ in range(3)]
    for p in params:
        p.grad = torch.randn(8, 8)
    muon = Muon(params, 0.02, Stage(0, 2, torch.device("cpu"), others=(torch.zeros(2, 8, 8),)))
    muon.step(muon.summed(), 1.0, 0.95)
    assert muon.momentum_buffer is not None
    assert muon.momentum_buffer.shape == (2, 8, 8)
    assert params[0].any()
    assert params[1].any()
    assert not params[2].any()  # the other rank's


def random_gradients(model: GPT, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_a_step_tells_the_norm_of_the_whole_gradient() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32))
    random_gradients(model, 0)
    want = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        .norm()
        .item()
    )
    optimizer = make_optimizer(model, ALONE, **RATES)
    assert optimizer.step(1.0, 0.95) == pytest.approx(want, rel=1e-5)
    random_gradients(model, 1)
    model.lm_head.weight.grad[0, 0] = float("nan")  # type: ignore[index]
    assert optimizer.step(1.0, 0.95) != optimizer.step(1.0, 0.95), "nan"


def test_an_optimizer_goes_on_from_its_saved_state_to_the_last_bit() -> None:
    models = [GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32)) for _ in range(2)]
    first = [make_optimizer(model, ALONE, **RATES) for model in models]
    for step in range(2):
        for model, optimizer in zip(models, first, strict=True):
            random_gradients(model, step)
            optimizer.step(1.0, 0.95)
    state = {key: t.clone() for key, t in first[1].state(0).items()}
    again = make_optimizer(models[1], ALONE, **RATES)
    again.load(state)
    for model, optimizer in zip(models, (first[0], again), strict=True):
        random_gradients(model, 2)
        optimizer.step(1.0, 0.95)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_a_state_that_is_not_whole_is_not_loaded() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32))
    optimizer = make_optimizer(model, ALONE, **RATES)
    random_gradients(model, 0)
    optimizer.step(1.0, 0.95)
    state = optimizer.state(0)
    for key in state:
        with pytest.raises(KeyError):
            make_optimizer(model, ALONE, **RATES).load({k: t for k, t in state.items() if k != key})


def test_the_state_of_an_optimizer_that_has_made_no_step_is_loaded_and_steps_like_a_fresh_one() -> (
    None
):
    models = [GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32)) for _ in range(2)]
    fresh, loaded = (make_optimizer(model, ALONE, **RATES) for model in models)
    loaded.load(fresh.state(0) | {"rng.cpu": torch.zeros(1), "losses": torch.zeros(0)})
    for model, optimizer in zip(models, (fresh, loaded), strict=True):
        random_gradients(model, 0)
        optimizer.step(1.0, 0.95)
    assert all(
        torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True)
    )


def test_every_parameter_is_updated_by_exactly_one_part() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 2, 4, 2, 32))
    parts = make_optimizer(model, ALONE, **RATES).parts
    mine = [p for part in parts for p in (part.params if isinstance(part, Muon) else [part.param])]
    assert sorted(map(id, mine)) == sorted(map(id, model.parameters()))
    adam = [part for part in parts if isinstance(part, AdamW)]
    assert [part.lr for part in adam] == pytest.approx(
        [0.004 * (32 / 768) ** -0.5, 0.2 * (32 / 768) ** -0.5]
    )


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_that_gets_its_slice_alone_steps_as_if_it_got_everything(size: int) -> None:
    said = run_ranks(size, "tests.support.rank_cases:scattered_is_summed")
    assert said.count("scatters: ") == size
    assert len({line.partition("norms")[2] for line in said.splitlines() if "norms" in line}) == 1


def test_without_reduce_scatter_the_slice_is_cut_from_the_whole_sum() -> None:
    whole = torch.arange(12.0).view(6, 2)
    for rank in range(3):
        mine = Stage(rank, 3, torch.device("cpu")).sum_slice(whole)
        assert torch.equal(mine, whole[2 * rank : 2 * rank + 2])
    assert torch.equal(ALONE.sum_slice(whole), whole)
