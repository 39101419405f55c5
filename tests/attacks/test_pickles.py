"""Pickles and archives that mean harm, against every reader of them: on the laptop, on the Hub by ranges, and in the trainer."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch

from nanolan.checkpoint.safe_pickle import SPECIAL_TOKENS, encoding_state
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer, NanolanError
from nanolan.hub.upload_set import collect
from nanolan.model.checkpoint import load, read_meta, read_state
from nanolan.model.tokenizer import load_token_bytes, load_tokenizer

RANKS = {bytes([n]): n for n in range(256)}
SPECIALS = {name: 256 + n for n, name in enumerate(SPECIAL_TOKENS)}
META = {
    "model_config": {
        "sequence_len": 8,
        "vocab_size": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_kv_head": 2,
        "n_embd": 4,
    }
}


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.reduced = call, args

    def __reduce__(self) -> Any:
        return self.reduced


def named(
    module: str, name: str, argument: bytes = b"V touch pwned\n", end: bytes = b"\x85R."
) -> bytes:
    """A call by names of text, which need not exist here."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + argument + end


def chain(depth: int) -> bytes:
    """getattr(getattr(os, ...)): a way round a list of forbidden names."""
    return (
        b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\nX\x02\x00\x00\x00os\x85R"
        + b"X\x06\x00\x00\x00system"
        + b"tRX\x0b\x00\x00\x00touch pwned"
        + b"\x85R" * depth
        + b"."
    )


def bomb(levels: int) -> bytes:
    """A list of two of the list before: 2 ** levels elements for whoever walks through it."""
    return (
        b"\x80\x02]q\x00"
        + b"".join(
            b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(levels)
        )
        + b"."
    )


