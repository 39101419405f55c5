"""What tests of nanolan/train/reduction.py run on real ranks, by tests/support/ranks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.loss import IGNORE
from nanolan.train.data.packing import Batch
from nanolan.train.optim import Optimizer, make_optimizer
from nanolan.train.processes import Processes
from nanolan.train.reduction import Reduction
from nanolan.train.step import Stepper
from tests.support.rank_cases import RATES, say

V, T = 64, 16


class Trainer:
    """A small model and what steps it."""

    def __init__(self, world: Processes, *, beside: bool, layers: int = 2) -> None:
        self.world = world
        self.model = GPT.fresh(GPTConfig(T, V, layers, 4, 2, 32))
        torch.nn.init.normal_(
            self.model.lm_head.weight, std=0.02, generator=torch.Generator().manual_seed(1)
        )
        self.optimizer: Optimizer = make_optimizer(self.model, world, **RATES)
        self.stepper = Stepper(
            self.model.loss_sum, list(self.model.parameters()), 2, torch.device("cpu")
        )
        if beside:
            self.stepper.reduction = Reduction(self.optimizer, world)

    def step(self, batch: Batch, stopped: Callable[[], bool] = lambda: False) -> float:
        """The mean loss of all ranks, after an update."""
        n = self.world.totals(int((batch.targets >= 0).sum()))[0]
        loss, stops = self.world.totals(self.stepper.gradients(batch, n, stopped), stopped())
        if stops:
            self.stepper.drop()
            return float("nan")
        self.optimizer.step(0.1, 0.95, self.stepper.reduction)
        return loss / n


def batch_of(world: Processes, step: int, rows: int = 4) -> Batch:
    dice = torch.Generator().manual_seed(1000 * world.rank + step)
    ids = torch.randint(V, (rows, T + 1), generator=dice)
    return Batch(ids[:, :-1], ids[:, 1:].clone(), None)


def same(one: Trainer, other: Trainer) -> bool:
    """Equal weights and optimizer states, to the last bit."""
    states = one.optimizer.state(0), other.optimizer.state(0)
    weights = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in weights) and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def beside_is_after(world: Processes, steps: str, layers: str) -> None:
    """Both paths on the same data: bit-equal on two ranks; on more, which sum in another order, within 1e-6."""
    trainers = [Trainer(world, beside=beside, layers=int(layers)) for beside in (True, False)]
    for step in range(int(steps)):
        losses = [t.step(batch_of(world, step)) for t in trainers]
        assert abs(losses[0] - losses[1]) <= (0 if world.size == 2 else 1e-6 * losses[1]), losses
    assert world.size > 2 or same(*trainers)
    [weight] = [p for name, p in trainers[0].model.named_parameters() if "wte" in name]
    assert len({*world.gather(weight.detach().sum()[None]).tolist()}) == 1
    say(f"rank {world.rank} equal, loss {losses[0]}")


def sent_early(world: Processes) -> None:
    """How many buckets are under way when the gradient of the first layer is computed."""
    t = Trainer(world, beside=True, layers=4)
    reduction = t.stepper.reduction
    assert reduction
    at: list[int] = []
    first = t.model.get_parameter("transformer.h.0.attn.c_q.weight")
    first.register_hook(lambda grad: at.append(reduction.next))
    t.step(batch_of(world, 0))
    # of two passes of two rows each only the last one sends
    say(
        f"rank {world.rank} sent {at} of {len(reduction.buckets)}, early {at[0] == 0 and at[1] >= 4}"
    )


def compared(world: Processes, batch: Callable[[int], Batch]) -> None:
    """Three steps with these batches by both paths."""
    trainers = [Trainer(world, beside=beside) for beside in (True, False)]
    for step in range(3):
        losses = [t.step(batch(step)) for t in trainers]
        assert losses[0] == losses[1]
    assert same(*trainers)
    say(f"rank {world.rank}: well")


def unequal_ranks(world: Processes) -> None:
    """Each of the cases below, one after the other."""
    for case in (no_rows, no_target, stops, out_of_memory, out_of_memory_in_a_bucket):
        case(world)


def no_rows(world: Processes) -> None:
    """Rank 1 has no rows."""
    compared(world, lambda step: batch_of(world, step, 0 if world.rank else 4))


def no_target(world: Processes) -> None:
    """Rank 1 has rows without anything to train."""

    def batch(step: int) -> Batch:
        b = batch_of(world, step)
        return b._replace(targets=b.targets.fill_(IGNORE)) if world.rank else b

    compared(world, batch)


def stops(world: Processes) -> None:
    """Rank 1 is stopped before the last micro-batch of the second step; then all go on, as if it had not been."""
    one, other = (Trainer(world, beside=True) for _ in range(2))
    asked = iter([False, True])
    for t in (one, other):
        t.step(batch_of(world, 0))
    one.step(batch_of(world, 1), lambda: bool(world.rank) and next(asked, True))
    assert all(p.grad is None for p in one.model.parameters())
    for t in (one, other):
        t.step(batch_of(world, 2))
    assert same(one, other)
    say(f"rank {world.rank}: well")


def out_of_memory(world: Processes) -> None:
    """Rank 1 has no memory left in the middle of its last backward pass, with buckets sent: it repeats it by halves."""
    t, plain = (Trainer(world, beside=beside) for beside in (True, False))
    failing = [world.rank == 1]

    def fail(grad: Tensor) -> None:
        reduction = t.stepper.reduction
        if failing and reduction and reduction.armed and failing.pop():
            assert reduction.next > 0
            raise torch.OutOfMemoryError

    t.model.get_parameter("transformer.h.0.attn.c_q.weight").register_hook(fail)
    losses = [trainer.step(batch_of(world, 0)) for trainer in (t, plain)]
    assert t.stepper.micro == (1 if world.rank else 2)
    assert abs(losses[0] - losses[1]) < 1e-6 * losses[1]
    close(t, plain)
    say(f"rank {world.rank}: well")


def out_of_memory_in_a_bucket(world: Processes) -> None:
    """The same while a bucket is filled."""
    t, plain = (Trainer(world, beside=beside) for beside in (True, False))
    reduction = t.stepper.reduction
    assert reduction
    bucket: Any = reduction.buckets[2]
    filled, failing = bucket.filled, [world.rank == 1]

    def fill() -> Tensor:
        if failing and failing.pop():
            raise torch.OutOfMemoryError
        return filled()

    bucket.filled = fill
    losses = [trainer.step(batch_of(world, 0)) for trainer in (t, plain)]
    assert abs(losses[0] - losses[1]) < 1e-6 * losses[1]
    close(t, plain)
    say(f"rank {world.rank}: well")


def close(one: Trainer, other: Trainer) -> None:
    """Other micro-batches sum in another order."""
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
