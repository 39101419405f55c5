"""The GPT of 2025: rotary positions, QK norm, squared ReLU, untied head. Kept: no field or key of 2026 is known."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nanochat.adamw import AdamW
from nanochat.muon import Muon

ROPE_BASE = 10_000


@dataclass
class GPTConfig:
    """model_config of a meta file."""

    sequence_len: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768


def norm(x):
    """RMS norm without weights."""
    return F.rms_norm(x, (x.size(-1),))


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out, bias=False)


def rotate(x, cos, sin):
    """x (B, T, H, D) turned by its position; pairs are (j, j + D/2)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        kv = config.n_kv_head * self.head_dim
        self.c_q = linear(config.n_embd, config.n_embd)
        self.c_k = linear(config.n_embd, kv)
        self.c_v = linear(config.n_embd, kv)
        self.c_proj = linear(config.n_embd, config.n_embd)

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        q, k, v = (c(x).view(B, T, -1, self.head_dim) for c in (self.c_q, self.c_k, self.c_v))
        q, k = (norm(rotate(part, cos, sin)) for part in (q, k))
        repeat = q.size(2) // k.size(2)
        k, v = (part.repeat_interleave(repeat, dim=2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """C -> 4C -> squared ReLU -> C."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention and MLP, each with its residual."""

    def __init__(self, config):
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin):
        x = x + self.attn(norm(x), cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """The model; call `init_weights` or load a state dict before use."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            }
        )
        self.lm_head = linear(config.n_embd, config.vocab_size)

    @torch.no_grad()
    def init_weights(self):
        """Fresh weights: the head and the projections back into the residual are 0."""
        for name, p in self.named_parameters():
            rows, cols = p.shape
            if "c_proj" in name or "lm_head" in name:
                p.zero_()
            else:
                p.normal_(std=1.0 if "wte" in name else min(1, (rows / cols) ** 0.5) / cols**0.5)

    def get_device(self):
        return self.lm_head.weight.device

    def estimate_flops(self):
        """Forward and backward FLOPs of a token."""
        c = self.config
        dense = sum(p.numel() for p in self.parameters()) - self.transformer["wte"].weight.numel()
        return 6 * dense + 12 * c.n_layer * c.n_embd * c.sequence_len

    def rotary(self, T):
        """cos and sin (1, T, 1, D/2) in bf16 on every device."""
        assert 10 * self.config.sequence_len >= T, "the row is longer than the rotary tables"
        D = self.config.n_embd // self.config.n_head
        device = self.get_device()
        frequency = ROPE_BASE ** -(torch.arange(0, D, 2, device=device).float() / D)
        angle = torch.outer(torch.arange(T, device=device).float(), frequency)[None, :, None]
        return angle.cos().bfloat16(), angle.sin().bfloat16()

    def forward(self, ids, targets=None, loss_reduction="mean"):
        """Logits (B, T, V), or with targets the loss; -1 is not a target."""
        with torch.autocast("cuda", torch.bfloat16, enabled=ids.is_cuda):
            cos, sin = self.rotary(ids.size(1))
            x = norm(self.transformer["wte"](ids))
            for block in self.transformer["h"]:
                x = block(x, cos, sin)
            logits = self.lm_head(norm(x))
        logits = (15 * torch.tanh(logits / 15)).float()
        if targets is None:
            return logits
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=loss_reduction
        )

    def setup_optimizers(
        self, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02, weight_decay=0.0
    ):
        """[AdamW, Muon]"""
        scale = (self.config.n_embd / 768) ** -0.5
        tables = [
            {"params": [self.lm_head.weight], "lr": unembedding_lr * scale},
            {"params": [self.transformer["wte"].weight], "lr": embedding_lr * scale},
        ]
        matrices = list(self.transformer["h"].parameters())
        shapes = sorted({p.shape for p in matrices})
        groups = [{"params": [p for p in matrices if p.shape == shape]} for shape in shapes]
        optimizers = [AdamW(tables, weight_decay), Muon(groups, lr=matrix_lr)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers
