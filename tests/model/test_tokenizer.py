"""The tokenizer: text survives, and a pickle is never run."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanolan.checkpoint.safe_pickle import MAX_TOKENIZER_BYTES
from nanolan.errors import BadAnswer
from nanolan.model.tokenizer import Tokenizer, load_token_bytes, load_tokenizer
from nanolan.train.data.tiny_model import learn_encoding

TOKENIZER = Tokenizer(learn_encoding(["What is 12 + 34? It is 46, of course it is."], 24))


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def stated(state: Any) -> bytes:
    """A pickle of a tiktoken.core.Encoding with any state."""
    return b"\x80\x03ctiktoken.core\nEncoding\n)\x81" + pickle.dumps(state, 3)[2:-1] + b"b."


GOOD = TOKENIZER._encoding.__getstate__()


def load_bytes(folder: Path, data: bytes) -> Tokenizer:
    (folder / "tokenizer.pkl").write_bytes(data)
    return load_tokenizer(folder)


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_strings_in_text_are_ordinary_text() -> None:
    assert TOKENIZER.bos not in TOKENIZER.encode("say <|bos|> please")


def test_a_pickled_encoding_loads_equal(tmp_path: Path) -> None:
    loaded = load_bytes(tmp_path, pickle.dumps(TOKENIZER._encoding))
    assert loaded.encode("What is 46?") == TOKENIZER.encode("What is 46?")
    assert loaded.vocab_size == TOKENIZER.vocab_size


def test_a_real_tokenizer_loads(fixtures: Path) -> None:
    assert load_tokenizer(fixtures / "tiny" / "tokenizer").special("bos") == 503


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil(os.system, "touch evil")),
        pickle.dumps(Evil(eval, "open('evil', 'w')")),
        pickle.dumps([Evil(os.mkdir, "evil"), TOKENIZER._encoding]),
        pickle.dumps(Evil(tiktoken.get_encoding, "gpt2")),
        b"cos\nmkdir\n(S'evil'\ntR.",  # protocol 0
        stated(Evil(os.mkdir, "evil")),
        pickle.dumps({"name": "rustbpe"}),
        pickle.dumps(None),
        b"",
        b"\x80",
        b"hello",
        pickle.dumps(GOOD)[:-20],
        b"\x80\x04" + b"(" * 10_000 + b".",
    ],
    ids=lambda d: repr(d[:24]),
)
def test_a_pickle_that_is_not_an_encoding_is_refused_and_runs_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadAnswer, match="tokenizer.pkl"):
        load_bytes(tmp_path, data)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.pkl"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("cl100k_base", "not the state"),  # tiktoken itself would download this one
        ({}, "not the state"),
        (None, "not a plain|not the state"),
        ([1], "not the state"),
        (GOOD | {"mergeable_ranks": {"a": 1}}, "not the state"),
        (GOOD | {"mergeable_ranks": {b"a": 0, b"b": 2}}, "gaps or duplicates"),
        (GOOD | {"special_tokens": {}}, "no special token"),
        (GOOD | {"pat_str": "("}, "tiktoken refuses"),
        (GOOD | {"pat_str": "[a-z]+"}, "its pattern loses text"),
        (GOOD | {"pat_str": ""}, "loses text|tiktoken refuses"),
    ],
    ids=range(10),
)
def test_an_encoding_with_a_wrong_state_is_refused(state: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match=says):
        load_bytes(tmp_path, stated(state))


def test_an_oversize_pickle_is_not_even_read(tmp_path: Path) -> None:
    with open(tmp_path / "tokenizer.pkl", "wb") as f:
        f.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(BadAnswer, match="larger than"):
        load_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match="tokenizer.pkl: cannot be read"):
        load_tokenizer(tmp_path)


def test_token_bytes_count_raw_bytes_and_no_specials(tmp_path: Path) -> None:
    sizes = load_token_bytes(tmp_path, TOKENIZER)
    text = "What is 46? naïve 漢"
    assert int(sizes[TOKENIZER.encode(text)].sum()) == len(text.encode())
    assert not sizes[-9:].any()


@pytest.mark.parametrize(
    "thing",
    [torch.zeros(3, dtype=torch.int32), {"a": 1}, Evil(os.mkdir, "evil")],
    ids=["too short", "no tensor", "a program"],
)
def test_token_bytes_that_do_not_fit_are_refused(
    thing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(thing, tmp_path / "token_bytes.pt")
    with pytest.raises(BadAnswer, match="token_bytes.pt"):
        load_token_bytes(tmp_path, TOKENIZER)
    assert not (tmp_path / "evil").exists()


def test_token_bytes_of_the_file_are_used(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "tokenizer", tmp_path / "t")
    tokenizer = load_tokenizer(tmp_path / "t")
    torch.save(
        torch.full((tokenizer.vocab_size,), 7, dtype=torch.int32), tmp_path / "t" / "token_bytes.pt"
    )
    assert int(load_token_bytes(tmp_path / "t", tokenizer).max()) == 7
