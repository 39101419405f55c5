"""Muon for the matrices of the blocks. Kept: dealt to the ranks in turn; a rank has the momentum of its own ones only."""

import torch
import torch.distributed as dist

from nanochat.adamw import average, world


def orthogonal(g, steps=5):
    """Newton-Schulz: the nearest orthogonal matrix."""
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.size(0) > x.size(1)
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Groups of matrices of one shape."""

    def __init__(self, groups, lr=0.02, momentum=0.95):
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        rank, ranks = world()
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                grad = average(p)
                if i % ranks == rank:
                    self.update(p, grad, group["lr"], group["momentum"])
                if ranks > 1:
                    dist.broadcast(p, i % ranks)

    def update(self, p, grad, lr, momentum):
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        state["momentum_buffer"].lerp_(grad, 1 - momentum)
        step = orthogonal(grad.lerp(state["momentum_buffer"], momentum))
        p.sub_(lr * max(1, p.size(0) / p.size(1)) ** 0.5 * step)
