"""The GPT of 2026: windows, value embeddings, smear, backout. Kept: its state dict does not fit the model of 2025."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nanochat.common import COMPUTE_DTYPE
from nanochat.optim import MuonAdamW

ROPE_BASE = 100_000
SMEAR_CHANNELS, GATE_CHANNELS = 24, 12


@dataclass
class GPTConfig:
    """model_config of a meta file."""

    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"


def norm(x):
    """RMS norm without weights."""
    return F.rms_norm(x, (x.size(-1),))


def has_value_embedding(layer, n_layer):
    """Every second layer, so that the last one has it."""
    return layer % 2 == (n_layer - 1) % 2


class Linear(nn.Linear):
    """A linear layer without bias that computes in the input's dtype."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def rotate(x, cos, sin):
    """x (B, T, H, D) turned by its position; pairs are (j, j + D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


class Attention(nn.Module):
    """Causal attention in a window, with a gated value embedding in every second layer."""

    def __init__(self, config, layer):
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        kv = config.n_kv_head * self.head_dim
        self.c_q = Linear(config.n_embd, config.n_embd)
        self.c_k = Linear(config.n_embd, kv)
        self.c_v = Linear(config.n_embd, kv)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        if has_value_embedding(layer, config.n_layer):
            self.ve_gate = Linear(GATE_CHANNELS, config.n_kv_head)

    def forward(self, x, ve, cos, sin, mask):
        B, T, C = x.shape
        q, k, v = (c(x).view(B, T, -1, self.head_dim) for c in (self.c_q, self.c_k, self.c_v))
        if ve is not None:
            gate = 3 * torch.sigmoid(self.ve_gate(x[..., :GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * ve.view(B, T, -1, self.head_dim)
        q, k = (1.2 * norm(rotate(part, cos, sin)) for part in (q, k))
        repeat = q.size(2) // k.size(2)
        k, v = (part.repeat_interleave(repeat, dim=2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """C -> 4C -> squared ReLU -> C."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention and MLP, each with its residual."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin, mask):
        x = x + self.attn(norm(x), ve, cos, sin, mask)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """The model; call `init_weights` or load a state dict before use."""

    def __init__(self, config, pad_to=64):
        super().__init__()
        self.config = config
        padded = -(-config.vocab_size // pad_to) * pad_to
        kv = config.n_kv_head * (config.n_embd // config.n_head)
        layers = range(config.n_layer)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(padded, config.n_embd),
                "h": nn.ModuleList(Block(config, i) for i in layers),
            }
        )
        self.lm_head = Linear(config.n_embd, padded)
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(0.2 * torch.ones(1))
        self.value_embeds = nn.ModuleDict(
            {
                str(i): nn.Embedding(padded, kv)
                for i in layers
                if has_value_embedding(i, config.n_layer)
            }
        )

    @torch.no_grad()
    def init_weights(self):
        """Fresh weights: projections back into the residual are 0."""
        bound = (3 / self.config.n_embd) ** 0.5
        for name, p in self.named_parameters():
            if "c_proj" in name or "lambda" in name:
                p.zero_()
            elif "wte" in name:
                p.normal_(std=0.8)
            elif "lm_head" in name:
                p.normal_(std=0.001)
            else:
                p.uniform_(-bound, bound).mul_(0.4 if "c_fc" in name else 1.0)
        self.resid_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(0.1)
        self.backout_lambda.fill_(0.2)

    def get_device(self):
        return self.lm_head.weight.device

    def estimate_flops(self):
        """Forward and backward FLOPs of a token."""
        c = self.config
        dense = sum(p.numel() for n, p in self.named_parameters() if p.ndim == 2 and "emb" not in n)
        dense -= self.transformer["wte"].weight.numel()
        return 6 * dense + 12 * c.n_layer * c.n_embd * c.sequence_len

    def rotary(self, T):
        """cos and sin (1, T, 1, D/2)."""
        D = self.config.n_embd // self.config.n_head
        device = self.get_device()
        frequency = ROPE_BASE ** -(torch.arange(0, D, 2, device=device).float() / D)
        angle = torch.outer(torch.arange(T, device=device).float(), frequency)[None, :, None]
        return angle.cos().to(COMPUTE_DTYPE), angle.sin().to(COMPUTE_DTYPE)

    def mask(self, layer, T):
        """Causal, and no farther back than the layer's window."""
        pattern = self.config.window_pattern
        long = pattern[layer % len(pattern)] == "L" or layer == self.config.n_layer - 1
        full = self.config.sequence_len
        window = full if long else -(-full // 4 // 128) * 128
        at = torch.arange(T, device=self.get_device())
        back = at[:, None] - at[None, :]
        return (back >= 0) & (back < max(window, 1))

    def smear(self, x):
        """Mix the previous token's embedding into each one."""
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(
            self.smear_gate(x[:, 1:, :SMEAR_CHANNELS])
        )
        return torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], dim=1)

    def forward(self, ids, targets=None, loss_reduction="mean"):
        """Logits (B, T, V), or with targets the loss; -1 is not a target."""
        T = ids.size(1)
        cos, sin = self.rotary(T)
        x = first = self.smear(norm(self.transformer["wte"](ids).to(COMPUTE_DTYPE)))
        middle = x
        for i, block in enumerate(self.transformer["h"]):
            x = self.resid_lambdas[i].to(x.dtype) * x + self.x0_lambdas[i].to(x.dtype) * first
            ve = self.value_embeds[str(i)](ids).to(x.dtype) if str(i) in self.value_embeds else None
            x = block(x, ve, cos, sin, self.mask(i, T))
            if i == self.config.n_layer // 2 - 1:
                middle = x
        x = norm(x - self.backout_lambda.to(x.dtype) * middle)
        logits = self.lm_head(x)[..., : self.config.vocab_size].float()
        logits = 15 * torch.tanh(logits / 15)
        if targets is None:
            return logits
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=loss_reduction
        )

    def setup_optimizer(
        self, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02, weight_decay=0.0
    ):
        """One optimizer: Muon for the matrices of the blocks, AdamW for everything else."""
        scale = (self.config.n_embd / 768) ** -0.5
        named = dict(self.named_parameters())
        matrices = [p for n, p in named.items() if n.startswith("transformer.h.")]
        tables = [p for n, p in named.items() if "wte" in n or n.startswith("value_embeds")]
        scalars = [p for n, p in named.items() if "lambda" in n or n.startswith("smear_gate")]
        groups = [
            {"kind": "adamw", "params": [self.lm_head.weight], "lr": unembedding_lr * scale},
            {"kind": "adamw", "params": tables, "lr": embedding_lr * scale},
            {"kind": "adamw", "params": scalars, "lr": 0.005},
        ]
        for shape in sorted({p.shape for p in matrices}):
            same = [p for p in matrices if p.shape == shape]
            groups.append({"kind": "muon", "params": same, "lr": matrix_lr})
        optimizer = MuonAdamW(groups, weight_decay=weight_decay)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer
