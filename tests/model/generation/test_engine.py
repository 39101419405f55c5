"""The engine: a batch says what each row says alone, the calculator answers, ended rows cost nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanolan.errors import BadAnswer
from nanolan.model.generation.engine import Completion, Engine, Row, half_copy
from nanolan.model.generation.graphs import Recorder, Runner
from nanolan.model.generation.sampling import Sampling
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from tests.model.generation.recorded import recorded_operators
from tests.support.chain import chain, noisy, script

GREEDY = Sampling(max_new_tokens=20, temperature=0.0)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return noisy(GPTConfig(32, tokenizer.vocab_size, 2, 4, 2, 64))


def replaying() -> Runner:
    """Records a step's operators and replays them on the same tensors, as a CUDA graph does."""
    return Recorder(recorded_operators)


def prompts(n: int = 6) -> list[list[int]]:
    g = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 250, (int(torch.randint(1, 15, (1,), generator=g)),), generator=g).tolist()
        for _ in range(n)
    ]


@torch.no_grad()
def plain_greedy(model: GPT, prompt: list[int], n: int, stops: set[int]) -> list[int]:
    """The plainest generation there is: the whole row again for every token."""
    ids = list(prompt)
    for _ in range(n):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_greedy_tokens_are_those_of_the_plainest_generation(
    model: GPT, tokenizer: Tokenizer
) -> None:
    stops = {tokenizer.bos, tokenizer.special("assistant_end")}
    done = Engine(model, tokenizer).complete(prompts(), GREEDY)
    assert [c.ids for [c] in done] == [plain_greedy(model, p, 20, stops) for p in prompts()]
    assert all(c.mask == [1] * len(c.ids) for [c] in done)


@pytest.mark.parametrize(
    ("max_rows", "look_every", "runner"),
    [
        (256, 1, None),
        (256, 4, None),
        (5, 1, None),
        (4, 7, None),
        (1, 1, None),
        (5, 4, replaying),
    ],
)
def test_a_sampled_batch_says_what_each_row_says_alone(
    max_rows: int,
    look_every: int,
    runner: Callable[[], Runner] | None,
    model: GPT,
    tokenizer: Tokenizer,
) -> None:
    sampling = Sampling(max_new_tokens=16, temperature=1.0, top_k=20, seed=7)
    alone = [
        Engine(model, tokenizer).complete([p], sampling, samples=3, keys=[i])[0]
        for i, p in enumerate(prompts())
    ]
    together = Engine(model, tokenizer, max_rows, look_every, runner).complete(
        prompts(), sampling, samples=3
    )
    assert together == alone
    assert len({tuple(c.ids) for row in alone for c in row}) == 18


def test_every_row_draws_its_own_first_token(model: GPT, tokenizer: Tokenizer) -> None:
    [done] = Engine(model, tokenizer).complete(
        [[1, 2, 3]], Sampling(1, temperature=3.0), samples=16
    )
    assert len({c.ids[0] for c in done}) > 4


def start(tokenizer: Tokenizer) -> int:
    return tokenizer.special("assistant_start")


def calling(tokenizer: Tokenizer, expression: str) -> GPT:
    """Says "b", calls the calculator, says "x" if it answers or "y" if not, and ends."""
    b, x, y = (tokenizer.encode(c)[0] for c in "bxy")
    end = tokenizer.special("assistant_end")
    said = [
        start(tokenizer),
        b,
        tokenizer.special("python_start"),
        *tokenizer.encode(expression),
        tokenizer.special("python_end"),
        y,
        end,
    ]
    return chain(tokenizer, script(said) | {tokenizer.special("output_end"): x, x: end})


@pytest.mark.parametrize("look_every", [1, 3, 16])
def test_a_call_is_answered_with_forced_tokens_that_are_not_trained(
    look_every: int, tokenizer: Tokenizer
) -> None:
    engine = Engine(calling(tokenizer, "1+2*30"), tokenizer, look_every=look_every)
    [[c], [other]] = engine.complete([[5, start(tokenizer)], [start(tokenizer)]], Sampling(40, 0.0))
    assert (
        tokenizer.decode(c.ids)
        == "b<|python_start|>1+2*30<|python_end|><|output_start|>61<|output_end|>x"
    )
    n = len(tokenizer.encode("1+2*30")) + 3
    forced = len(tokenizer.encode("61")) + 2
    assert c.mask == [1] * n + [0] * forced + [1]
    assert c.ended
    assert other == c


@pytest.mark.parametrize("look_every", [1, 5])
def test_a_call_without_a_result_forces_nothing(look_every: int, tokenizer: Tokenizer) -> None:
    engine = Engine(calling(tokenizer, "1*/2"), tokenizer, look_every=look_every)
    [[c]] = engine.complete([[start(tokenizer)]], GREEDY)
    assert tokenizer.decode(c.ids) == "b<|python_start|>1*/2<|python_end|>y"
    assert set(c.mask) == {1}


@pytest.mark.parametrize("look_every", [1, 4])
def test_a_result_is_cut_at_the_last_token_allowed(look_every: int, tokenizer: Tokenizer) -> None:
    engine = Engine(calling(tokenizer, "1+2*30"), tokenizer, look_every=look_every)
    n = len(tokenizer.encode("1+2*30")) + 3
    for limit in (n, n + 1, n + 2):
        [[c]] = engine.complete([[start(tokenizer)]], Sampling(limit, 0.0))
        assert (len(c.ids), c.ended, sum(c.mask)) == (limit, False, n)


