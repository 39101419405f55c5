"""The plain path, which the bench measures ours against: nanochat's way of training, in eager PyTorch.

It takes a GPT's weights, and the precision that the trainer has on each device, so that what differs is the path. The
trainer never uses it, and it is not to become faster when the trainer does: it is the measure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT
from nanolan.model.loss import IGNORE, SOFTCAP
from nanolan.train.data.packing import Batch
from nanolan.train.optim import BETAS, EPS, NS_STEPS, QUINTIC, WIDTH


def norm(x: Tensor) -> Tensor:
    """RMS norm."""
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D) by its positions."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, -a * sin + b * cos], -1).to(x.dtype)


@dataclass
class Past:
    """Keys and values of the tokens so far, a pair (B, K, slots, D) a layer; `n` slots are used."""

    pairs: list[tuple[Tensor, Tensor]]
    n: int = 0

    @staticmethod
    def of(model: GPT, rows: int, slots: int, dtype: torch.dtype) -> Past:
        """An empty one."""
        c, head = model.config, model.lm_head.weight
        shape = (rows, c.n_kv_head, slots, c.n_embd // c.n_head)
        return Past(
            [
                (head.new_empty(shape, dtype=dtype), head.new_empty(shape, dtype=dtype))
                for _ in range(c.n_layer)
            ]
        )

    def copied(self, rows: int, slots: int) -> Past:
        """This one row's, for `rows` rows with room for more."""
        return Past([(grown(k, rows, slots), grown(v, rows, slots)) for k, v in self.pairs], self.n)

    def with_new(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put in a layer's keys and values of new tokens; all that it has by now."""
        end = self.n + k.size(2)
        for kept, new in zip(self.pairs[layer], (k, v), strict=True):
            kept[:, :, self.n : end] = new
        return self.pairs[layer][0][:, :, :end], self.pairs[layer][1][:, :, :end]


def grown(t: Tensor, rows: int, slots: int) -> Tensor:
    """A row's (1, K, n, D) in memory for `rows` rows and `slots` slots."""
    new = t.new_empty(rows, t.size(1), slots, t.size(3))
    new[:, :, : t.size(2)] = t
    return new


def all_logits(model: GPT, ids: Tensor, past: Past | None = None) -> Tensor:
    """ids (B, T), after those in `past` -> logits (B, T, V)."""
    (B, T), n = ids.shape, past.n if past else 0
    cos, sin = model.cos[:, n : n + T], model.sin[:, n : n + T]
    x = norm(model.transformer["wte"](ids))
    blocks: Any = model.transformer["h"]
    for i, block in enumerate(blocks):
        attn, y = block.attn, norm(x)
        q, k, v = (c(y).view(B, T, -1, attn.head_dim) for c in (attn.c_q, attn.c_k, attn.c_v))
        q, k, v = (
            t.transpose(1, 2) for t in (norm(turned(q, cos, sin)), norm(turned(k, cos, sin)), v)
        )
        if past:
            k, v = past.with_new(i, k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=T > 1, enable_gqa=k.size(1) < q.size(1)
        )
        x = x + attn.c_proj(y.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp.c_proj(F.relu(block.mlp.c_fc(norm(x))).square())
    if past:
        past.n += T
    return (SOFTCAP * torch.tanh(model.lm_head(norm(x)) / SOFTCAP)).float()


def loss_sum(model: GPT, batch: Batch) -> Tensor:
    """Summed cross entropy by way of all logits."""
    logits = all_logits(model, batch.ids)
    return F.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def policy_loss(model: GPT, batch: Batch) -> Tensor:
    """Sum of weight * -log p(token), `targets` being the weights (B, T) of ids (B, T), by way of all logits."""
    logits = all_logits(model, batch.ids[:, :-1])
    nats = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    return (batch.targets[:, 1:].flatten() * nats).sum()


def policy_batch(
    prompt: Sequence[int], tries: Sequence[Sequence[int]], advantages: Sequence[float], pad: int
) -> Batch:
    """The tries at a question as ids (B, T) and weights (B, T), padded to the longest."""
    ids = torch.full((len(tries), len(prompt) + max(map(len, tries))), pad)
    weights = torch.zeros(ids.shape)
    for row, (new, advantage) in enumerate(zip(tries, advantages, strict=True)):
        ids[row, : len(prompt) + len(new)] = torch.tensor([*prompt, *new])
        weights[row, len(prompt) : len(prompt) + len(new)] = advantage
    return Batch(ids, weights, None)


class PlainOptimizer:
    """torch's AdamW for embedding and head; Muon for the other matrices, one at a time."""

    def __init__(
        self, model: GPT, *, unembedding_lr: float, embedding_lr: float, matrix_lr: float
    ) -> None:
        self.model, self.matrix_lr, self.momentum = model, matrix_lr, dict[Tensor, Tensor]()
        scale = (model.config.n_embd / WIDTH) ** -0.5
        self.rates = [unembedding_lr * scale, embedding_lr * scale]
        groups: list[dict[str, Any]] = [
            {"params": [model.lm_head.weight]},
            {"params": [model.get_parameter("transformer.wte.weight")]},
        ]
        self.adamw = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, weight_decay=0, fused=True)

    @torch.no_grad()
    def step(self, factor: float, mu: float) -> None:
        """Update every parameter, and forget the gradients."""
        for group, lr in zip(self.adamw.param_groups, self.rates, strict=True):
            group["lr"] = lr * factor
        self.adamw.step()
        for p in self.model.transformer["h"].parameters():
            if p.grad is not None:
                buffer = self.momentum.setdefault(p, torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - mu)
                u = orthogonal(p.grad.lerp_(buffer, mu))
                p.add_(u, alpha=-factor * self.matrix_lr * max(1.0, p.size(0) / p.size(1)) ** 0.5)
        self.model.zero_grad(set_to_none=True)


def orthogonal(g: Tensor) -> Tensor:
    """Newton-Schulz of one matrix."""
    a, b, c = QUINTIC
    x = g.bfloat16() if g.is_cuda else g
    x = x.mT if g.size(0) > g.size(1) else x
    x = x / (x.norm() + 1e-7)
    for _ in range(NS_STEPS):
        xx = x @ x.mT
        x = a * x + (b * xx + c * xx @ xx) @ x
    return x.mT if g.size(0) > g.size(1) else x


@torch.inference_mode()
def generate(
    model: GPT, prompt: Sequence[int], rows: int, sampling: Sampling, ends: Collection[int]
) -> list[list[int]]:
    """`rows` completions of one prompt, which is read once; a token for all of them until all have ended."""
    ids = torch.tensor([list(prompt)], device=model.lm_head.weight.device)
    dtype = torch.bfloat16 if ids.is_cuda else torch.float32
    once = Past.of(model, 1, len(prompt), dtype)
    logits = all_logits(model, ids, once)[:, -1].expand(rows, -1)
    past = once.copied(rows, len(prompt) + sampling.max_new_tokens)
    done: list[list[int]] = [[] for _ in range(rows)]
    ended = [False] * rows
    for i in range(sampling.max_new_tokens):
        likeliest, tokens = logits.topk(min(sampling.top_k or logits.size(-1), logits.size(-1)))
        place = torch.multinomial(F.softmax(likeliest / sampling.temperature, -1), 1)
        drawn = tokens.gather(1, place)
        for row, token in enumerate(drawn[:, 0].tolist()):
            ended[row] = ended[row] or token in ends
            if not ended[row]:
                done[row].append(token)
        if all(ended) or i + 1 == sampling.max_new_tokens:
            break
        logits = all_logits(model, drawn, past)[:, -1]
    return done
