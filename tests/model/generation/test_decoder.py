"""The decoder: rows in fixed places, of which those that have ended, or are free, stand still."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nanolan.model.generation.decoder import Decoder, rounded
from nanolan.model.generation.graphs import run_plainly
from nanolan.model.generation.sampling import Sampling
from nanolan.model.tokenizer import Tokenizer, load_tokenizer
from tests.support.chain import chain, script

GREEDY = Sampling(temperature=0.0)
NEW = 6  # tokens at most
FREE = -1


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny / "tokenizer")


def saying(tokenizer: Tokenizer, text: str, rows: int = 3) -> Decoder:
    """After each letter of `text` the next one, then the end."""
    said = [*tokenizer.encode(text), tokenizer.special("assistant_end")]
    model = chain(tokenizer, script(said))
    return Decoder(model, tokenizer, rows, 10, NEW, 4, run_plainly)


def put(decoder: Decoder, place: int, prompt: list[int], forced: list[int] | None = None) -> None:
    """A row that has drawn nothing yet."""
    decoder.fill([prompt], [0], [place])
    state = torch.tensor([[prompt[-1]], [len(prompt) - 1], [0], [NEW]])
    line = torch.tensor([[*(forced or []), *[FREE] * NEW][:NEW]])
    decoder.set([place], state, line, torch.zeros(1, NEW))


@torch.inference_mode()
def test_a_row_that_has_ended_stands_still_and_a_free_place_never_moves(
    tokenizer: Tokenizer,
) -> None:
    decoder = saying(tokenizer, "abcdefg")
    a, b, e, f, g = tokenizer.encode("abefg")
    put(decoder, 0, [a])
    put(decoder, 2, [a, b, e])  # ends after f and g
    drawn = decoder.run(4, 3, 9, GREEDY)
    assert drawn[2][:3] == [f, g, tokenizer.special("assistant_end")]
    assert decoder.state[1:, 2].tolist() == [5, 3, 0]  # position, count, left: of the end token
    assert decoder.state[1:, 0].tolist() == [4, 4, 2]
    assert decoder.state[:, 1].tolist() == [0, 0, 0, 0]


@torch.inference_mode()
def test_a_row_stops_at_its_last_token(tokenizer: Tokenizer) -> None:
    decoder = saying(tokenizer, "abcdefghij")
    put(decoder, 0, tokenizer.encode("a"))
    drawn = decoder.run(4, 1, 7, GREEDY) + decoder.run(4, 1, 7, GREEDY)
    assert tokenizer.decode(drawn[0] + drawn[1][:2]) == "bcdefg"
    assert decoder.state[1:, 0].tolist() == [NEW, NEW, 0]


@torch.inference_mode()
def test_forced_tokens_come_instead_of_drawn_ones_and_never_end_a_row(tokenizer: Tokenizer) -> None:
    decoder = saying(tokenizer, "abcdefg")
    end, [d] = tokenizer.special("assistant_end"), tokenizer.encode("d")
    put(decoder, 0, tokenizer.encode("a"), [d, end, d])
    [drawn] = decoder.run(4, 1, 5, GREEDY)
    assert drawn == [d, end, d, *tokenizer.encode("e")]


@torch.inference_mode()
def test_a_row_that_was_moved_goes_on(tokenizer: Tokenizer) -> None:
    decoder = saying(tokenizer, "abcdefg")
    put(decoder, 2, tokenizer.encode("ab"))
    decoder.run(2, 3, 4, GREEDY)
    decoder.move(2, 0)
    assert tokenizer.decode(decoder.run(2, 1, 6, GREEDY)[0]) == "ef"
    assert decoder.state[3].tolist() == [2, 0, 0]


def test_a_decoder_serves_again_what_it_has_room_for(tokenizer: Tokenizer) -> None:
    decoder = saying(tokenizer, "ab")
    assert decoder.holds(3, 10, NEW)
    assert not any(decoder.holds(*more) for more in ((4, 10, NEW), (3, 11, NEW), (3, 10, NEW + 1)))
    assert [rounded(n, 64) for n in (1, 64, 65)] == [64, 64, 128]
