"""Data sets that mean harm: lines and row groups without end, wrong kinds, half characters; on the laptop and in the trainer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanolan.errors import BadAnswer, NanolanError
from nanolan.hub.upload_set import collect
from nanolan.model.conversation import calculator_parts, check, read_jsonl, render
from nanolan.model.tokenizer import load_tokenizer
from nanolan.phases import MOST_DATA_BYTES
from nanolan.train.data import mixtures
from nanolan.train.data.mixtures import Part, open_mixture, open_part
from nanolan.train.evaluation.humaneval import read_humaneval
from tests.attacks.test_pickle_tensors import encoding
from tests.support.pickle_fixtures import grown
from tests.support.tiny_world import write_parquet

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
GOOD = json.dumps([U, A]).encode()
LINES: tuple[tuple[str, bytes], ...] = (
    ("deep lists", b"[" * 100_000),
    ("deep and closed", b"[" * 90_000 + b"]" * 90_000),
    ("deep maps", b'[{"a":' * 50_000),
    ("deep within", b'[{"role": ' + b"[" * 900 + b"]" * 900 + b"}]"),
    ("not quite too deep", b"[" * 970 + b"]" * 970),
    (
        "a part of no kind",
        json.dumps([U, {"role": "assistant", "content": [{"type": [], "text": "x"}]}]).encode(),
    ),
    (
        "a part that is a map",
        json.dumps([U, {"role": "assistant", "content": [{"type": {}, "text": "x"}]}]).encode(),
    ),
    ("a role of a map", json.dumps([{"role": {}, "content": "q"}, A]).encode()),
    ("tools", json.dumps([U, {"role": "tool", "content": "x"}]).encode()),
    ("developer", json.dumps([{"role": "developer", "content": "x"}, U, A]).encode()),
    ("user twice", json.dumps([U, U]).encode()),
    ("no content", json.dumps([U, {"role": "assistant"}]).encode()),
    ("a number for text", json.dumps([U, {"role": "assistant", "content": 5}]).encode()),
    ("a long number", b'[{"role": ' + b"9" * 9000 + b"}]"),
    ("NaN", b"[NaN, NaN]"),
    ("no text", b"\xff\xfe\xfd"),
    ("UTF-16", "[]".encode("utf-16")),
    ("NUL", b"\0" * 100),
    ("a page", b"<html>"),
    ("a number", b"5"),
    ("a string", b'"x"'),
    ("2 MB", b'[{"role": "user", "content": "' + b"x" * (2 << 20) + b'"}]'),
)


@pytest.mark.parametrize("line", [t for _, t in LINES], ids=[n for n, _ in LINES])
def test_a_hostile_line_is_named_by_the_trainer_and_by_an_upload(
    line: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    for read in (lambda: read_jsonl(path), lambda: collect("data", path, "d20")):
        with pytest.raises(BadAnswer, match="line 2: ") as e:
            read()
        assert len(str(e.value)) < 500


def test_a_special_token_in_a_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(
        b'[{"role": "user", "content": "x"}, {"role": "assistant", "content": "<|bos|> \\u0000"}]\n'
    )
    (tmp_path / "tokenizer.pkl").write_bytes(encoding())
    tokenizer = load_tokenizer(tmp_path)
    [c] = read_jsonl(tmp_path / "data.jsonl")
    ids, _ = render(c, tokenizer)
    assert ids.count(tokenizer.bos) == 1, "what is written is never a special token"


def test_a_line_of_300_mb_costs_no_more_than_its_bound(tmp_path: Path) -> None:
    """And one of 10 GB is refused by its size alone."""
    path = tmp_path / "data.jsonl"
    with path.open("wb") as f:
        f.write(GOOD + b"\n")
        f.truncate(MOST_DATA_BYTES - (1 << 20))
    before = grown()
    with pytest.raises(BadAnswer, match="line 2: longer than 1 MiB"):
        read_jsonl(path)
    assert grown() - before < 30, "MB"
    for size in (300 << 20, 10 << 30):
        os.truncate(path, size)
        for read in (lambda: read_jsonl(path), lambda: collect("data", path, "d20")):
            with pytest.raises(NanolanError, match="256 MiB"):
                read()
    assert grown() - before < 30, "MB"


# ------------------------------------------------------------------ parquet
GROUPS = (
    (
        "text for numbers",
        "mmlu",
        [{"question": "q", "choices": ["a", "b", "c", "d"], "answer": "0"}],
        "not a row",
    ),
    (
        "beyond the letters",
        "mmlu",
        [{"question": "q", "choices": ["a"], "answer": 10**6}],
        "not a row",
    ),
    ("no question", "gsm8k", [{"answer": "x"}], "not a row"),
    ("nothing", "gsm8k", [{"question": None, "answer": None}], "not a row"),
    (
        "a list for text",
        "gsm8k",
        [{"question": ["q"], "answer": "a"}],
        "question is .*expected text",
    ),
    (
        "roles",
        "smol-smoltalk",
        [{"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}],
        "has role",
    ),
    ("one message", "smol-smoltalk", [{"messages": [U]}], "needs a question"),
    ("no messages", "smol-smoltalk", [{"messages": []}], "needs a question"),
    ("text for messages", "smol-smoltalk", [{"messages": "x"}], "not a list"),
    ("numbers for messages", "smol-smoltalk", [{"messages": [1, 2]}], "not a list"),
    (
        "choices that do not fit",
        "arc-easy",
        [{"question": "q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "A"}],
        "not a row",
    ),
    ("no choices", "arc-easy", [{"question": "q", "choices": None, "answerKey": "A"}], "not a row"),
)


@pytest.mark.parametrize(
    ("data", "rows", "says"), [g[1:] for g in GROUPS], ids=[g[0] for g in GROUPS]
)
def test_a_hostile_row_is_named_by_its_file_and_number(
    data: str, rows: list[dict[str, Any]], says: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path, data, "train", rows)
    with pytest.raises(BadAnswer, match=f"row 0.*{says}|its layout changed"):
        [list(block.read()) for block in open_part(Part(data), tmp_path, 0).blocks]


def not_text(path: Path) -> None:
    """A column of text whose bytes are none."""
    bad = (
        pa.array([b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
        if False
        else pa.StringArray.from_buffers(
            1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
        )
    )
    pq.write_table(pa.table({"question": bad, "answer": bad}), path)


FILES: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    ("nothing", lambda p: p.write_bytes(b"")),
    ("a script", lambda p: p.write_bytes(b"#!/bin/sh\ntouch pwned\n")),
    ("only its ends", lambda p: p.write_bytes(b"PAR1PAR1")),
    ("a foot of 4 GB", lambda p: p.write_bytes(b"PAR1" + b"\xff" * 4 + b"PAR1")),
    (
        "a foot of nonsense",
        lambda p: p.write_bytes(b"PAR1" + b"\x15" * 100 + (100).to_bytes(4, "little") + b"PAR1"),
    ),
    (
        "a foot of nonsense, deep",
        lambda p: p.write_bytes(
            b"PAR1" + b"\x1c" * 100_000 + (100_000).to_bytes(4, "little") + b"PAR1"
        ),
    ),
    ("cut off", lambda p: p.write_bytes(p.read_bytes()[:-9])),
    (
        "its middle changed",
        lambda p: p.write_bytes(p.read_bytes()[:10] + b"\xff" * 20 + p.read_bytes()[30:]),
    ),
    ("no text", not_text),
    ("encrypted", lambda p: p.write_bytes(b"PARE" + b"\0" * 50 + b"PARE")),
)


@pytest.mark.parametrize("make", [m for _, m in FILES], ids=[n for n, _ in FILES])
def test_a_hostile_parquet_file_is_refused_by_name(
    make: Callable[[Path], Any], tmp_path: Path
) -> None:
    make(write_parquet(tmp_path, "gsm8k", "train", [{"question": "q", "answer": "a"}] * 5))
    before, began = grown(), time.process_time()
    with pytest.raises(BadAnswer, match="parquet"):
        [list(block.read()) for block in open_part(Part("gsm8k"), tmp_path, 0).blocks]
    make(
        write_parquet(
            tmp_path, "humaneval", "test", [{"prompt": "q", "test": "a", "entry_point": "x"}] * 5
        )
    )
    with pytest.raises(BadAnswer, match="not HumanEval"):
        read_humaneval(tmp_path)
    assert grown() - before < 200 and time.process_time() - began < 5


def test_a_row_group_of_a_billion_equal_rows_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 kB on the disk, and as many conversations as there are people."""
    monkeypatch.setattr(mixtures, "MOST_ROWS", 1000)
    write_parquet(
        tmp_path, "gsm8k", "train", [{"question": "q", "answer": "a"}] * 1001, row_group_size=2000
    )
    with pytest.raises(BadAnswer, match="row group of 1,001 rows"):
        open_mixture([Part("gsm8k")], tmp_path, 0, 0)


def test_a_note_of_the_calculator_without_end_takes_no_time() -> None:
    began = time.process_time()
    for text in ("<<" * 20_000, "<<a" * 20_000 + ">>", "<<" + "=" * 50_000 + ">>", "<<>>" * 10_000):
        check({"messages": [U, {"role": "assistant", "content": calculator_parts(text)}]}, "x")
    assert time.process_time() - began < 2
