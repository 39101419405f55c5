"""Fuzzed: checkpoints, tokenizers, conversations, the calculator, and the pages that are made of a run."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import tempfile
import time
import zipfile
from collections import OrderedDict
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import tiktoken
import torch
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.box.watch.metrics import last_row
from nanolan.checkpoint.conversations import count_conversations
from nanolan.checkpoint.evaluation import PhaseSamples, Sample
from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS, encoding_state
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import NanolanError
from nanolan.model.checkpoint import load, read_state
from nanolan.model.conversation import read_jsonl, render
from nanolan.model.generation.calculator import MAX_NUMBER, calculate
from nanolan.model.tokenizer import load_token_bytes, load_tokenizer
from nanolan.report.curves import read_metrics
from nanolan.report.data import report_data_of
from nanolan.report.model_card import BEGIN, END, new_card
from nanolan.report.page import render_page
from nanolan.run.environment import Environment
from nanolan.run.record import PhaseReport
from tests.fuzz.made import ANY, NUMBERS, SCREEN, TEXT, as_json, cut
from tests.support.report_fixtures import ENVIRONMENT, MADE, RECEIPT
from tests.support.report_fixtures import PLAN as RUN

# ------------------------------------------------------------------ pickles and checkpoints
OPERATIONS = [bytes([n]) for n in range(256)] + [
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n",
    b"ctiktoken.core\nEncoding\n",
    b"X\x05\x00\x00\x00touch",
    b"\x8c\x01a",
    b"K\x01",
    b"M\x00\x01",
    b"J\xff\xff\xff\x7f",
    b"q\x00",
    b"r\xff\xff\xff\x7f",
    b"h\x00",
    b"\x8a\x04\xff\xff\xff\xff",
    b"\x8a\xff" + b"\x7f" * 255,
    b"B\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 8,
    b"\x95" + b"\xff" * 8,
    b"}",
    b"]",
    b"(",
    b")",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"R",
    b"b",
    b"s",
    b"u",
    b"e",
    b"Q",
    b"\x81",
    b"\x94",
    b"2",
    b"0",
]


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


STATE = {"transformer.wte.weight": torch.zeros(8, 4), "lm_head.weight": torch.zeros(8, 4)}
MODEL, META = (
    saved(OrderedDict(STATE)),
    {
        "model_config": {
            "sequence_len": 8,
            "vocab_size": 8,
            "n_layer": 1,
            "n_head": 2,
            "n_kv_head": 2,
            "n_embd": 4,
        },
        "step": 5,
    },
)
LISTED = zipfile.ZipFile(io.BytesIO(MODEL)).read("archive/data.pkl")


@st.composite
def pickles(draw: st.DrawFn, good: bytes) -> bytes:
    """A good pickle with operations put in, taken out or repeated, or nothing but operations."""
    if draw(st.integers(0, 3)) == 0:
        return (
            b"\x80\x02" + b"".join(draw(st.lists(st.sampled_from(OPERATIONS), max_size=30))) + b"."
        )
    data = good
    for _ in range(draw(st.integers(0, 3))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        piece = b"".join(draw(st.lists(st.sampled_from(OPERATIONS), max_size=3)))
        data = draw(
            st.sampled_from(
                [
                    data[:at] + piece + data[at:],
                    data[:at] + piece + data[min(end, at + 3) :],
                    data[:at] + data[at:end] + data[at:],
                ]
            )
        )
    return data[:200_000]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A .pt file whose list or entries are not what torch.save writes."""
    out = io.BytesIO()
    how = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(io.BytesIO(MODEL)) as old, zipfile.ZipFile(out, "w", how) as new:
        for name in old.namelist():
            content = (
                draw(pickles(LISTED)) if name.endswith("data.pkl") else draw(cut(old.read(name)))
            )
            named = draw(
                st.sampled_from(
                    [name] * 8
                    + ["../../pwned", "/pwned", "archive/data/0", "b/data/0", name.upper()]
                )
            )
            if draw(st.integers(0, 12)):
                new.writestr(named, content)
    return draw(cut(out.getvalue()))