def test_python_end_without_a_start_is_only_a_token(tokenizer: Tokenizer) -> None:
    said = [start(tokenizer), tokenizer.special("python_end"), tokenizer.special("assistant_end")]
    [[c]] = Engine(chain(tokenizer, script(said)), tokenizer).complete([[said[0]]], GREEDY)
    assert c == Completion([said[1]], [1], True)


def test_a_second_python_end_calls_nothing(tokenizer: Tokenizer) -> None:
    row = Row([1], torch.zeros(99))
    opened, closed = tokenizer.special("python_start"), tokenizer.special("python_end")
    said = [opened, *tokenizer.encode("1+"), closed, *tokenizer.encode("2"), closed]
    assert not any(row.take(token, tokenizer) for token in said)
    assert row.ids == said


@pytest.mark.parametrize("end", ["assistant_end", "bos"])
def test_a_row_ends_at_its_end_token_which_is_not_part_of_it(
    end: str, tokenizer: Tokenizer
) -> None:
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    engine = Engine(
        chain(tokenizer, {start(tokenizer): a, a: tokenizer.special(end), b: b}), tokenizer
    )
    [[c], [endless]] = engine.complete([[start(tokenizer)], [b]], GREEDY)
    assert c == Completion([a], [1], True)
    assert endless == Completion([b] * 20, [1] * 20, False)


def test_rows_that_ended_are_not_computed_on(tokenizer: Tokenizer) -> None:
    end, b = tokenizer.special("assistant_end"), tokenizer.encode("b")[0]
    model = chain(tokenizer, {start(tokenizer): end, b: b})
    fed, plain = [], model.trunk_at
    model.trunk_at = lambda ids, *rest: (fed.append(len(ids)), plain(ids, *rest))[1]
    Engine(model, tokenizer).complete([[start(tokenizer)]] * 7 + [[b]], Sampling(10, 0.0))
    assert fed == [2, *[1] * 9]  # both prompts once, then only the row that goes on


def test_waiting_rows_take_the_place_of_those_that_ended(tokenizer: Tokenizer) -> None:
    end, a, b = tokenizer.special("assistant_end"), *(tokenizer.encode(c)[0] for c in "ab")
    model = chain(tokenizer, {start(tokenizer): a, a: end, b: b})
    fed, plain = [], model.trunk_at
    model.trunk_at = lambda ids, *rest: (fed.append(tuple(ids.shape)), plain(ids, *rest))[1]
    done = Engine(model, tokenizer, max_rows=2).complete(
        [[b]] + [[0, start(tokenizer)]] * 8, Sampling(10, 0.0)
    )
    assert max(rows for rows, _ in fed) == 2
    assert fed.count((2, 1)) == 8, "short rows were not computed beside the long one"
    assert [len(c.ids) for [c] in done] == [10] + [1] * 8


def test_a_stop_ends_within_a_token_with_what_is_there(tokenizer: Tokenizer) -> None:
    b = tokenizer.encode("b")[0]
    looks = iter([False] * 4 + [True])
    [[c], [late]] = Engine(chain(tokenizer, {b: b}), tokenizer, max_rows=1).complete(
        [[b], [b]], GREEDY, stopped=lambda: next(looks)
    )
    assert c == Completion([b] * 4, [1] * 4, False)
    assert late.ids == []


def test_ids_that_only_the_model_has_are_never_drawn(tokenizer: Tokenizer) -> None:
    model = noisy(GPTConfig(32, tokenizer.vocab_size + 8, 1, 2, 2, 32))
    model.lm_head.weight.data[-8:] = 9 * model.lm_head.weight.data[:8]
    for temperature in (0.0, 5.0):
        done = Engine(model, tokenizer).complete(
            prompts(), Sampling(20, temperature, None), samples=4
        )
        assert max(token for row in done for c in row for token in c.ids) < tokenizer.vocab_size


def test_a_prompt_and_completion_beyond_the_positions_are_refused(
    model: GPT, tokenizer: Tokenizer
) -> None:
    with pytest.raises(BadAnswer, match="positions end at 320"):
        Engine(model, tokenizer).complete([[1] * 310], GREEDY)


@torch.no_grad()
def test_the_copy_in_half_precision_follows_the_model(model: GPT, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer)
    engine.model = half_copy(model)  # as on CUDA
    engine.refresh()
    model.lm_head.weight.mul_(1.5)
    stale = engine.model(torch.tensor([[1, 2, 3]]))
    engine.refresh()
    fresh = engine.model(torch.tensor([[1, 2, 3]]))
    model.lm_head.weight.div_(1.5)
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    assert not torch.equal(stale, fresh)
    assert torch.equal(engine.model.lm_head.weight, (model.lm_head.weight * 1.5).bfloat16())
    assert len(engine.complete([[1, 2, 3]], GREEDY)[0][0].ids) > 0


def test_no_prompts_no_completions(model: GPT, tokenizer: Tokenizer) -> None:
    assert Engine(model, tokenizer).complete([], GREEDY) == []
