"""Gradients summed beside the backward pass: equal to sums after it, on every rank, whatever a rank has or leaves out."""

from __future__ import annotations

import pytest
import torch

from nanolan.model.gpt import GPT, GPTConfig
from nanolan.train.optim import AdamW, Muon, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.reduction import buckets_of
from tests.support.ranks import run_ranks

RATES = {"unembedding_lr": 0.004, "embedding_lr": 0.2, "matrix_lr": 0.02}
CASES = "tests.support.reduction_cases"


@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_matrix_is_in_the_bucket_of_the_rank_that_updates_it(size: int) -> None:
    model = GPT.fresh(GPTConfig(16, 64, 3, 4, 2, 32))
    optimizer = make_optimizer(model, Processes(0, size, torch.device("cpu")), **RATES)
    buckets = buckets_of(optimizer, optimizer.world)
    mine = sorted(id(p) for bucket in buckets for p in bucket.params)
    assert mine == sorted(map(id, model.parameters()))
    for bucket in buckets:
        part = optimizer.parts[bucket.part]
        if isinstance(part, AdamW):
            assert bucket.owner is None and bucket.rows == 0
            continue
        assert isinstance(part, Muon) and bucket.owner is not None
        at = bucket.owner * part.per_rank
        assert [*map(id, bucket.params)] == [*map(id, part.params[at : at + part.per_rank])]


def test_buckets_are_sent_in_the_order_of_the_backward_pass() -> None:
    model = GPT.fresh(GPTConfig(16, 64, 4, 4, 2, 32))
    optimizer = make_optimizer(model, Processes(0, 4, torch.device("cpu")), **RATES)
    head, *matrices, embedding = buckets_of(optimizer, optimizer.world)
    assert head.params[0] is model.lm_head.weight
    assert embedding.params[0] is model.get_parameter("transformer.wte.weight")
    owners = [bucket.owner for bucket in matrices]
    assert owners == sorted(owners, reverse=True) and owners[0] == 3  # type: ignore[type-var]


@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_weights_are_those_of_the_plain_path(size: int) -> None:
    said = run_ranks(size, f"{CASES}:beside_is_after", 12, 2)
    assert said.count("equal") == size


@pytest.mark.slow
def test_so_they_are_after_200_steps() -> None:
    said = run_ranks(2, f"{CASES}:beside_is_after", 200, 4)
    assert said.count("equal") == 2


def test_most_is_sent_before_the_backward_pass_ends() -> None:
    said = run_ranks(2, f"{CASES}:sent_early")
    assert said.count("early True") == 2


def test_a_rank_that_has_less_or_stops_or_repeats_a_pass_keeps_no_other_waiting() -> None:
    said = run_ranks(2, f"{CASES}:unequal_ranks")
    assert said.count("well") == 2 * 5, said
    assert said.count("CUDA is out of memory: going on with 1 row(s)") == 2