CHECKPOINTS = st.tuples(archives(), as_json(META))


def checkpoint(given: tuple[bytes, bytes]) -> None:
    """What passes is tensors alone: torch reads the same shapes, no larger than the file; nothing else escapes or is written."""
    data, meta = given
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model_000005.pt").write_bytes(data)
        (folder / "meta_000005.json").write_bytes(meta)
        try:
            listed = tensors(io.BytesIO(data), "m.pt")
            read = read_state(folder / "model_000005.pt")
            assert {n: tuple(t.shape) for n, t in read.items()} == {
                n: t.shape for n, t in listed.items()
            }
            assert sum(
                t.untyped_storage().nbytes()
                for t in {t.data_ptr(): t for t in read.values()}.values()
            ) <= len(data)
            load(folder)
        except NanolanError:
            pass
        try:
            load(folder)
        except NanolanError:
            pass
        assert {p.name for p in folder.iterdir()} == {
            "model_000005.pt",
            "meta_000005.json",
        } and not Path("pwned").exists()


# ------------------------------------------------------------------ tokenizer
ENCODING = tiktoken.Encoding(
    "t",
    pat_str=r"\w+|\W",
    mergeable_ranks={bytes([n]): n for n in range(256)},
    special_tokens={name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)},
)
GOOD_TOKENIZER = pickle.dumps(ENCODING)
PATTERNS = st.sampled_from(
    [
        r"\w+|\W",
        ".",
        "",
        "(",
        "a*",
        "(a+)+$",
        "(?=a)",
        r"\p{L}+|[^\p{L}]",
        "(?<!a)b",
        "[",
        "x{1,9999999}",
        "(a|b|ab)*c",
        r"\A",
    ]
)


def pickled(state: Any) -> bytes:
    """As pickle.dump writes an encoding with this state."""
    body = pickle.dumps(state, 4)[2:-1]
    body = body[9:] if body[:1] == b"\x95" else body
    return b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93)\x81" + body + b"b."


@st.composite
def tokenizers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    sizes = draw(
        st.sampled_from(
            [
                saved(torch.zeros(265, dtype=torch.int32)),
                saved(torch.zeros(265)),
                saved(torch.zeros(9)),
                b"",
                saved([1]),
            ]
        )
    )
    if draw(st.booleans()):
        return draw(pickles(GOOD_TOKENIZER)), sizes
    state = {
        "name": "t",
        "pat_str": draw(PATTERNS),
        "mergeable_ranks": {bytes([n]): n for n in range(256)},
        "special_tokens": {name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)},
    }
    for _ in range(draw(st.integers(0, 2))):
        part = state[draw(st.sampled_from(["mergeable_ranks", "special_tokens"]))]
        part[draw(st.one_of(st.binary(max_size=3), TEXT, st.integers(0, 9)))] = draw(
            st.one_of(st.integers(-1, 300), NUMBERS, TEXT)
        )
    if draw(st.integers(0, 4)) == 0:
        state[draw(st.sampled_from(sorted(state)))] = draw(ANY)
    return pickled(state), sizes


