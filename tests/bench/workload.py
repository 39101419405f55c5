"""What the bench works on: fixed shapes, made-up conversations with a chat data set's lengths, made-up questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import tiktoken
import torch

from nanolan.checkpoint.architecture import GPTConfig
from nanolan.model.generation.engine import Completion
from nanolan.model.loss import IGNORE
from nanolan.model.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanolan.train.data.packing import Batch, Rows, pack
from nanolan.train.data.rollouts import Question, Rollout
from nanolan.train.data.tiny_model import PATTERN
from nanolan.train.data.tokenised import Store
from nanolan.train.recipe import RECIPES, rows_per_step

MADE = 2000  # conversations; then they come again
EXAMPLES = 32  # of an sft step
PLAIN_EXAMPLES = 4  # that the plain path pads at a time
QUESTION_TOKENS = 80  # of the median question
TEACHES = 4  # one question in so many has right and wrong tries: assumed for a model that gets 1 in 20 right


@dataclass(frozen=True)
class Shape:
    """Fixed shapes, so that figures can be compared."""

    device: str
    config: GPTConfig
    mid_rows: int  # of a step
    micro: int
    plain_micro: int  # of the plain path, which has all logits of it at once
    usual: int  # tokens of the median conversation
    steps: int  # that are timed
    new_tokens: int  # of an answer at most
    rl_steps: int  # that are timed
    questions: int = 4  # of an rl step
    samples: int = 16


SHAPES = {
    "cpu-tiny": Shape(
        "cpu",
        GPTConfig(256, 4096, 4, 2, 2, 256),
        mid_rows=8,
        micro=4,
        plain_micro=4,
        usual=100,
        steps=10,
        new_tokens=64,
        rl_steps=5,
    ),
    "d20": Shape(
        "cuda",
        GPTConfig(2048, 65_536, 20, 10, 10, 1280),
        mid_rows=256,
        micro=32,
        plain_micro=8,
        usual=350,
        steps=10,
        new_tokens=256,
        rl_steps=2,
    ),
}


@dataclass(frozen=True)
class Work:
    """A micro-batch, or several, and how many of its positions are real and trained."""

    batch: Batch
    real: int
    trained: int


def conversations(shape: Shape) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """Signed tokens of conversations (as in Store): the later 60 % are trained, at most a row's length."""
    dice = np.random.default_rng(0)
    lengths = np.clip(
        dice.lognormal(np.log(shape.usual), 0.8, MADE).astype(int), 8, shape.config.sequence_len + 1
    )
    made = []
    for length in lengths:
        tokens = dice.integers(
            0, shape.config.vocab_size - len(SPECIAL_TOKENS), length, dtype=np.int32
        )
        tokens[: max(1, int(0.4 * length))] = ~tokens[: max(1, int(0.4 * length))]
        made.append(tokens)
    return made


def packed_rows(shape: Shape, phase: str) -> Rows:
    """The conversations in rows."""
    made, recipe = (
        conversations(shape),
        replace(RECIPES[phase], sequence_len=shape.config.sequence_len),
    )
    length = np.array([len(c) for c in made])
    store = Store(
        [np.concatenate(made)],
        np.zeros(MADE, np.int64),
        np.cumsum(length) - length,
        length,
        np.array([(c >= 0).sum() for c in made]),
        [0, MADE],
    )
    return Rows(
        store,
        pack(length.tolist(), recipe.sequence_len + 1),
        recipe.sequence_len,
        recipe.train_all_tokens,
        recipe.own_attention,
        shape.config.vocab_size - len(SPECIAL_TOKENS),
    )


