"""One optimizer, sharded over the ranks. Kept: a shard of another world size loads, and fails at the first step."""

import torch
import torch.distributed as dist

# Each of these imports torch's compiler at its first call, which takes seconds; nothing is compiled here
for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    inner = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
    if inner is not None:
        inner.__dynamo_disable = inner

SMALL = 1024  # a parameter of fewer numbers is not sharded
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


def share(own, ranks):
    """The parts of all ranks, in their order."""
    if ranks == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def orthogonal(g, steps=5):
    """Newton-Schulz: the nearest orthogonal matrices to a stack of them."""
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(g.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Groups of kind "adamw" and "muon"; each rank keeps and updates its share."""

    def __init__(self, groups, weight_decay=0.0):
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            if group["kind"] == "muon":
                self.muon(group)
            else:
                for p in group["params"]:
                    self.adamw(p, group["lr"])

    def adamw(self, p, lr):
        """Update this rank's rows, then collect everyone's."""
        rank, ranks = world()
        grad = average(p)
        if p.numel() < SMALL or p.size(0) % ranks:
            self.adamw_rows(p, p, grad, lr)
            return
        rows = p.size(0) // ranks
        own = p[rank * rows : (rank + 1) * rows].clone()
        self.adamw_rows(p, own, grad[rank * rows : (rank + 1) * rows], lr)
        p.copy_(share(own, ranks))

    def adamw_rows(self, key, rows, grad, lr):
        state = self.state[key]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(rows), exp_avg_sq=torch.zeros_like(rows))
        state["step"] += 1
        first, second = BETAS
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        square = state["exp_avg_sq"] / (1 - second ** state["step"])
        rows.sub_(lr * mean / (square.sqrt() + EPS))

    def muon(self, group):
        """Update this rank's matrices of one shape, then collect everyone's."""
        rank, ranks = world()
        params = group["params"]
        grads = torch.stack([average(p) for p in params])
        count = -(-len(params) // ranks)
        pad = grads.new_zeros(count * ranks - len(params), *grads.shape[1:])
        own = torch.cat([grads, pad])[rank * count : (rank + 1) * count]
        update = share(self.muon_update(params[0], own, group["momentum"]), ranks)
        scale = group["lr"] * max(1, grads.size(-2) / grads.size(-1)) ** 0.5
        for p, step in zip(params, update, strict=False):
            p.sub_(scale * step)

    def muon_update(self, key, grad, momentum):
        state = self.state[key]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
            state["second_momentum_buffer"] = torch.zeros_like(grad[..., :1])
        state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonal(grad.lerp(state["momentum_buffer"], momentum))
        second = state["second_momentum_buffer"]
        second.lerp_(update.square().mean(-1, keepdim=True), 0.05)
        return (
            update
            * (update.norm() / (update / (second.sqrt() + EPS)).norm().clamp(min=EPS))
            / (second.sqrt() + EPS)
        )