def tokenizer(given: tuple[bytes, bytes]) -> None:
    """A tokenizer that is taken writes every text and reads it back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokenizer.pkl").write_bytes(given[0])
        (folder / "token_bytes.pt").write_bytes(given[1])
        try:
            encoding_state(given[0], "t")
            found = load_tokenizer(folder)
        except NanolanError as e:
            assert len(str(e)) < 2000
            return
        finally:
            assert {p.name for p in folder.iterdir()} == {
                "tokenizer.pkl",
                "token_bytes.pt",
            } and not Path("pwned").exists()
        text = "Hi there, 12 \u00e9\U0001f600\n"
        ids = found.encode(text)
        assert all(0 <= i < found.vocab_size for i in ids)
        found.decode(ids)
        try:
            assert len(load_token_bytes(folder, found)) == found.vocab_size
        except NanolanError:
            pass


# ------------------------------------------------------------------ conversations and rows of metrics
TURN = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROW = {"phase": "sft", "step": 3, "steps": 9, "loss": 1.5, "tok_per_s": 1e5, "left_s": 9.0}
LINES = st.lists(
    st.one_of(
        as_json(TURN), as_json(ROW), st.binary(max_size=30), st.just(json.dumps(TURN).encode())
    ),
    max_size=8,
).map(b"\n".join)
TOKENS = None


def jsonl(data: bytes) -> None:
    """A line that is none is left out or named; the others are read, and can be rendered."""
    global TOKENS
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "identity.jsonl"
        path.write_bytes(data)
        if TOKENS is None:
            (Path(name) / "tokenizer.pkl").write_bytes(GOOD_TOKENIZER)
            TOKENS = load_tokenizer(Path(name))
        for read in (
            lambda: count_conversations(io.BytesIO(data), "x"),
            lambda: [render(c, TOKENS, 64) for c in read_jsonl(path)],
        ):
            try:
                read()
            except NanolanError as e:
                assert len(str(e)) < 2000
        metrics = read_metrics(data)
        assert all(r.step >= 0 for r in metrics.rows)
        last_row(path)


# ------------------------------------------------------------------ calculator
OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


@st.composite
def sums(draw: st.DrawFn, depth: int = 4) -> tuple[str, Fraction | None, Fraction]:
    """An expression, its exact value (None where it has none), and the largest number on the way there."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        whole = draw(st.integers(0, 10**6))
        text = draw(st.sampled_from([str(whole), f"{whole / 100:.2f}"]))
        return text, Fraction(text), Fraction(text)
    (left, a, most_a), (right, b, most_b), sign = (
        draw(sums(depth - 1)),
        draw(sums(depth - 1)),
        draw(st.sampled_from(sorted(OPERATORS))),
    )
    try:
        value = None if a is None or b is None else Fraction(OPERATORS[sign](a, b))
    except ZeroDivisionError:
        value = None
    return (
        f"({left}{draw(st.sampled_from(['', ' ']))}{sign}{right})",
        value,
        max(most_a, most_b, abs(value or 0)),
    )


EXPRESSIONS = st.one_of(
    sums(),
    st.tuples(
        st.one_of(
            SCREEN,
            st.text("0123456789+-*/%().,' e_xcount\"\\", max_size=60),
            st.sampled_from(
                [
                    "9**9**9",
                    "1" * 256,
                    "(" * 100 + ")" * 100,
                    "-" * 255 + "1",
                    "__import__('os').system('touch pwned')",
                    "'a'*10**9",
                    "'a'.count('a')",
                ]
            ),
        ),
        st.none(),
        st.just(Fraction(0)),
    ),
)


def calculator(given: tuple[str, Fraction | None, Fraction]) -> None:
    """Never raises, takes no time, and says what exact arithmetic says, or nothing."""
    text, exact, most = given
    began = time.process_time()
    said = calculate(text)
    assert time.process_time() - began < 0.5 and not Path("pwned").exists()
    if said is not None:
        assert re.fullmatch(r"-?\d{1,16}(\.\d{1,10})?", said), said
        if (
            exact is not None and "//" not in text and "%" not in text
        ):  # where floats may be on the other side of a step
            assert math.isclose(float(said), float(exact), rel_tol=1e-6, abs_tol=1e-4), (
                said,
                exact,
            )
    elif exact is not None and len(text) <= 256:
        assert most > MAX_NUMBER / 2 or "/" in text or "%" in text, (
            "within its bounds it has a value"
        )


# ------------------------------------------------------------------ the page and the card
class Tags(HTMLParser):
    """What a page is made of."""

    VOID = {
        "meta",
        "link",
        "br",
        "img",
        "hr",
        "path",
        "use",
        "line",
        "circle",
        "rect",
        "polyline",
        "polygon",
    }

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes another"


