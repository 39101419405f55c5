"""A step: accumulation changes nothing, memory that runs out halves the micro-batch once; validation counts right."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from nanolan.errors import RunFailed
from nanolan.model.checkpoint import load
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import load_token_bytes, load_tokenizer
from nanolan.train.data.mixtures import Part
from nanolan.train.data.packing import Rows, make_rows
from nanolan.train.processes import Processes
from nanolan.train.recipe import Recipe
from nanolan.train.step import Stepper, even_micro_batch, validate
from nanolan.train.supervised import rows_of_rank

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def model(tiny: Path) -> GPT:
    model = load(tiny / "base_checkpoints" / "d20").model
    torch.nn.init.normal_(model.lm_head.weight, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def rows(tiny: Path, tmp_path: Path) -> Rows:
    recipe = Recipe(sequence_len=64, own_attention=True)
    return make_rows(
        (Part("gsm8k"),),
        tiny / "data",
        load_tokenizer(tiny / "tokenizer"),
        recipe,
        ALONE,
        tmp_path / "s",
    )


def gradients(model: GPT, rows: Rows, micro: int) -> tuple[float, list[torch.Tensor]]:
    batch = rows.batch(range(8))
    params = list(model.parameters())
    loss = Stepper(model.loss_sum, params, micro, ALONE.device).gradients(
        batch, float((batch.targets >= 0).sum())
    )
    grads = [p.grad for p in params if p.grad is not None]
    for p in params:
        p.grad = None
    return loss, grads


def test_gradients_do_not_depend_on_the_micro_batch(model: GPT, rows: Rows) -> None:
    loss, whole = gradients(model, rows, 8)
    for micro in (1, 3):
        other, parts = gradients(model, rows, micro)
        assert other == pytest.approx(loss, rel=1e-5)
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


class Scarce:
    """A loss that finds no memory for more than `limit` rows."""

    def __init__(self, model: GPT, limit: int) -> None:
        self.model, self.limit, self.calls = model, limit, 0

    def __call__(
        self, ids: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        self.calls += 1
        if len(ids) > self.limit:
            raise torch.OutOfMemoryError
        if self.calls == 2:  # late in the first try, when gradients have been added already
            self.limit, limit = 2, self.limit
            if limit > 2:
                raise torch.OutOfMemoryError
        return self.model.loss_sum(ids, targets, positions)


def test_running_out_of_memory_halves_the_micro_batch_and_repeats_the_step(
    model: GPT, rows: Rows
) -> None:
    want_loss, want = gradients(model, rows, 8)
    batch = rows.batch(range(8))
    stepper = Stepper(Scarce(model, 4), list(model.parameters()), 4, ALONE.device)
    loss = stepper.gradients(batch, float((batch.targets >= 0).sum()))
    assert stepper.micro == 2
    assert loss == pytest.approx(want_loss, rel=1e-5)
    for p, grad in zip(model.parameters(), want, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-6)  # nothing counted twice


def test_a_stop_ends_the_step_between_two_micro_batches(model: GPT, rows: Rows) -> None:
    asked = []
    stepper = Stepper(model.loss_sum, list(model.parameters()), 2, ALONE.device)
    stepper.gradients(rows.batch(range(8)), 1.0, lambda: bool(asked.append(1)) or len(asked) > 2)
    assert len(asked) == 3, "two micro-batches, not four"
    stepper.drop()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("micro", "limit"), [(8, 2), (1, 0)])
def test_running_out_of_memory_again_ends_the_run(
    micro: int, limit: int, model: GPT, rows: Rows
) -> None:
    stepper = Stepper(Scarce(model, limit), list(model.parameters()), micro, ALONE.device)
    with pytest.raises(RunFailed, match="out of memory.*try a smaller --batch"):
        stepper.gradients(rows.batch(range(8)), 1.0)


def test_validation_is_the_mean_over_trained_tokens(model: GPT, rows: Rows) -> None:
    ids, targets, positions = rows.batch(range(5))
    want = model.loss_sum(ids, targets, positions).item() / int((targets >= 0).sum())
    assert validate(model, rows, 5, 2, ALONE, None) == pytest.approx(want, rel=1e-5)


def test_bits_per_byte_leave_special_tokens_out(tiny: Path, model: GPT, rows: Rows) -> None:
    sizes = load_token_bytes(tiny / "tokenizer", load_tokenizer(tiny / "tokenizer"))
    ids, targets, positions = rows.batch(range(5))
    plain = (targets >= 0) & (sizes[targets.clamp(min=0)] > 0)
    assert plain.sum() < (targets >= 0).sum()
    nats = model.loss_sum(ids, targets.masked_fill(~plain, -1), positions).item()
    want = nats / math.log(2) / int(sizes[targets[plain]].sum())
    assert validate(model, rows, 5, 2, ALONE, sizes) == pytest.approx(want, rel=1e-5)


def test_validation_takes_no_more_rows_than_there_are(model: GPT, rows: Rows) -> None:
    assert validate(model, rows, 10_000, 4, ALONE, None) == validate(
        model, rows, len(rows), 4, ALONE, None
    )
    assert validate(model, rows, 0, 4, ALONE, None) is None


def test_a_batch_without_rows_has_no_loss_and_leaves_no_gradients(model: GPT, rows: Rows) -> None:
    stepper = Stepper(model.loss_sum, list(model.parameters()), 4, ALONE.device)
    assert stepper.gradients(rows.batch([], 0), 7.0) == 0.0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("rows", "micro", "on_cpu", "on_cuda"),
    [(2, 2, 2, 2), (1, 1, 1, 1), (5, 3, 5, 6), (0, 1, 0, 0), (32, 32, 32, 32), (86, 29, 86, 87)],
)
def test_rows_are_filled_up_to_whole_micro_batches_only_where_they_are_compiled(
    rows: int, micro: int, on_cpu: int, on_cuda: int
) -> None:
    for device, want in (("cpu", on_cpu), ("cuda", on_cuda)):
        assert Stepper(torch.add, [], micro, torch.device(device)).padded(rows) == want


@pytest.mark.parametrize(
    ("per_step", "size", "total"), [(9, 8, 9), (8, 8, 8), (3, 4, 3), (256, 3, 256), (1, 8, 1)]
)
def test_no_row_is_computed_for_nothing_when_the_ranks_do_not_divide_a_step(
    per_step: int, size: int, total: int
) -> None:
    computed = 0
    for rank in range(size):
        world = Processes(rank, size, torch.device("cuda"))
        mine = rows_of_rank(5, per_step, world)
        assert {len(rows_of_rank(step, per_step, world)) for step in range(4)} == {len(mine)}, (
            "one shape to compile"
        )
        micro = even_micro_batch(max(1, len(mine)), 128)
        computed += Stepper(torch.add, [], micro, world.device).padded(len(mine))
    assert computed == total
