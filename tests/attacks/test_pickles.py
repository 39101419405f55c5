"""Pickles and archives that mean harm, against every reader of them: on the laptop, on the Hub by ranges, and in the trainer."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import subprocess
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.checkpoint.safe_pickle import encoding_state
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer
from nanolan.hub.upload_set import collect
from nanolan.model.checkpoint import load, read_state
from nanolan.model.tokenizer import load_token_bytes, load_tokenizer
from tests.support.pickle_fixtures import META, refused_by, zipped


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


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


GOOD = saved(OrderedDict(a=torch.arange(6.0).reshape(2, 3)))


LIST = zipfile.ZipFile(io.BytesIO(GOOD)).read("archive/data.pkl")


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


# ---- archives
@pytest.mark.parametrize("make", [m for _, m in ARCHIVES], ids=[n for n, _ in ARCHIVES])
def test_an_archive_that_torch_does_not_write_is_refused_before_torch_opens_it(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    data = make()
    (tmp_path / "m.pt").write_bytes(data)
    refused_by(lambda: tensors(io.BytesIO(data), "m.pt"))
    refused_by(lambda: read_state(tmp_path / "m.pt"), 50)
