"""Files of an upload by hand are checked first: complete, safe to load, and matching each other."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanolan.errors import BadAnswer, NanolanError, UsageProblem
from nanolan.hub.upload_set import KINDS, collect, default_path, text_of_archive
from nanolan.redact import Secret
from nanolan.sim.seed import _cached
from tests.support.checkpoint_fixtures import saved

BASE = "base_checkpoints/d20"


@pytest.fixture
def here(tmp_path: Path, seed_cache: Path) -> Path:
    return Path(shutil.copytree(_cached(seed_cache, "d20") / "model", tmp_path / "here"))


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_every_kind_is_found_where_nanochat_saves_it(here: Path) -> None:
    there = {"base", "mid", "tokenizer", "data"}
    assert {k for k in KINDS if default_path(k, here, "d20").exists()} == there
    upload_sets = [collect(k, default_path(k, here, "d20"), "d20") for k in KINDS if k in there]
    assert [p.target for p in upload_sets] == [BASE, "mid_checkpoints/d20", "tokenizer", ""]
    assert [p.manifest is not None for p in upload_sets] == [True, True, False, False] and all(
        p.size for p in upload_sets
    )
    assert "step 10" in upload_sets[0].text and "40 conversations" in upload_sets[3].text


def optimizer(size: int) -> bytes:
    """A file of torch.save, about so large, of what no model file holds."""
    return saved([{"state": torch.zeros(size, dtype=torch.int8)}])


STATE = optimizer(1000)


def test_an_optimizer_that_torch_did_not_save_is_not_sent(here: Path) -> None:
    (here / BASE / "optim_000010_rank0.pt").write_bytes(b"x" * 1000)
    with pytest.raises(
        BadAnswer,
        match="optim_000010_rank0.pt: cut off, or not a file of torch.save.*nothing was sent",
    ):
        collect("base", here / BASE, "d20", optimizer=True)


def test_the_newest_step_is_taken_with_its_own_optimizer(here: Path) -> None:
    folder = here / BASE
    (folder / "model_000003.pt").write_bytes(b"an older one, which need not even be whole")
    for name in (
        "optim_000003_rank0.pt",
        "optim_000010_rank0.pt",
        "optim_000010_rank1.pt",
        "optim_0000100_rank0.pt",
    ):
        (folder / name).write_bytes(STATE)
    assert {e.path for e in collect("base", folder, "d20").entries} == {
        "model_000010.pt",
        "meta_000010.json",
    }
    assert collect("base", folder, "d20").left == 2 * len(STATE)
    assert len(collect("base", folder, "d20", optimizer=True).entries) == 4


def test_the_same_files_give_the_same_manifest(here: Path) -> None:
    first, second = (collect("base", here / BASE, "d20").written for _ in range(2))
    assert first == second is not None


def changed(path: str, data: bytes | None) -> Callable[[Path], None]:
    def change(here: Path) -> None:
        (here / path).unlink(missing_ok=True)
        if data is not None:
            (here / path).write_bytes(data)

    return change


def other_model(here: Path) -> None:
    torch.save({"w": torch.zeros(10)}, here / BASE / "model_000010.pt")


def evil_model(here: Path) -> None:
    torch.save(Evil(), here / BASE / "model_000010.pt")


def other_sizes(here: Path) -> None:
    torch.save(torch.zeros(3, dtype=torch.int32), here / "tokenizer/token_bytes.pt")


@pytest.mark.parametrize(
    "kind, path, change, says",
    [
        ("base", BASE, changed(f"{BASE}/model_000010.pt", None), "holds no model_SSSSSS.pt"),
        ("base", "base_checkpoints", changed("x", None), "Did you mean .*base_checkpoints/d20"),
        ("base", f"{BASE}/model_000010.pt", changed("x", None), "is a file; give the folder"),
        ("base", BASE, changed(f"{BASE}/meta_000010.json", None), "no meta_000010.json"),
        ("base", BASE, changed(f"{BASE}/meta_000010.json", b"{}"), "has no model_config"),
        ("base", BASE, changed(f"{BASE}/model_000010.pt", b"PK"), "cut off"),
        ("base", BASE, evil_model, "asks for posix.system"),
        ("base", BASE, other_model, "does not belong to its meta|tensors missing"),
        (
            "tokenizer",
            "tokenizer",
            changed("tokenizer/token_bytes.pt", None),
            "holds no token_bytes.pt",
        ),
        (
            "tokenizer",
            "tokenizer",
            changed("tokenizer/tokenizer.pkl", pickle.dumps(Evil())),
            "asks for posix.system",
        ),
        ("tokenizer", "tokenizer", other_sizes, "do not belong together"),
        ("data", "tokenizer", changed("x", None), "is a folder; give the file"),
        ("data", "d.jsonl", changed("d.jsonl", b""), "no conversations"),
        ("data", "d.jsonl", changed("d.jsonl", b"\xff\n"), "line 1: not UTF-8"),
        (
            "data",
            "d.jsonl",
            changed("d.jsonl", b'[{"role":"user","content":"a"},{"role":"user","content":"b"}]\n'),
            "line 1: message 2",
        ),
        ("data", "d.jsonl", changed("d.jsonl", b'\n{"messages": []}\n'), "line 2: no array"),
        ("data", "d.jsonl", changed("d.jsonl", b"[" * 100_000), "nested deeper"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_unusable_files_are_refused_with_what_to_do(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    path: str,
    change: Callable[[Path], None],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    change(here)
    with pytest.raises(NanolanError, match=says):
        collect(kind, here / path, "d20")
    assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_cannot_be_read_is_named(here: Path) -> None:
    (here / BASE / "model_000010.pt").chmod(0)
    with pytest.raises(UsageProblem, match="model_000010.pt cannot be read"):
        collect("base", here / BASE, "d20")


TOKEN = "hf_" + "Qw7" * 11 + "x"
LEAKS = {
    "a known value in the meta": (
        "base",
        f"{BASE}/meta_000010.json",
        lambda d: d.replace(b"{", b'{"note": "%s", ' % TOKEN.encode(), 1),
    ),
    "the shape of a key in the meta": (
        "base",
        f"{BASE}/meta_000010.json",
        lambda d: d.replace(b"{", b'{"note": "ghp_' + b"aB3" * 12 + b'", ', 1),
    ),
    "a known value in a conversation": (
        "data",
        "identity_conversations.jsonl",
        lambda d: d + conversation(TOKEN),
    ),
    "the shape of a key in a conversation": (
        "data",
        "identity_conversations.jsonl",
        lambda d: d + conversation("AKIA" + "Q7" * 8),
    ),
    "a known value beside a model's numbers": (
        "base",
        f"{BASE}/model_000010.pt",
        lambda d: with_member(d, TOKEN.encode()),
    ),
}


def conversation(text: str) -> bytes:
    row = [{"role": "user", "content": text}, {"role": "assistant", "content": "no"}]
    return json.dumps(row).encode() + b"\n"


def with_member(data: bytes, words: bytes) -> bytes:
    """A file of torch.save with one more comment at its end."""
    packed = io.BytesIO(data)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = words
    return packed.getvalue()


@pytest.mark.parametrize("what", LEAKS)
def test_files_with_a_secret_are_not_uploaded(here: Path, what: str) -> None:
    kind, name, change = LEAKS[what]
    Secret(TOKEN)
    (here / name).write_bytes(change((here / name).read_bytes()))
    with pytest.raises(UsageProblem, match="nothing was sent") as e:
        collect(kind, default_path(kind, here, "d20"), "d20")
    assert Path(name).name in str(e.value) and TOKEN not in str(e.value)


def test_the_secret_scan_of_a_model_skips_only_the_tensors(here: Path) -> None:
    looked = list(text_of_archive(here / BASE / "model_000010.pt"))
    assert (
        len(looked) >= 3
        and sum(map(len, looked)) < (here / BASE / "model_000010.pt").stat().st_size / 2
    )


def test_a_model_of_another_tag_beside_the_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "base_checkpoints/d32").mkdir(parents=True)
    (tmp_path / "base_checkpoints/d32/model_000100.pt").touch()
    (tmp_path / "base_checkpoints/empty").mkdir()
    with pytest.raises(
        UsageProblem, match="beside it is d32. Type: just upload base model-tag=d32"
    ):
        collect("base", default_path("base", tmp_path, "d20"), "d20")
    with pytest.raises(UsageProblem, match="Give its path: just upload tokenizer PATH"):
        collect("tokenizer", default_path("tokenizer", tmp_path, "d20"), "d20")
