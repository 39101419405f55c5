"""A base folder for one phase: one checkpoint of one step, the tokenizer and the data, where each generation looks for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nanolan.errors import BadAnswer
from nanolan.phases import DATASETS, IDENTITY_FILE, Phase
from nanolan.trainers.adapter.base_folder import SPLITS, lay_out

SFT = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", module="scripts.chat_sft")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """An input of one step with a shard of its optimizer, a tokenizer, and no data."""
    for name in ("start", "tokenizer", "data"):
        (tmp_path / name).mkdir()
    add_step(tmp_path, 10)
    (tmp_path / "start/optim_000010_rank0.pt").touch()
    (tmp_path / "tokenizer/tokenizer.pkl").write_text("tokens")
    return tmp_path


def add_step(inputs: Path, step: int, *, meta: bool = True) -> None:
    (inputs / f"start/model_{step:06d}.pt").write_text(f"weights of {step}")
    if meta:
        (inputs / f"start/meta_{step:06d}.json").write_text("{}")


def add_data(inputs: Path, name: str, split: str, parts: int = 1) -> None:
    """Parquet files where nanolan downloads them."""
    pattern = getattr(DATASETS[name], split)
    for i in range(parts):
        path = inputs / "data" / DATASETS[name].repo / pattern.replace("*", f"{i:05d}-of-{parts}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {split} {i}")


def laid_out(inputs: Path, *, task_data: bool = True) -> Path:
    base = inputs / "base"
    lay_out(
        base,
        SFT,
        "d20",
        inputs / "start",
        inputs / "tokenizer",
        inputs / "data",
        task_data=task_data,
    )
    return base


def files(folder: Path) -> list[str]:
    """Files and links below a folder."""
    found = [Path(at, name) for at, folders, names in os.walk(folder) for name in folders + names]
    return sorted(str(p.relative_to(folder)) for p in found if p.is_symlink() or p.is_file())


CHECKPOINT = [f"base_checkpoints/d20/{name}" for name in ("meta_000010.json", "model_000010.pt")]


def test_it_has_one_step_without_optimizer_and_takes_no_room(inputs: Path) -> None:
    base = laid_out(inputs)
    assert files(base) == CHECKPOINT + ["tokenizer"]
    assert (base / "tokenizer/tokenizer.pkl").read_text() == "tokens"
    assert all((base / name).is_symlink() for name in files(base))


def test_the_newest_of_several_steps_is_taken(inputs: Path) -> None:
    add_step(inputs, 9)
    add_step(inputs, 1_000_000)
    add_step(inputs, 999_999)
    names = files(laid_out(inputs) / "base_checkpoints/d20")
    assert names == ["meta_1000000.json", "model_1000000.pt"]


# what is wrong with the input -> words of the error
BROKEN = {
    "no model": (lambda folder: (folder / "start/model_000010.pt").unlink(), "holds no model"),
    "no folder": (lambda folder: (folder / "start").rename(folder / "x"), "holds no model"),
    "the newest has no meta": (
        lambda folder: add_step(folder, 20, meta=False),
        "model_000020.pt but no meta_000020.json",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_input_that_is_not_whole_is_named(name: str, inputs: Path) -> None:
    spoil, words = BROKEN[name]
    spoil(inputs)
    with pytest.raises(BadAnswer, match=words):
        laid_out(inputs)


def test_each_data_set_lies_where_the_fork_reads_it(inputs: Path) -> None:
    for name, (_, train, test) in SPLITS.items():
        for split, there in (("train", train), ("test", test)):
            if there and getattr(DATASETS[name], split):
                add_data(inputs, name, split, parts=2)
    base = laid_out(inputs) / "task_data"
    folders = {str(p.parent.relative_to(base)) for p in base.rglob("manifest.json")}
    assert folders == {
        "HuggingFaceTB--smol-smoltalk/default/train",
        "HuggingFaceTB--smol-smoltalk/default/test",
        "cais--mmlu/all/auxiliary_train",
        "cais--mmlu/all/test",
        "openai--gsm8k/main/train",
        "openai--gsm8k/main/test",
        "allenai--ai2_arc/ARC-Easy/train",
        "allenai--ai2_arc/ARC-Easy/test",
        "allenai--ai2_arc/ARC-Challenge/train",
        "allenai--ai2_arc/ARC-Challenge/test",
        "openai--openai_humaneval/openai_humaneval/test",
    }
    for folder in folders:
        names = json.loads((base / folder / "manifest.json").read_text())
        assert names == sorted(p.name for p in (base / folder).glob("*.parquet"))
        texts = [(base / folder / name).read_text() for name in names]
        assert texts == sorted(texts) and len(texts) in (1, 2)


def test_data_is_laid_out_only_for_forks_that_read_it_there(inputs: Path) -> None:
    add_data(inputs, "gsm8k", "train")
    (inputs / "data" / IDENTITY_FILE).write_text("[]\n")
    base = laid_out(inputs, task_data=False)
    assert files(base) == [*CHECKPOINT, IDENTITY_FILE, "tokenizer"]
    assert (base / IDENTITY_FILE).read_text() == "[]\n"


@pytest.mark.parametrize("task_data", [True, False])
def test_no_data_is_no_error(task_data: bool, inputs: Path) -> None:
    (inputs / "data").rmdir()
    assert files(laid_out(inputs, task_data=task_data)) == CHECKPOINT + ["tokenizer"]


def test_nothing_of_an_earlier_start_is_left(inputs: Path) -> None:
    add_data(inputs, "gsm8k", "train", parts=3)
    base = laid_out(inputs)
    (base / "chatsft_checkpoints/d20").mkdir(parents=True)
    (base / "chatsft_checkpoints/d20/model_000099.pt").touch()
    (base / "kept").mkdir()
    (base / "kept/finished").touch()
    (inputs / "data" / DATASETS["gsm8k"].repo / "main").joinpath("x").touch()
    before = [n for n in files(base) if "chatsft" not in n and "kept" not in n]
    assert files(laid_out(inputs)) == before
    assert (inputs / "start/model_000010.pt").read_text() == "weights of 10"


@pytest.mark.parametrize("kind", ["a link", "a file"])
def test_what_stands_in_its_place_is_not_followed(kind: str, inputs: Path) -> None:
    """The folder belongs to the fork: a link there may lead to any other."""
    elsewhere = inputs / "elsewhere"
    elsewhere.mkdir()
    if kind == "a link":
        (inputs / "base").symlink_to(elsewhere)
    else:
        (inputs / "base").write_text("x")
    base = laid_out(inputs)
    assert list(elsewhere.iterdir()) == [] and not base.is_symlink()
    assert files(base) == CHECKPOINT + ["tokenizer"]


def test_inputs_may_be_read_only_and_paths_relative(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_data(inputs, "gsm8k", "test")
    for path in inputs.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.chdir(inputs)
    place = Path("base")
    lay_out(place, SFT, "d20", Path("start"), Path("tokenizer"), Path("data"), task_data=True)
    monkeypatch.chdir("/")
    laid = inputs / "base"
    assert (laid / "tokenizer/tokenizer.pkl").read_text() == "tokens"
    assert (laid / CHECKPOINT[1]).read_text() == "weights of 10"
    (data,) = laid.rglob("00000.parquet")
    assert data.read_text() == "gsm8k test 0"
    for path in inputs.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
