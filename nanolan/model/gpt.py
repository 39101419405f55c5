"""The nanochat GPT of autumn 2025: rotary positions, QK norm, squared ReLU, untied head, soft-capped logits.

State-dict keys, shapes and dtypes are nanochat's, so its checkpoints load here and ours load there.
Shapes in comments: B rows, T positions, C channels, V vocabulary, H heads, K key/value heads, D = C/H.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanolan.checkpoint.architecture import GPTConfig, check_tensors, plain_names
from nanolan.errors import BadAnswer
from nanolan.model.attention import Attend, Mask, block_mask, causal, plain_mask, within
from nanolan.model.loss import CHUNK_LOGITS, IGNORE, chunk_loss, softcap, summed_loss

ROPE_BASE = 10_000
LEAST_LOGITS = 1 << 30  # when compiled: one shape, so all positions or full chunks


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without weights."""
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)


def rotary_tables(config: GPTConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (1, 10 * sequence_len, 1, D/2), in bf16 on every device as nanochat has them."""
    D = config.n_embd // config.n_head
    frequency = ROPE_BASE ** -(torch.arange(0, D, 2, dtype=torch.float32, device=device) / D)
    angle = torch.outer(torch.arange(config.positions, device=device).float(), frequency)
    return angle.cos().bfloat16()[None, :, None], angle.sin().bfloat16()[None, :, None]


def turns(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Tables (..., D/2) expanded to (..., D) for `rotate`: made once, used in every layer."""
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((sin, -sin), -1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D) turned by position; pairs are (j, j + D/2), the angle's sign is nanochat's."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normed queries and keys."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        kv = config.n_kv_head * self.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, kv, bias=False)
        self.c_v = nn.Linear(config.n_embd, kv, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend = causal) -> Tensor:
        B, T, C = x.shape
        q, k, v = (c(x).view(B, T, -1, self.head_dim) for c in (self.c_q, self.c_k, self.c_v))
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T, D)
        return self.c_proj(attend(q, k, v).transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """C -> 4C -> squared ReLU -> C."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(squared_relu(self.c_fc(x)))


class SquaredRelu(torch.autograd.Function):
    """relu(x)^2 that saves one tensor for its backward pass and needs two operations there instead of six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.relu(x)
        ctx.save_for_backward(y)
        return y * y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        [y] = ctx.saved_tensors
        return (grad * y).mul_(2)


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 for the compiler, which fuses it itself."""
    if torch.compiler.is_compiling() or not (x.requires_grad and torch.is_grad_enabled()):
        return F.relu(x).square()
    return SquaredRelu.apply(x)


class Block(nn.Module):
    """One layer: attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend = causal) -> Tensor:
        x = x + self.attn(norm(x), cos, sin, attend)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """The whole model. Make one with `from_state` or `fresh`; the constructor leaves torch's default weights."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                # not nn.Embedding(V, C): its random initialisation on the meta device imports torch's compiler, 3 s
                "wte": nn.Embedding.from_pretrained(
                    torch.empty(config.vocab_size, config.n_embd), freeze=False
                ),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.flex = False  # masks for flex_attention, or plain ones
        self.least_logits = 1  # positions of logits are made a multiple of this
        self.chunk_loss = chunk_loss  # instance attributes, so that each can be compiled separately

    @staticmethod
    def from_state(
        config: GPTConfig,
        state: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        where: str = "state dict",
    ) -> GPT:
        """A model that owns `state`'s tensors, moved to `device`; BadAnswer names a wrong key or shape."""
        with torch.device("meta"):
            model = GPT(config)
        state = plain_names(state, where)
        check_tensors(config, state, where)
        device = torch.device(device)
        state = {key: t.to(device, stored_dtype(key, device)) for key, t in apart(state).items()}
        model.load_state_dict(state, assign=True)
        return model._with_tables(device)

    @staticmethod
    def fresh(config: GPTConfig, seed: int = 0) -> GPT:
        """An untrained model on the CPU: linear N(0, min(1, sqrt(out/in))/sqrt(in)), wte N(0, 1), outputs 0."""
        generator = torch.Generator().manual_seed(seed)
        model = GPT(config)
        for key, p in model.named_parameters():
            rows, cols = p.shape
            std = 1.0 if "wte" in key else min(1.0, (rows / cols) ** 0.5) / cols**0.5
            std = 0.0 if "lm_head" in key or "c_proj" in key else std
            nn.init.normal_(p, 0.0, std, generator=generator)
        return model._with_tables(torch.device("cpu"))

    def _with_tables(self, device: torch.device) -> GPT:
        cos, sin = rotary_tables(self.config, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        return self

    def trunk(self, ids: Tensor, positions: Tensor | None = None, mask: Mask = None) -> Tensor:
        """ids (B, T) -> normed last hidden state (B, T, C); `positions` and `mask` separate conversations."""
        T = ids.size(1)
        if self.cos.size(1) < T:
            raise BadAnswer(
                f"rows of {T} tokens, but the model's position tables end at {self.cos.size(1)}"
            )
        if positions is not None:
            return self.trunk_at(ids, positions, [within(mask)] * self.config.n_layer)
        x = norm(self.transformer["wte"](ids))
        cos, sin = turns(self.cos[:, :T], self.sin[:, :T], x.dtype)
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            x = block(x, cos, sin)
        return norm(x)

    def trunk_at(self, ids: Tensor, positions: Tensor, attends: Iterable[Attend]) -> Tensor:
        """`trunk` for tokens (B, T) at `positions` (B, T), with one attention function per layer (to a cache)."""
        x = norm(self.transformer["wte"](ids))
        cos, sin = turns(self.cos[0, positions], self.sin[0, positions], x.dtype)  # (B, T, 1, D)
        for block, attend in zip(self.transformer["h"], attends, strict=True):  # type: ignore[call-overload]
            x = block(x, cos, sin, attend)
        return norm(x)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V) in fp32. Computes all of them: for short prompts, not for training."""
        return softcap(self.lm_head(self._hidden(ids, positions))).float()

    def _hidden(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        if positions is None:
            return self.trunk(ids)
        return self.trunk(
            ids, positions, block_mask(positions) if self.flex else plain_mask(positions)
        )

    def loss_sum(
        self,
        ids: Tensor,
        targets: Tensor,
        positions: Tensor | None = None,
        chunk_logits: int = CHUNK_LOGITS,
    ) -> Tensor:
        """Cross entropy in nats, summed over targets (B, T) that are not IGNORE.

        With `positions` (B, T), 0 where a conversation begins, each conversation is computed as if alone in its
        row: it sees no other, and its rotary positions start at 0 (the bf16 tables make positions not quite relative).
        Works through the positions in chunks of at most `chunk_logits` logits. Where there is no target there are no
        logits, but for what fills up the last of several chunks (so that all have one shape to compile).
        Targets are best on the CPU: where they are is chosen there, and the host need not wait for a GPU.
        """
        device = self.lm_head.weight.device
        places = None if positions is None else positions.to(device)
        hidden, targets = self._hidden(ids.to(device), places).flatten(0, 1), targets.flatten()
        size = max(1, chunk_logits // self.config.vocab_size)
        hidden, targets = only_trained(
            hidden, targets, size if len(targets) > size else self.least_logits
        )
        return summed_loss(
            hidden, self.lm_head.weight, targets.to(device), None, size, self.chunk_loss
        )

    def compile_parts(self, flex: bool = False) -> None:
        """Compile the trunk and the loss of a chunk; the module keeps its state-dict keys. `flex`: see flex_works."""
        self.flex, self.least_logits = flex, LEAST_LOGITS
        self.trunk = torch.compile(self.trunk, dynamic=False)  # type: ignore[method-assign]
        self.chunk_loss = torch.compile(self.chunk_loss, dynamic=False)

    def plain_parts(self) -> None:
        """Switch back to eager mode: a short evaluation takes less time than compiling it."""
        self.flex, self.least_logits = False, 1
        self.__dict__.pop("trunk", None)
        self.chunk_loss = chunk_loss


def only_trained(hidden: Tensor, targets: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """The rows of hidden (N, C) and targets (N,) with a target, padded with others to a multiple of `multiple`."""
    kept = (targets != IGNORE).nonzero().squeeze(1)
    fill = -len(kept) % multiple
    if len(kept) + fill >= len(targets):
        return hidden, targets
    at = torch.cat([kept, kept.new_zeros(fill)]).to(hidden.device)
    return hidden.index_select(0, at), F.pad(targets[kept], (0, fill), value=IGNORE)


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor its own memory: a file may share one storage between two names, and each is trained separately."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for key, t in state.items():
        place = t.untyped_storage().data_ptr()
        own[key] = (
            t.clone(memory_format=torch.contiguous_format) if place in seen else t.contiguous()
        )
        seen.add(place)
    return own


def stored_dtype(key: str, device: torch.device) -> torch.dtype:
    """nanochat keeps the token embedding in bf16 on CUDA; everything else, and everything on the CPU, is fp32."""
    return (
        torch.bfloat16
        if device.type == "cuda" and key == "transformer.wte.weight"
        else torch.float32
    )
