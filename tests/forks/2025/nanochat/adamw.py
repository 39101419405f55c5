"""AdamW over the rows of a table. Kept: a rank has the state of its rows only, and the rows must divide by the ranks."""

import torch
import torch.distributed as dist

# Each of these imports torch's compiler at its first call, which takes seconds; nothing is compiled here
for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    inner = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
    if inner is not None:
        inner.__dynamo_disable = inner

BETAS, EPS = (0.8, 0.95), 1e-10


def world():
    """(rank, number of ranks)"""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average(p):
    """The gradient, averaged over the ranks."""
    if dist.is_initialized():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
    return p.grad


class AdamW(torch.optim.Optimizer):
    """For the embedding and the head."""

    def __init__(self, groups, weight_decay=0.0):
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        rank, ranks = world()
        for group in self.param_groups:
            for p in group["params"]:
                assert p.size(0) % ranks == 0, "the vocabulary does not divide by the ranks"
                rows = p.size(0) // ranks
                own = slice(rank * rows, (rank + 1) * rows)
                new = self.updated(p, p[own], average(p)[own], group)
                parts = [torch.empty_like(new) for _ in range(ranks)]
                if ranks > 1:
                    dist.all_gather(parts, new)
                p.copy_(torch.cat(parts) if ranks > 1 else new)

    def updated(self, key, rows, grad, group):
        """The new values of this rank's rows."""
        state = self.state[key]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(rows), exp_avg_sq=torch.zeros_like(rows))
        state["step"] += 1
        first, second = BETAS
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        root = state["exp_avg_sq"].sqrt() + EPS
        scale = (1 - second ** state["step"]) ** 0.5
        kept = rows * (1 - group["lr"] * group["weight_decay"])
        return (kept - group["lr"] * scale * mean / root).contiguous()
