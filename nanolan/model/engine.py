"""Batched generation for many prompts: ragged rows, a key/value cache, the calculator; rows are independent.

    Engine(model, tokenizer).complete(prompts, Sampling(max_new_tokens=256), samples=16)

Rows that have ended leave at once and waiting rows take their place. The tensors know nothing of calculator or
end tokens: the host looks at the drawn tokens every `look_every` steps, and a row that has called the calculator
in between is simply set back to its call, with the result as tokens that are forced on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanolan.errors import BadAnswer
from nanolan.model.calculator import calculate
from nanolan.model.gpt import GPT, softcap
from nanolan.model.kv_cache import Cache
from nanolan.model.sampling import Sampling, draw, uniforms
from nanolan.model.tokenizer import Tokenizer

MAX_ROWS = 256  # more rows no longer make a GPU faster
CACHE_BYTES = 512 << 20
CUDA_CACHE_SHARE = 0.2  # of the GPU's memory, on CUDA; training needs the rest
CUDA_LOOK_EVERY = 8  # steps between checks: a check synchronises the GPU; on the CPU it is free
REFILL = 0.25  # share of rows that must be free before waiting ones are added


@dataclass(frozen=True)
class Completion:
    """The completion of a prompt, without the token that ended it; mask 1 = sampled, 0 = forced by the calculator."""

    ids: list[int]
    mask: list[int]
    ended: bool  # by an end token; False: at max_new_tokens


@dataclass
class Row:
    """A completion in progress, with its position in a calculator call."""

    prompt: Sequence[int]
    noise: Tensor  # (max_new_tokens,)
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    due: list[int] = field(default_factory=list)  # remaining tokens of a result
    expression: list[int] | None = None  # tokens since python_start
    ended: bool = False

    def take(self, token: int, tokenizer: Tokenizer) -> bool:
        """Add a token; True if it ends a call that has a result, so that `due` must be forced from here on."""
        if self.due:
            self._add(self.due.pop(0), 0)
            return False
        if token in (tokenizer.bos, tokenizer.special("assistant_end")):
            self.ended = True
            return False
        self._add(token, 1)
        if token == tokenizer.special("python_start"):
            self.expression = []
        elif token == tokenizer.special("python_end"):
            self.due = call(self.expression, tokenizer)
            self.expression = None
        elif self.expression is not None:
            self.expression.append(token)
        return bool(self.due)

    def _add(self, token: int, sampled: int) -> None:
        self.ids.append(token)
        self.mask.append(sampled)

    @property
    def done(self) -> bool:
        """Whether it is complete."""
        return self.ended or len(self.ids) >= len(self.noise)


def call(expression: Sequence[int] | None, tokenizer: Tokenizer) -> list[int]:
    """The tokens that answer a calculator call; none if there is no result."""
    result = calculate(tokenizer.decode(list(expression))) if expression else None
    if result is None:
        return []
    return [
        tokenizer.special("output_start"),
        *tokenizer.encode(result),
        tokenizer.special("output_end"),
    ]


class Engine:
    """Generates with a model; on CUDA with a bf16 copy of it, which `refresh` updates."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        max_rows: int = MAX_ROWS,
        look_every: int | None = None,
    ) -> None:
        self.source, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self.device = model.lm_head.weight.device
        on_cuda = self.device.type == "cuda"
        self.look_every = look_every or (CUDA_LOOK_EVERY if on_cuda else 1)
        self.model = half_copy(model) if on_cuda else model

    @torch.no_grad()
    def refresh(self) -> None:
        """Generate with the model's weights as they are now."""
        if self.model is not self.source:
            for mine, p in zip(self.model.parameters(), self.source.parameters(), strict=True):
                mine.copy_(p)

    def room(self, max_new_tokens: int) -> int:
        """Tokens of the longest prompt that leaves room for such completions; less than 1: none does."""
        return self.model.cos.size(1) - max_new_tokens - self.look_every

    @torch.inference_mode()
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        samples: int = 1,
        keys: Sequence[int] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[list[Completion]]:
        """`samples` completions of each prompt (token ids, not empty).

        `keys` (default: 0, 1, ...) name the prompts for the random numbers: equal seed, key and place among the
        samples give equal draws. Ends within a few tokens once `stopped()`, with whatever is there then.
        BadAnswer when prompt and completion are longer than the model's positions.
        """
        n_new = sampling.max_new_tokens
        rows = [
            Row(prompt, uniforms(sampling.seed, key, j, n_new))
            for prompt, key in zip(prompts, keys or range(len(prompts)), strict=True)
            for j in range(samples)
        ]
        longest = max((len(row.prompt) for row in rows), default=0)
        if longest > self.room(n_new):
            raise BadAnswer(
                f"a prompt of {longest} tokens and {n_new} more, but the model's positions end at "
                f"{self.model.cos.size(1)}"
            )
        slots = longest + n_new + self.look_every
        capacity = min(self._capacity(slots), len(rows))
        flight = Flight(self, capacity, slots, sampling)
        waiting = deque(sorted(rows, key=lambda row: len(row.prompt)))
        while (waiting or flight.rows) and not stopped():
            free = capacity - len(flight.rows)
            if waiting and (free >= REFILL * capacity):
                flight.admit([waiting.popleft() for _ in range(min(free, len(waiting)))])
            else:
                flight.advance()
        done = [Completion(row.ids, row.mask, row.ended) for row in rows]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _capacity(self, slots: int) -> int:
        """The number of rows whose keys and values fit the cache's memory."""
        config, weight = self.model.config, self.model.lm_head.weight
        row_bytes = (
            2
            * config.n_layer
            * config.n_kv_head
            * (config.n_embd // config.n_head)
            * slots
            * weight.itemsize
        )
        on_cuda = self.device.type == "cuda"
        budget = (
            CUDA_CACHE_SHARE * torch.cuda.mem_get_info(self.device)[1] if on_cuda else CACHE_BYTES
        )
        return max(1, min(self.max_rows, int(budget // row_bytes)))


def half_copy(model: GPT) -> GPT:
    """The same model with weights in bf16."""
    with torch.device("meta"):
        copy = GPT(model.config)
    copy.load_state_dict(
        {key: p.detach().bfloat16() for key, p in model.state_dict().items()}, assign=True
    )
    return copy._with_tables(model.lm_head.weight.device)


class Flight:
    """The rows in progress. Tensors are (n,) or (n, width) with a line for each row, in the cache's order."""

    def __init__(self, engine: Engine, capacity: int, slots: int, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.model, self.tokenizer, self.device = engine.model, engine.tokenizer, engine.device
        self.cache = Cache(engine.model, capacity, slots)
        self.rows: list[Row] = []
        width = (
            sampling.max_new_tokens + engine.look_every
        )  # a row may overrun until the next check
        none = torch.empty(0, dtype=torch.long, device=self.device)
        self.token, self.start, self.at = (
            none,
            none,
            none,
        )  # the newest token is number `at` of its completion
        self.forced = none.new_empty(0, width)  # -1: free
        self.noise = torch.empty(0, width, device=self.device)

    def admit(self, rows: list[Row]) -> None:
        """Add rows: process each prompt once for all its samples, and draw the first token of each row."""
        first, width = len(self.rows), self.forced.size(1)
        number = {id(row.prompt): row.prompt for row in rows}
        place = {key: i for i, key in enumerate(number)}
        prompts = list(number.values())
        lengths = self._tensor([len(p) for p in prompts])
        prompt_of = self._tensor([place[id(row.prompt)] for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(p) for p in prompts], batch_first=True
        ).to(self.device)
        hidden = self.cache.admit(ids, lengths, prompt_of)[prompt_of]
        noise = torch.stack([row.noise for row in rows])
        noise = torch.cat((noise, noise.new_zeros(len(rows), width - noise.size(1))), 1)
        self.rows += rows
        self.noise = torch.cat((self.noise, noise.to(self.device)))
        self.forced = torch.cat((self.forced, self.forced.new_full((len(rows), width), -1)))
        self.start = torch.cat((self.start, lengths[prompt_of]))
        self.at = torch.cat((self.at, torch.zeros_like(prompt_of)))
        new = slice(first, None)
        token = self._choose(hidden, self.at[new], self.noise[new], self.forced[new])
        self.token = torch.cat((self.token, token))
        self._look(token[:, None], first)

    def advance(self) -> None:
        """Generate a few tokens for every row, then check them."""
        longest = max(len(row.prompt) + len(row.ids) for row in self.rows)
        drawn = []
        for i in range(self.engine.look_every):
            hidden = self.cache.advance(self.token, self.start + self.at, longest + i)
            self.at = self.at + 1
            self.token = self._choose(hidden, self.at, self.noise, self.forced)
            drawn.append(self.token)
        self._look(torch.stack(drawn, 1), 0)

    def _choose(self, hidden: Tensor, at: Tensor, noise: Tensor, forced: Tensor) -> Tensor:
        """Token number `at` (m,) of rows whose last hidden states are (m, C)."""
        logits = softcap(self.model.lm_head(hidden)).float()[:, : self.tokenizer.vocab_size]
        free = draw(logits, self.sampling, noise.gather(1, at[:, None])[:, 0])
        due = forced.gather(1, at[:, None])[:, 0]
        return torch.where(due >= 0, due, free)

    def _look(self, tokens: Tensor, first: int) -> None:
        """Give tokens (m, steps) to the rows from `first` on; rewind those with a result; drop those done."""
        for i, line in enumerate(tokens.tolist(), first):
            row = self.rows[i]
            for token in line:
                if row.take(token, self.tokenizer):
                    self._set_back(i, row)
                    break
                if row.done:
                    break
        alive = [i for i, row in enumerate(self.rows) if not row.done]
        if len(alive) < len(self.rows):
            order = self.cache.keep(alive)
            self.rows = [self.rows[i] for i in order]
            lines = self._tensor(order)
            self.token, self.start, self.at, self.forced, self.noise = (
                t[lines] for t in (self.token, self.start, self.at, self.forced, self.noise)
            )

    def _set_back(self, i: int, row: Row) -> None:
        at, end = len(row.ids), min(len(row.ids) + len(row.due), self.forced.size(1))
        self.at[i], self.token[i] = at - 1, row.ids[-1]
        self.forced[i, at:end] = self._tensor(row.due[: end - at])

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)
