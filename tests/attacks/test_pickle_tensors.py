"""Hostile tensors and encodings in pickles."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch

from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer, NanolanError
from nanolan.hub.upload_set import collect
from nanolan.model.checkpoint import load, read_meta, read_state
from nanolan.model.tokenizer import load_tokenizer
from tests.support.pickle_fixtures import META, refused_by, zipped

RANKS = {bytes([n]): n for n in range(256)}


SPECIALS = {name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)}


REST = {"archive/byteorder": b"little", "archive/version": b"3\n"}


def listed(
    storage: str = "FloatStorage",
    numbers: int = 6,
    offset: int = 0,
    shape: tuple[Any, ...] = (2, 3),
    stride: tuple[Any, ...] = (3, 1),
) -> bytes:
    """An archive whose list says this of the one tensor in its 24 bytes."""

    def number(n: int) -> bytes:
        raw = n.to_bytes(max(1, n.bit_length() // 8 + 1), "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s.encode()  # noqa: E731
    many = lambda t: b"(" + b"".join(number(n) if isinstance(n, int) else n for n in t) + b"t"  # noqa: E731
    body = (
        b"\x80\x02}"
        + text("a")
        + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + b"ctorch\n"
        + storage.encode()
        + b"\n"
        + text("0")
        + text("cpu")
        + number(numbers)
        + b"tQ"
        + number(offset)
        + many(shape)
        + many(stride)
        + b"\x89ccollections\nOrderedDict\n)Rt"
        + b"Rs."
    )
    return zipped({"archive/data.pkl": body, "archive/data/0": b"\0" * 24, **REST})


TENSORS = (
    ("beyond the storage by its shape", listed(shape=(3, 3))),
    ("by its stride", listed(stride=(100, 1))),
    ("by its place", listed(offset=5)),
    ("before it", listed(offset=-1)),
    ("one number a million times", listed(shape=(1000, 1000), stride=(0, 0))),
    ("a terabyte", listed(shape=(1 << 40,), stride=(1,))),
    ("a terabyte of one number", listed(shape=(1 << 40,), stride=(0,))),
    ("more than numbers go", listed(shape=(1 << 1000,), stride=(1,))),
    ("less than nothing", listed(shape=(-2, -3))),
    ("backwards", listed(stride=(-3, 1))),
    ("fewer strides", listed(stride=(1,))),
    ("a shape of text", listed(shape=(b"X\x01\x00\x00\x00a", 3))),
    ("a storage said to be larger", listed(numbers=1 << 30)),
    ("less than none", listed(numbers=-6)),
    ("of other numbers", listed("DoubleStorage")),
    ("a kind unknown", listed("ComplexFloatStorage")),
    ("no storage", listed("load")),
)


# ---- tensors
def test_the_list_that_they_are_made_of_is_good() -> None:
    assert tensors(io.BytesIO(listed()), "m.pt")["a"].shape == (2, 3)


@pytest.mark.parametrize("data", [d for _, d in TENSORS], ids=[n for n, _ in TENSORS])
def test_a_tensor_that_is_not_what_lies_in_the_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(data)
    refused_by(lambda: tensors(io.BytesIO(data), "m.pt"))
    refused_by(lambda: read_state(tmp_path / "m.pt"), 50)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"lm_head.weight": torch.zeros(1)},
        {"lm_head.weight": torch.zeros(8, 4)},
        {"evil": torch.zeros(8, 4)},
        {"lm_head.weight": torch.zeros(8, 4, dtype=torch.int64)},
        [torch.zeros(1)],
        torch.zeros(3),
        {"a": {"b": torch.zeros(1)}},
    ],
    ids=lambda s: str(type(s).__name__) + str(len(s)),
)
def test_other_tensors_than_the_models_are_refused_by_name(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model_000005.pt")
    (tmp_path / "meta_000005.json").write_text(json.dumps(META))
    refused_by(lambda: load(tmp_path))


METAS = (
    ("deep", b'{"model_config": ' + b"[" * 100_000),
    (
        "a million layers",
        json.dumps({"model_config": META["model_config"] | {"n_layer": 1_000_000}}).encode(),
    ),
    (
        "a row of 16 million",
        json.dumps({"model_config": META["model_config"] | {"sequence_len": 16_000_000}}).encode(),
    ),
    ("a long number", b'{"model_config": {"n_layer": ' + b"9" * 9000 + b"}}"),
    ("no number", json.dumps({"model_config": META["model_config"] | {"n_layer": "1"}}).encode()),
    ("nothing", json.dumps({"model_config": META["model_config"] | {"n_embd": 0}}).encode()),
    ("endless", json.dumps({"model_config": META["model_config"] | {"n_embd": 1e999}}).encode()),
    ("a list", b"[]"),
    ("2 MB", b'{"model_config": {"a": "' + b"x" * (2 << 20) + b'"}}'),
    (
        "unknown",
        json.dumps({"model_config": META["model_config"] | {"trust_remote_code": True}}).encode(),
    ),
    ("a page", b"<html>"),
    ("NUL", b"\0" * 100),
)


@pytest.mark.parametrize("meta", [m for _, m in METAS], ids=[n for n, _ in METAS])
def test_a_meta_file_may_not_ask_for_more_than_a_model(meta: bytes, tmp_path: Path) -> None:
    torch.save({"lm_head.weight": torch.zeros(8, 4)}, tmp_path / "model_000005.pt")
    (tmp_path / "meta_000005.json").write_bytes(meta)
    refused_by(lambda: load(tmp_path), 100)
    with pytest.raises(NanolanError):
        collect("base", tmp_path, "d20")
    try:
        read_meta(tmp_path / "meta_000005.json")
    except BadAnswer:
        pass


def encoding(**changes: Any) -> bytes:
    state = pickle.dumps(
        {"name": "t", "pat_str": r"\w+|\W", "mergeable_ranks": RANKS, "special_tokens": SPECIALS}
        | changes,
        4,
    )
    body = state[11:-1] if state[2:3] == b"\x95" else state[2:-1]
    return b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93)\x81" + body + b"b."


# ---- encodings
def test_the_encoding_that_they_are_made_of_is_good(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(encoding())
    assert (
        load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("Hi \ud800")) == "Hi \ufffd"
    )
    assert isinstance(pickle.loads(encoding()), tiktoken.Encoding)


ENCODINGS = (
    (
        "a byte is missing",
        {
            "mergeable_ranks": {k: v - 1 for k, v in RANKS.items() if v},
            "special_tokens": {k: v - 1 for k, v in SPECIALS.items()},
        },
    ),
    ("an empty token", {"mergeable_ranks": RANKS | {b"": 265}}),
    ("a number twice", {"mergeable_ranks": RANKS | {b"ab": 5}}),
    ("a number beyond", {"mergeable_ranks": RANKS | {b"ab": 1 << 40}}),
    ("a number below", {"mergeable_ranks": RANKS | {b"ab": -1}}),
    ("true", {"mergeable_ranks": RANKS | {b"ab": True}}),
    ("text for bytes", {"mergeable_ranks": RANKS | {"ab": 265}}),
    ("no special tokens", {"special_tokens": {}}),
    ("special bytes", {"special_tokens": SPECIALS | {b"x": 265}}),
    ("a list of ranks", {"mergeable_ranks": list(RANKS)}),
    ("a pattern that does not end", {"pat_str": "("}),
    ("a pattern for nothing", {"pat_str": ""}),
    ("a pattern that may be nothing", {"pat_str": "a*"}),
    ("a huge pattern", {"pat_str": r"(\w{1000}){1000}"}),
    ("half a pair", {"pat_str": "\ud800"}),
    ("a number", {"pat_str": 5}),
    ("no name", {"name": None}),
)


@pytest.mark.parametrize("changes", [c for _, c in ENCODINGS], ids=[n for n, _ in ENCODINGS])
def test_an_encoding_that_could_not_write_every_text_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(encoding(**changes))
    refused_by(lambda: load_tokenizer(tmp_path))