SYSTEM = pickle.dumps(Calls(os.system, "touch pwned"))
# (what it is, the pickle). Refused as a tokenizer, and as the list of tensors in a .pt
PICKLES: tuple[tuple[str, bytes], ...] = (
    ("os.system", SYSTEM),
    ("os.system by protocol 0", pickle.dumps(Calls(os.system, "touch pwned"), 0)),
    ("protocol 5", pickle.dumps(Calls(os.system, "touch pwned"), 5)),
    ("eval", pickle.dumps(Calls(eval, "open('pwned', 'w')"))),
    ("exec", pickle.dumps(Calls(exec, "open('pwned', 'w')"))),
    ("a subprocess", pickle.dumps(Calls(subprocess.Popen, ["touch", "pwned"]))),
    ("mkdir", pickle.dumps(Calls(os.mkdir, "pwned"))),
    ("open", pickle.dumps(Calls(open, "pwned", "w"))),
    ("a chain of getattr", chain(1)),
    ("a longer chain", chain(9)),
    ("copyreg", pickle.dumps(Calls(copyreg._reconstructor, object, object, None))),
    ("an extension", b"\x80\x02\x82\x01."),
    ("a 4 byte extension", b"\x80\x02\x84\xff\xff\xff\x7f."),
    ("torch.load within", named("torch", "load")),
    ("torch.hub", named("torch.hub", "load")),
    ("torch.utils", named("torch.utils.model_zoo", "load_url")),
    ("numpy", named("numpy.core.multiarray", "_reconstruct")),
    ("runpy", named("runpy", "run_path")),
    ("pty", named("pty", "spawn")),
    ("ctypes", named("ctypes", "CDLL")),
    ("pip", named("pip", "main")),
    ("webbrowser", named("webbrowser", "open")),
    ("code", named("code", "interact")),
    ("builtins by its old name", named("__builtin__", "eval")),
    ("a dotted name", named("tiktoken.core", "Encoding.__init__.__globals__")),
    ("nearly ours", named("tiktoken.core", "Encoding ")),
    ("INST", b"(V touch pwned\niposix\nsystem\n."),
    ("OBJ", b"(cposix\nsystem\nV touch pwned\no."),
    ("NEWOBJ_EX", b"\x80\x04cbuiltins\ndict\n)}\x92."),
    ("STACK_GLOBAL", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x05touch\x85R."),
    ("a call of a dictionary", b"\x80\x02}X\x01\x00\x00\x00a\x85R."),
    ("a call of a number", b"\x80\x02K\x01)R."),
    ("build on nothing", b"\x80\x02N}b."),
    ("an unknown operation", b"\x80\x02\xff."),
    (
        "an attribute of ours changed",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__Ns\x86b.",
    ),
    (
        "a class of ours changed",
        b"\x80\x02ctiktoken.core\nEncoding\n}X\x05\x00\x00\x00statex\x01\x00\x00\x00ab.",
    ),
    ("room for gigabytes", b"\x80\x02Nr\xff\xff\xff\x0f."),
    ("put beyond reach", b"\x80\x02Np999999999999\n."),
    ("get beyond reach", b"\x80\x02j\xff\xff\xff\x7f."),
    ("2 GB of bytes", b"\x80\x03B\xff\xff\xff\x7f."),
    ("an exabyte of bytes", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f."),
    ("60 GB of bytearray", b"\x80\x05\x96" + (60 << 30).to_bytes(8, "little") + b"."),
    ("2 GB of text", b"\x80\x02X\xff\xff\xff\x7f."),
    ("a frame without end", b"\x80\x04\x95" + b"\xff" * 8 + b"."),
    ("out of band", b"\x80\x05\x97."),
    ("read-only buffer", b"\x80\x05\x97\x98."),
    ("a number of 2 GB", b"\x80\x02\x8b\xff\xff\xff\x7f."),
    ("a number of 100,000 digits", b"L" + b"9" * 30_000 + b"L\n."),
    ("an exponential list", bomb(60)),
    ("a list in itself", b"\x80\x02]q\x00h\x00a."),
    ("a tuple 30,000 deep", b"\x80\x02N" + b"\x85" * 30_000 + b"."),
    ("such a tuple as a key", b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."),
    ("as keys", b"\x80\x02}(N" + b"\x85" * 30_000 + b"Nu."),
    ("30,000 lists", b"\x80\x02(" + b"]" * 30_000 + b"t."),
    ("deep state", b"\x80\x02ctiktoken.core\nEncoding\n)\x81N" + b"\x85" * 30_000 + b"b."),
    ("nothing", b""),
    ("only its end", b"."),
    ("no end", b"\x80\x02N"),
    ("wrong protocol", b"\x80\xffN."),
    ("an outside object", b"\x80\x02Pposix.system\n."),
    (
        "an outside object by value",
        b"\x80\x02(X\x07\x00\x00\x00storageI0\nX\x01\x00\x00\x00aX\x03\x00\x00\x00cpuI9\ntQ.",
    ),
    ("pops", b"\x80\x02" + b"0" * 100 + b"."),
    ("marks", b"\x80\x02" + b"(" * 1000 + b"1" * 2000 + b"."),
)
IDS = [name for name, _ in PICKLES]


def zipped(
    entries: dict[str, bytes] | list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as z:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            z.writestr(name, data)
    return out.getvalue()


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


GOOD = saved(OrderedDict(a=torch.arange(6.0).reshape(2, 3)))
LIST = zipfile.ZipFile(io.BytesIO(GOOD)).read("archive/data.pkl")


def grown() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )


def refused_by(read: Callable[[], Any], most_mb: int = 500, most_s: float = 10) -> None:
    """In one line, within bounds of time and memory."""
    before, began = grown(), time.process_time()
    with pytest.raises(BadAnswer) as e:
        read()
    assert len(str(e.value)) < 800 and "\n" not in str(e.value)
    assert grown() - before < most_mb and time.process_time() - began < most_s


@pytest.mark.parametrize("data", [p for _, p in PICKLES], ids=IDS)
def test_a_hostile_tokenizer_is_refused_on_the_laptop_and_in_the_trainer(
    data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(data)
    (tmp_path / "token_bytes.pt").write_bytes(GOOD)
    for read in (lambda: load_tokenizer(tmp_path), lambda: collect("tokenizer", tmp_path, "d20")):
        refused_by(read)


@pytest.mark.parametrize(
    "data",
    [p for _, p in PICKLES if len(p) < 150_000],
    ids=[n for n, p in PICKLES if len(p) < 150_000],
)
def test_a_hostile_checkpoint_is_refused_on_the_laptop_and_in_the_trainer(
    data: bytes, tmp_path: Path
) -> None:
    model = zipped(
        {
            "archive/data.pkl": data,
            "archive/byteorder": b"little",
            "archive/data/0": b"\0" * 24,
            "archive/version": b"3\n",
        }
    )
    for name, content in (
        ("model_000005.pt", model),
        ("meta_000005.json", json.dumps(META).encode()),
        ("token_bytes.pt", model),
    ):
        (tmp_path / name).write_bytes(content)
    for read in (
        lambda: load(tmp_path),
        lambda: load_token_bytes(tmp_path, None),
        lambda: collect("base", tmp_path, "d20"),
    ):  # type: ignore[arg-type]
        refused_by(read)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"\x96" + (1 << 40).to_bytes(8, "little"), "BYTEARRAY8"),
        (b"(iposix\nsystem\n", "INST"),
        (b"(o", "OBJ"),
        (b"N0", "POP"),
        (b"\x82\x01", "EXT1"),
        (b"\x8f", "EMPTY_SET"),
        (b"(\x91", "FROZENSET"),
        (b"Pa\n", "PERSID"),
        (b"I5\n", "INT"),
        (b"N2", "DUP"),
        (b"\x97", "NEXT_BUFFER"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_an_operation_that_torch_and_tiktoken_do_not_write_is_refused_by_its_name(
    body: bytes, name: str
) -> None:
    with pytest.raises(BadAnswer, match=f"it holds the operation {name}"):
        encoding_state(b"\x80\x02" + body + b".", "t.pkl")


def test_what_is_refused_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack is one."""
    (tmp_path / "victim").mkdir()
    monkeypatch.chdir(tmp_path / "victim")
    pickle.loads(SYSTEM)
    assert (tmp_path / "victim/pwned").exists()
    (tmp_path / "victim/pwned").unlink()
    monkeypatch.chdir(tmp_path / "here")


def test_a_pickle_leaves_nothing_behind_for_the_next_one() -> None:
    lies = b"\x80\x02ccollections\nOrderedDict\n)R}(X\x05\x00\x00\x00itemsccollections\nOrderedDict\nX\x06\x00\x00\x00valuesccollections\nOrderedDict\nubX\x01\x00\x00\x00aK\x01s."
    model = zipped({"archive/data.pkl": lies})
    with pytest.raises(BadAnswer, match="not a dictionary of tensors"):
        tensors(io.BytesIO(model), "m.pt")
    assert list(tensors(io.BytesIO(GOOD), "m.pt")) == ["a"]


# ------------------------------------------------------------------ archives
def lied(name: str, size: int) -> bytes:
    """A good archive whose index calls one entry `size` bytes long."""
    data = bytearray(GOOD)
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 20 : at + 28] = size.to_bytes(4, "little") * 2
    return bytes(data)


def overlapping() -> bytes:
    """Two entries that are the same bytes."""
    data = bytearray(
        zipped(
            {"archive/data.pkl": LIST, "archive/data/0": b"\0" * 24, "archive/data/1": b"\0" * 24}
        )
    )
    first, second = data.rindex(b"archive/data/0") - 46, data.rindex(b"archive/data/1") - 46
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


REST = {"archive/byteorder": b"little", "archive/version": b"3\n"}
ARCHIVES: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (
        "30 MB of nothing in 30 kB",
        lambda: zipped(
            {"archive/data.pkl": LIST, "archive/data/0": b"\0" * (30 << 20)}, zipfile.ZIP_DEFLATED
        ),
    ),
    (
        "a packed list",
        lambda: zipped(
            {"archive/data.pkl": LIST + b"\0" * (3 << 20), "archive/data/0": b"\0" * 24},
            zipfile.ZIP_DEFLATED,
        ),
    ),
    (
        "bzip2",
        lambda: zipped({"archive/data.pkl": LIST, "archive/data/0": b"\0" * 24}, zipfile.ZIP_BZIP2),
    ),
    (
        "lzma",
        lambda: zipped({"archive/data.pkl": LIST, "archive/data/0": b"\0" * 24}, zipfile.ZIP_LZMA),
    ),
    ("a zip in a zip", lambda: zipped({"archive/data.pkl": GOOD, "archive/data/0": GOOD})),
    ("a zip of zips", lambda: zipped({"a/model.pt": GOOD, "a/b.pt": GOOD})),
    (
        "a list of 5 MB",
        lambda: zipped(
            {"archive/data.pkl": LIST + b"\0" * (5 << 20), "archive/data/0": b"\0" * 24}
        ),
    ),
    (
        "an entry that leads out",
        lambda: zipped({"archive/data.pkl": LIST, "../../pwned": b"\0" * 24}),
    ),
    ("absolute", lambda: zipped({"archive/data.pkl": LIST, "/pwned": b"\0" * 24})),
    (
        "two lists",
        lambda: zipped(
            [
                ("archive/data.pkl", LIST),
                ("archive/data/0", b"\0" * 24),
                ("archive/data.pkl", SYSTEM),
            ]
        ),
    ),
    (
        "two folders",
        lambda: zipped({"a/data.pkl": LIST, "b/data.pkl": SYSTEM, "a/data/0": b"\0" * 24}),
    ),
    (
        "a storage twice",
        lambda: zipped(
            [
                ("archive/data.pkl", LIST),
                ("archive/data/0", b"\0" * 24),
                ("archive/data/0", b"\1" * 24),
            ]
        ),
    ),
    ("overlapping", overlapping),
    ("too short", lambda: zipped({"archive/data.pkl": LIST, "archive/data/0": b"\0" * 23})),
    ("too long", lambda: zipped({"archive/data.pkl": LIST, "archive/data/0": b"\0" * 25})),
    ("not there", lambda: zipped({"archive/data.pkl": LIST})),
    ("said to be 4 GB", lambda: lied("archive/data/0", 0xFFFFFFF0)),
    ("a list said to be 4 GB", lambda: lied("archive/data.pkl", 0xFFFFFFF0)),
    ("cut in the index", lambda: GOOD[:-40]),
    ("cut in the middle", lambda: GOOD[: len(GOOD) // 2]),
    ("its head alone", lambda: GOOD[:10]),
    ("a byte of the list changed", lambda: GOOD.replace(LIST, LIST[:20] + b"\xff" + LIST[21:])),
    (
        "an index of 20,000 entries of nothing",
        lambda: zipped({f"archive/{n}{'x' * 200}": b"" for n in range(20_000)}),
    ),
    ("a script", lambda: b"#!/bin/sh\ntouch pwned\n"),
    ("gzip", lambda: zlib.compress(GOOD)),
    (
        "the old format",
        lambda: (
            torch.save(
                {"a": torch.zeros(1)}, out := io.BytesIO(), _use_new_zipfile_serialization=False
            ),
            out.getvalue(),
        )[1],
    ),
)  # type: ignore[func-returns-value]


@pytest.mark.parametrize("make", [m for _, m in ARCHIVES], ids=[n for n, _ in ARCHIVES])
def test_an_archive_that_torch_does_not_write_is_refused_before_torch_opens_it(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    data = make()
    (tmp_path / "m.pt").write_bytes(data)
    refused_by(lambda: tensors(io.BytesIO(data), "m.pt"))
    refused_by(lambda: read_state(tmp_path / "m.pt"), 50)


# ------------------------------------------------------------------ tensors
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


# ------------------------------------------------------------------ encodings
def encoding(**changes: Any) -> bytes:
    state = pickle.dumps(
        {"name": "t", "pat_str": r"\w+|\W", "mergeable_ranks": RANKS, "special_tokens": SPECIALS}
        | changes,
        4,
    )
    body = state[11:-1] if state[2:3] == b"\x95" else state[2:-1]
    return b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93)\x81" + body + b"b."


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