@st.composite
def stories(draw: st.DrawFn) -> dict[str, Any]:
    number, maybe = st.one_of(st.floats(), st.none()), st.one_of(st.none(), st.integers(-5, 10**12))
    phases = {
        p: PhaseReport(
            draw(TEXT),
            draw(TEXT),
            draw(TEXT),
            draw(maybe),
            draw(number),
            draw(number),
            draw(number),
            draw(number),
            draw(
                st.dictionaries(
                    st.one_of(TEXT, st.sampled_from(["mmlu_acc", "chatcore", "val_bpb"])),
                    st.floats(),
                    max_size=3,
                )
            ),
            draw(maybe),
        )
        for p in draw(
            st.lists(
                st.one_of(st.sampled_from(["mid", "sft", "rl"]), TEXT), max_size=3, unique=True
            )
        )
    }
    receipt = replace(
        RECEIPT,
        verdict=draw(st.one_of(st.sampled_from(["succeeded", "failed"]), TEXT)),
        reason=draw(TEXT),
        message=draw(TEXT),
        phases=phases,
        log=draw(TEXT),
        ended=draw(TEXT),
        seconds=draw(maybe),
        spent_cents=draw(maybe),
        stages=draw(
            st.dictionaries(
                st.one_of(TEXT, st.sampled_from(["boot", "sft.train"])),
                st.integers(-5, 10**9),
                max_size=3,
            )
        ),
    )
    samples = tuple(
        PhaseSamples(
            draw(TEXT),
            draw(st.integers(0, 9)),
            (
                Sample(
                    draw(TEXT),
                    draw(SCREEN),
                    draw(SCREEN),
                    draw(st.one_of(TEXT, st.none())),
                    draw(st.one_of(st.booleans(), st.none())),
                ),
            ),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    machine = draw(
        st.sampled_from(
            [
                None,
                ENVIRONMENT,
                Environment(
                    draw(TEXT), draw(TEXT), 5, {draw(TEXT): draw(TEXT)}, draw(TEXT), (draw(TEXT),)
                ),
            ]
        )
    )
    plan = replace(
        RUN,
        run_name=draw(TEXT),
        model_tag=draw(TEXT),
        output_tag=draw(TEXT),
        hf_repo=draw(TEXT),
        offer=replace(RUN.offer, gpu=draw(TEXT), region=draw(TEXT)),
    )
    return {
        "plan": plan,
        "receipt": receipt,
        "samples": samples,
        "environment": machine,
        "metrics": draw(st.lists(as_json(ROW), max_size=5).map(b"\n".join)),
        "readme": draw(
            st.one_of(
                SCREEN,
                st.builds(
                    "---\n{}---\n{}\n{}{}{}".format,
                    SCREEN,
                    SCREEN,
                    st.just(BEGIN),
                    SCREEN,
                    st.sampled_from([END, ""]),
                ),
                st.none(),
            )
        ),
    }


def renderer(given: dict[str, Any]) -> None:
    """Whatever a name, an answer or a number is: well formed, nothing runs, nothing is fetched; the user's words stay."""
    story = report_data_of(
        given["plan"],
        given["receipt"],
        MADE,
        read_metrics(given["metrics"]),
        given["samples"],
        given["environment"],
    )
    html, tags = render_page(story, draw=False), Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open and not {t for t, _ in tags.seen} & {
        "script",
        "iframe",
        "object",
        "embed",
        "form",
        "img",
        "base",
    }
    hub = re.match("https?://.+|", given["plan"].hf_endpoint)[0] or "#"  # type: ignore[index]
    places = ("#", "data:,", "https://huggingface.co/", hub)
    for tag, attrs in tags.seen:
        for name, value in attrs:
            fetched = name in ("src", "href") and not (value or "").startswith(places)
            assert not name.startswith("on") and not fetched, (tag, attrs)
    assert all(c.isprintable() or c in "\n\t" for c in html)
    old = given["readme"]
    card = new_card(
        old, given["plan"], given["receipt"], {r.folder for r in given["receipt"].phases.values()}
    )
    again = new_card(
        card, given["plan"], given["receipt"], {r.folder for r in given["receipt"].phases.values()}
    )
    assert card.count("<script") <= (old or "").count("<script") and again == card