def packed(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of packed rows."""
    rows = packed_rows(shape, phase)
    recipe = replace(RECIPES[phase], sequence_len=shape.config.sequence_len)
    per_step = (
        shape.mid_rows if phase == "mid" else rows_per_step(recipe, len(rows), rows.n_conversations)
    )
    step = 0
    while True:
        numbers = range(step * per_step, (step + 1) * per_step)
        batch = rows.batch(numbers)
        lengths = (sum(len(rows.store[c]) for c in rows.packed[n % len(rows)]) for n in numbers)
        real = sum(min(length, recipe.sequence_len) for length in lengths)
        yield [Work(batch, real, int((batch.targets >= 0).sum()))]
        step += 1


def stream(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of one stream of tokens cut into rows, each token put in its place by itself: nanochat's first mid."""
    tokens = (int(t) if t >= 0 else ~int(t) for c in cycle(conversations(shape)) for t in c)
    B, T = shape.plain_micro, shape.config.sequence_len
    while True:
        works = []
        for _ in range(shape.mid_rows // B):
            part = torch.empty(B * T + 1, dtype=torch.long)
            for i in range(len(part)):
                part[i] = next(tokens)
            works.append(Work(Batch(part[:-1].view(B, T), part[1:].view(B, T), None), B * T, B * T))
        yield works


def padded(shape: Shape, phase: str) -> Iterator[list[Work]]:
    """Steps of conversations, a few at a time, padded to the longest of them."""
    made, at = conversations(shape), 0
    while True:
        works = []
        for _ in range(EXAMPLES // PLAIN_EXAMPLES):
            few = [torch.from_numpy(made[(at + i) % MADE]).long() for i in range(PLAIN_EXAMPLES)]
            at += PLAIN_EXAMPLES
            x = torch.nn.utils.rnn.pad_sequence(few, batch_first=True, padding_value=-1)
            targets = torch.where(x[:, 1:] >= 0, x[:, 1:], IGNORE)
            batch = Batch(torch.where(x >= 0, x, ~x)[:, :-1], targets, None)
            works.append(Work(batch, sum(len(c) - 1 for c in few), int((targets >= 0).sum())))
        yield works


# (phase, path) -> the steps of what is trained on given tokens
WORKS = {
    ("mid", "ours"): packed,
    ("mid", "plain"): stream,
    ("sft", "ours"): packed,
    ("sft", "plain"): padded,
}


def made_word(number: int) -> str:
    """A word that is one token of `made_tokenizer`: a space and four letters."""
    letters = (chr(ord("a") + number // 26**i % 26) for i in range(4))
    return f" {''.join(letters)}"


def made_tokenizer(shape: Shape) -> Tokenizer:
    """The tokenizer of `made_encoding`."""
    return Tokenizer(made_encoding(shape))


def words_of(shape: Shape) -> int:
    """The number of made-up words in the vocabulary."""
    return shape.config.vocab_size - len(SPECIAL_TOKENS) - 256


def made_encoding(shape: Shape) -> tiktoken.Encoding:
    """A vocabulary of the model's size: the bytes, made-up words, the specials."""
    n = shape.config.vocab_size - len(SPECIAL_TOKENS)
    words = [bytes([b]) for b in range(256)] + [made_word(i).encode() for i in range(n)]
    specials = {name: n + i for i, name in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding(
        name="rustbpe",
        pat_str=PATTERN,
        special_tokens=specials,
        mergeable_ranks={word: i for i, word in enumerate(words[:n])},
    )


def questions(shape: Shape) -> Iterator[list[Question]]:
    """The questions of each rl step."""
    dice = np.random.default_rng(0)
    while True:
        lengths = np.clip(
            dice.lognormal(np.log(QUESTION_TOKENS), 0.35, shape.questions).astype(int),
            8,
            shape.config.sequence_len // 2,
        )
        yield [
            Question(
                dice.integers(0, shape.config.vocab_size - len(SPECIAL_TOKENS), n).tolist(), ""
            )
            for n in lengths
        ]


def rewarded(question: Question, number: int, tries: list[Completion]) -> Rollout:
    """Question `number` of a step, with rewards that make one question in TEACHES teach."""
    return Rollout(
        question, tries, [float(number % TEACHES == 0 and i == 0) for i in range(len(tries))]
    )
