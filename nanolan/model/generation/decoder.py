"""The step that draws a token for every row, on the device alone: rows in fixed places, tensors that stay where they are.

The device knows tokens, forced tokens and ends. It does not wait for the host, which looks at the tokens after several
steps; a row that has ended stands still until then. R places, n of them computed (those before the last row).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nanolan.model.generation.graphs import Runner
from nanolan.model.generation.kv_cache import Cache
from nanolan.model.generation.sampling import Sampling, draw
from nanolan.model.gpt import GPT, softcap
from nanolan.model.tokenizer import Tokenizer

CUDA_LENGTHS = 64  # lengths are rounded up to these, so that few shapes, and few graphs, occur
CUDA_LEAST_ROWS = 8  # rows are rounded up to powers of two from here on


class Decoder:
    """R rows with room for `slots` tokens each, of which up to `new_tokens` are drawn."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        rows: int,
        slots: int,
        new_tokens: int,
        look_every: int,
        runner: Runner,
    ) -> None:
        self.model, self.tokenizer, self.runner = model, tokenizer, runner
        self.device = model.lm_head.weight.device
        self.lengths = CUDA_LENGTHS if self.device.type == "cuda" else 1
        self.rows, self.slots = rows, rounded(slots, self.lengths)
        self.new_tokens, self.look_every = new_tokens, look_every
        self.cache = Cache(model, rows, self.slots)
        # newest token, its position, tokens of the completion so far, tokens left (0: ended, or nobody's row)
        self.state = torch.zeros((4, rows), dtype=torch.long, device=self.device)
        self.noise = torch.zeros((rows, new_tokens), device=self.device)
        self.forced = self.state.new_full((rows, new_tokens), -1)  # -1: drawn
        self.newest = self.state.new_zeros((rows, look_every))  # the tokens of the last steps

    def holds(self, rows: int, slots: int, new_tokens: int) -> bool:
        """Whether it is large enough for these."""
        return self.rows >= rows and self.slots >= slots and self.new_tokens >= new_tokens

    def clear(self) -> None:
        """Make all places free."""
        self.state.zero_()

    def fill(
        self, prompts: Sequence[Sequence[int]], prompt_of: Sequence[int], places: Sequence[int]
    ) -> Tensor:
        """Process each prompt once, for all rows that have it; the rows' last hidden states (m, C)."""
        lengths = [len(p) for p in prompts]
        longest = min(rounded(max(lengths), self.lengths), self.model.cos.size(1))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        for i, p in enumerate(prompts):
            ids[i, : len(p)] = torch.tensor(p)
        whose = self.tensor(prompt_of)
        with attention_for(self.device):
            hidden = self.cache.fill(ids.to(self.device), whose, self.tensor(places))
        return hidden[whose, self.tensor([lengths[i] - 1 for i in prompt_of])]

    def set(self, places: Sequence[int], state: Tensor, forced: Tensor, noise: Tensor) -> None:
        """Set rows: state (4, m), forced and noise (m, new_tokens), all on the CPU."""
        at = self.tensor(places)
        self.state[:, at] = state.to(self.device)
        self.forced[at] = forced.to(self.device)
        self.noise[at] = noise.to(self.device)

    def move(self, source: int, target: int) -> None:
        """Move a row to another place."""
        self.cache.move(source, target, self.slots)
        self.state[:, target] = self.state[:, source]
        self.state[3, source] = 0
        for t in (self.forced, self.noise):
            t[target] = t[source]

    def draw(self, places: Sequence[int], hidden: Tensor, sampling: Sampling) -> list[list[int]]:
        """The next token of these rows from their hidden states (m, C), as lists of one."""
        at = self.tensor(places)
        self._draw(at, hidden, sampling)
        return self.newest[at, -1:].tolist()

    def run(self, steps: int, n: int, longest: int, sampling: Sampling) -> list[list[int]]:
        """Draw `steps` tokens for the first n places, (n, steps). Positions must stay below `longest`."""
        n, longest = self.width(n), min(rounded(longest, self.lengths), self.slots)
        key = n, longest, sampling.temperature, sampling.top_k
        with attention_for(self.device):
            for _ in range(steps):
                self.runner(key, lambda: self._step(n, longest, sampling))
        return self.newest[:n, -steps:].tolist()

    def _step(self, n: int, longest: int, sampling: Sampling) -> None:
        token, position, _, _ = self.state[:, :n]
        self._draw(slice(n), self.cache.advance(token, position, longest), sampling)

    def _draw(self, at: slice | Tensor, hidden: Tensor, sampling: Sampling) -> None:
        """Draw a token for the rows `at` that go on, or take the one that is forced."""
        token, position, count, left = self.state[:, at]
        logits = softcap(self.model.lm_head(hidden)).float()[:, : self.tokenizer.vocab_size]
        number = count.clamp(max=self.new_tokens - 1)[:, None]
        free = draw(logits, sampling, self.noise[at].gather(1, number)[:, 0])
        due = self.forced[at].gather(1, number)[:, 0]
        drawn = torch.where(due >= 0, due, free)
        ended = (drawn == self.tokenizer.bos) | (drawn == self.tokenizer.special("assistant_end"))
        runs = (left > 0).long()
        after = (left - runs) * ((due >= 0) | ~ended)
        token = torch.where(left > 0, drawn, token)
        self.state[:, at] = torch.stack((token, position + runs, count + runs, after))
        self.newest[at] = torch.cat((self.newest[at, 1:], drawn[:, None]), 1)

    def width(self, n: int) -> int:
        """The places that are computed when n are needed."""
        if self.device.type != "cuda":
            return n
        return min(self.rows, max(CUDA_LEAST_ROWS, 1 << (n - 1).bit_length()))

    def tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


def rounded(length: int, multiple: int) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple


def attention_for(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Without cuDNN's attention on CUDA: it makes a plan for every new shape, for up to half a second each."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
