"""Batched generation for many prompts: ragged rows, a key/value cache, the calculator; rows are independent.

    Engine(model, tokenizer).complete(prompts, Sampling(max_new_tokens=256), samples=16)

The host looks at the drawn tokens every `look_every` steps. Then rows that have ended leave, waiting rows take their
places, and a row that has called the calculator meanwhile is simply set back to its call, with the result as tokens
that are forced on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from nanolan.errors import BadAnswer
from nanolan.model.generation.calculator import calculate
from nanolan.model.generation.decoder import Decoder
from nanolan.model.generation.graphs import Runner, cuda_graphs, run_plainly
from nanolan.model.generation.sampling import Sampling, uniforms
from nanolan.model.gpt import GPT
from nanolan.model.tokenizer import Tokenizer

MAX_ROWS = 256  # more rows no longer make a GPU faster
CACHE_BYTES = 512 << 20
CUDA_CACHE_SHARE = 0.2  # of the GPU's memory, on CUDA; training needs the rest
CUDA_KEPT_SHARE = 0.06  # a cache up to this is kept with its graphs; training must do without it
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

    def follow(self, tokens: Sequence[int], tokenizer: Tokenizer) -> bool:
        """Take tokens up to the end; True if the row is to be set back: those after a call with a result do not count."""
        for token in tokens:
            if self.take(token, tokenizer):
                return True
            if self.done:
                break
        return False

    def _add(self, token: int, sampled: int) -> None:
        self.ids.append(token)
        self.mask.append(sampled)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.ids)

    @property
    def left(self) -> int:
        """Tokens that may follow, unless it has ended."""
        return len(self.noise) - len(self.ids)

    @property
    def done(self) -> bool:
        """Whether it is complete."""
        return self.ended or self.left <= 0


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
        runner: Callable[[], Runner] | None = None,
    ) -> None:
        """`runner` makes what runs a decoder's steps; by default CUDA graphs where there is CUDA."""
        self.source, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self.device = model.lm_head.weight.device
        self.on_cuda = self.device.type == "cuda"
        self.look_every = look_every or (CUDA_LOOK_EVERY if self.on_cuda else 1)
        self.model = half_copy(model) if self.on_cuda else model
        self._runner = runner or (cuda_graphs if self.on_cuda else lambda: run_plainly)
        self._kept: Decoder | None = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Generate with the model's weights as they are now."""
        if self.model is not self.source:
            for mine, p in zip(self.model.parameters(), self.source.parameters(), strict=True):
                mine.copy_(p)

    def room(self, max_new_tokens: int) -> int:
        """Tokens of the longest prompt that leaves room for such completions; less than 1: none does."""
        return self.model.cos.size(1) - max_new_tokens

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
        rows = [
            Row(prompt, uniforms(sampling.seed, key, j, sampling.max_new_tokens))
            for prompt, key in zip(prompts, keys or range(len(prompts)), strict=True)
            for j in range(samples)
        ]
        if rows:
            flight = self.flight(max(len(row.prompt) for row in rows), len(rows), sampling)
            flight.fly(deque(sorted(rows, key=lambda row: len(row.prompt))), stopped)
        done = [Completion(row.ids, row.mask, row.ended) for row in rows]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def flight(self, longest: int, rows: int, sampling: Sampling) -> Flight:
        """Places for `rows` rows, or as many as fit, with prompts of at most `longest` tokens. One at a time.

        BadAnswer when prompt and completion are longer than the model's positions.
        """
        n_new = sampling.max_new_tokens
        if longest > self.room(n_new):
            raise BadAnswer(
                f"a prompt of {longest} tokens and {n_new} more, but the model's positions end at "
                f"{self.model.cos.size(1)}"
            )
        slots = longest + n_new
        rows = min(rows, self.max_rows, max(1, int(self._budget() // self._row_bytes(slots))))
        return Flight(self._decoder(rows, slots, n_new), self.tokenizer, sampling)

    def _decoder(self, rows: int, slots: int, new_tokens: int) -> Decoder:
        """The decoder that was kept, if it is large enough; else a new one."""
        if self._kept and self._kept.holds(rows, slots, new_tokens):
            return self._kept
        self._kept = None  # its memory, before more is taken
        decoder = Decoder(
            self.model, self.tokenizer, rows, slots, new_tokens, self.look_every, self._runner()
        )
        if self.on_cuda and decoder.cache.kv.nbytes <= CUDA_KEPT_SHARE * self._gpu_bytes():
            self._kept = decoder
        return decoder

    def _row_bytes(self, slots: int) -> int:
        """Bytes of a row's keys and values."""
        config = self.model.config
        channels = config.n_kv_head * (config.n_embd // config.n_head)
        return 2 * config.n_layer * channels * slots * self.model.lm_head.weight.itemsize

    def _budget(self) -> float:
        """Bytes for the keys and values of all rows."""
        return CUDA_CACHE_SHARE * self._gpu_bytes() if self.on_cuda else CACHE_BYTES

    def _gpu_bytes(self) -> int:
        return torch.cuda.mem_get_info(self.device)[1]


def half_copy(model: GPT) -> GPT:
    """The same model with weights in bf16."""
    with torch.device("meta"):
        copy = GPT(model.config)
    copy.load_state_dict(
        {key: p.detach().bfloat16() for key, p in model.state_dict().items()}, assign=True
    )
    return copy._with_tables(model.lm_head.weight.device)


class Flight:
    """The rows in progress, each in its place in the decoder."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self.decoder, self.tokenizer, self.sampling = decoder, tokenizer, sampling
        self.rows: dict[int, Row] = {}  # by place
        decoder.clear()

    def fly(self, waiting: deque[Row], stopped: Callable[[], bool]) -> None:
        """Complete all rows, admitting them in this order, until `stopped()`."""
        places = self.decoder.rows
        while (waiting or self.rows) and not stopped():
            free = places - len(self.rows)
            if waiting and free >= REFILL * places:
                self.admit([waiting.popleft() for _ in range(min(free, len(waiting)))])
            else:
                self.advance()

    def admit(self, rows: Sequence[Row]) -> None:
        """Add rows in free places: process each prompt once for all its samples, draw the rows' first tokens."""
        free = (place for place in range(self.decoder.rows) if place not in self.rows)
        places = list(islice(free, len(rows)))
        prompts = {id(row.prompt): row.prompt for row in rows}
        number = {key: i for i, key in enumerate(prompts)}
        prompt_of = [number[id(row.prompt)] for row in rows]
        hidden = self.decoder.fill(list(prompts.values()), prompt_of, places)
        self.rows.update(zip(places, rows, strict=True))
        self._set(places)
        drawn = self.decoder.draw(places, hidden, self.sampling)
        self._look(dict(zip(places, drawn, strict=True)))

    def advance(self) -> None:
        """Draw a few tokens for every row, then look at them."""
        rows = self.rows
        steps = min(self.decoder.look_every, max(row.left for row in rows.values()))
        longest = max(row.length + min(steps, row.left) for row in rows.values()) - 1
        drawn = self.decoder.run(steps, max(rows) + 1, longest, self.sampling)
        self._look({place: drawn[place] for place in rows})

    def _look(self, drawn: Mapping[int, Sequence[int]]) -> None:
        """Give rows their tokens, set back those with a result, and drop those that are done."""
        rows = self.rows
        back = [p for p, tokens in drawn.items() if rows[p].follow(tokens, self.tokenizer)]
        self.rows = {p: row for p, row in rows.items() if not row.done}
        self._set([p for p in back if p in self.rows])
        self._close_up()

    def _set(self, places: Sequence[int]) -> None:
        """Tell the device where these rows stand, and which tokens are forced on them."""
        if not places:
            return
        rows = [self.rows[p] for p in places]
        newest = [(row.ids or row.prompt)[-1] for row in rows]
        at = [[row.length - 1 for row in rows], [len(row.ids) for row in rows]]
        state = torch.tensor([newest, *at, [row.left for row in rows]])
        noise = torch.zeros(len(rows), self.decoder.new_tokens)
        forced = torch.full(noise.shape, -1)
        for i, row in enumerate(rows):
            noise[i, : len(row.noise)] = row.noise
            due = row.due[: row.left]
            forced[i, len(row.ids) : len(row.ids) + len(due)] = torch.tensor(due, dtype=torch.long)
        self.decoder.set(places, state, forced, noise)

    def _close_up(self) -> None:
        """Move the last rows into gaps where that makes the decoder's steps smaller."""
        places = self.decoder.width(len(self.rows))
        if not self.rows or places >= self.decoder.width(max(self.rows) + 1):
            return
        gaps = (place for place in range(places) if place not in self.rows)
        for source in [place for place in self.rows if place >= places]:
            target = next(gaps)
            self.decoder.move(source, target)
            self.rows[target] = self.rows.pop(source)
