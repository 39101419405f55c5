"""What a fork and its keeper leave becomes states and the final checkpoint; a full disk ends no training."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.architecture import read_meta
from nanolan.checkpoint.manifest import newest_whole, read_whole, whole_steps
from nanolan.errors import BadAnswer
from nanolan.phases import Phase
from nanolan.trainers.adapter import kept as kept_module
from nanolan.trainers.adapter.kept import Kept, renumbered, save_final
from nanolan.trainers.fork_job import ForkFacts, ForkJob

SFT = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", module="scripts.chat_sft")
META: dict[str, Any] = {"step": 5, "model_config": {"n_layer": 2}, "stopped_early": None}


@pytest.fixture
def job(tmp_path: Path) -> ForkJob:
    place = {name: str(tmp_path / name) for name in ("init_dir", "tokenizer_dir", "data_dir")}
    return ForkJob(
        phase="sft",
        run_id="ab12cd34",
        model_tag="d20",
        out_dir=str(tmp_path / "out"),
        metrics=str(tmp_path / "metrics.jsonl"),
        heartbeat=str(tmp_path / "heartbeat.json"),
        fork=ForkFacts("checkout", "python", SFT, 1, False),
        **place,
    )


def put(folder: Path, step: int, *, meta: str | None = None, model: str = "weights") -> None:
    """A checkpoint as the keeper or a fork writes it; meta "" leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"model_{step:06d}.pt").write_text(model)
    if meta != "":
        text = meta or json.dumps(META | {"step": step})
        (folder / f"meta_{step:06d}.json").write_text(text)


def states(job: ForkJob) -> list[int]:
    return [m.step for _, m in whole_steps(Path(job.out_dir))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def test_new_weights_become_a_state_with_a_manifest(job: ForkJob, folder: Path) -> None:
    kept = Kept(job, folder, 0)
    kept.take()
    assert (kept.step, states(job)) == (0, [])
    put(folder, 5)
    kept.take()
    kept.take()
    place, manifest = newest_whole(Path(job.out_dir), "sft", final=False) or (None, None)
    assert place and manifest and kept.step == 5
    assert (manifest.run_id, manifest.step, manifest.final) == ("ab12cd34", 5, False)
    assert manifest.extra == {"keeps": "weights"}
    assert (place / "model_000005.pt").samefile(folder / "model_000005.pt")
    assert json.loads((place / "meta_000005.json").read_text()) == META


def test_after_a_warm_start_steps_count_on_and_the_meta_says_so(job: ForkJob, folder: Path) -> None:
    put(folder, 5)
    Kept(job, folder, 1000).take()
    place = Path(job.out_dir) / "step-001005"
    assert read_whole(place).step == 1005
    meta = read_meta((place / "meta_001005.json").read_bytes(), "meta", 1005)
    assert meta == META | {"step": 1005}


def test_two_states_stay_the_newest_ones(job: ForkJob, folder: Path) -> None:
    kept = Kept(job, folder, 999_990)
    for step in (5, 9, 15, 20):
        put(folder, step)
        kept.take()
    assert states(job) == [1_000_010, 1_000_005]


# what the keeper's folder looks like at this moment -> the step that is taken
MOMENTS: dict[str, tuple[Callable[[Path], object], int]] = {
    "no folder": (lambda f: shutil.rmtree(f), 0),
    "a file in its place": (lambda f: (shutil.rmtree(f), f.write_text("x")), 0),
    "the meta is not there yet": (lambda f: (f / "meta_000005.json").unlink(), 0),
    "the model is gone again": (lambda f: (f / "model_000005.pt").unlink(), 0),
    "both are gone, newer ones are half there": (
        lambda f: (shutil.rmtree(f), put(f, 7, meta="")),
        0,
    ),
    "an unfinished file": (lambda f: (f / ".model_000009.pt.tmp").write_text("x"), 5),
    "beat and marks": (lambda f: ((f / "beat.json").touch(), (f / "finished").touch()), 5),
    "a meta that is no JSON": (lambda f: (f / "meta_000005.json").write_text("{"), 0),
    "a meta that is a list": (lambda f: (f / "meta_000005.json").write_text("[]"), 0),
    "a folder of that name": (
        lambda f: ((f / "model_000005.pt").unlink(), (f / "model_000005.pt").mkdir()),
        0,
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_half_there_is_not_there_and_ends_nothing(name: str, job: ForkJob, folder: Path) -> None:
    put(folder, 5)
    spoil, step = MOMENTS[name]
    spoil(folder)
    kept = Kept(job, folder, 0)
    kept.take()
    assert kept.step == step and states(job) == ([step] if step else [])
    if folder.is_dir():
        put(folder, 12)
        kept.take()
        assert kept.step == 12


def test_files_that_disappear_while_they_are_taken(
    job: ForkJob, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, 5)
    real, calls = os.link, []

    def link(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 1:
            source.unlink()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    kept = Kept(job, folder, 0)
    kept.take()
    assert kept.step == 0 and states(job) == []
    put(folder, 5)
    kept.take()
    assert kept.step == 5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_disk_is_said_once_and_tried_again(
    number: int,
    job: ForkJob,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    put(folder, 5)
    kept = Kept(job, folder, 0)
    with monkeypatch.context() as patched:
        patched.setattr(kept_module, "save_whole", full)
        for _ in range(5):
            kept.take()
    assert capsys.readouterr().out.count("the weights of step 5 are not saved") == 1
    kept.take()
    assert states(job) == [5]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EMLINK])
def test_where_there_are_no_second_names_the_weights_are_copied(
    number: int, job: ForkJob, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    put(folder, 5)
    Kept(job, folder, 0).take()
    assert states(job) == [5]


def test_a_name_is_renumbered() -> None:
    assert renumbered("model_000007.pt", 107) == "model_000107.pt"
    assert renumbered("meta_999999.json", 1_000_000) == "meta_1000000.json"
    assert renumbered("meta_1000000.json", 1_000_007) == "meta_1000007.json"


# ---- the final checkpoint


def final(job: ForkJob, base: Path) -> tuple[int, set[str], dict[str, Any]]:
    save_final(job, base, {"loss_end": 1.5})
    place, manifest = newest_whole(Path(job.out_dir), "sft", final=True) or (None, None)
    assert place and manifest
    return manifest.step, {f.path for f in manifest.files}, manifest.extra


def test_the_newest_step_in_any_folder_is_the_result(job: ForkJob, tmp_path: Path) -> None:
    output = tmp_path / "base/chatsft_checkpoints"
    put(output / "d2", 60)
    put(output / "d2", 589)
    put(output / "d20", 120)
    (output / "d2/optim_000589_rank0.pt").touch()
    (output / "d2/model_best.pt").touch()
    (output / "notes.txt").touch()
    found = final(job, tmp_path / "base")
    assert found == (589, {"model_000589.pt", "meta_000589.json"}, {"loss_end": 1.5})


def test_the_later_one_of_the_same_step_is_the_result(job: ForkJob, tmp_path: Path) -> None:
    output = tmp_path / "base/chatsft_checkpoints"
    put(output / "a", 7, model="new")
    put(output / "b", 7, model="old")
    for path, age in ((output / "a", 10), (output / "b", 90)):
        for p in (path / "model_000007.pt", path):
            os.utime(p, (1e9 - age, 1e9 - age))
    final(job, tmp_path / "base")
    assert (Path(job.out_dir) / "step-000007/model_000007.pt").read_text() == "new"


def test_a_link_to_the_result_is_followed(job: ForkJob, tmp_path: Path) -> None:
    output = tmp_path / "base/chatsft_checkpoints"
    put(tmp_path / "elsewhere", 9)
    (output / "d2").mkdir(parents=True)
    for path in (tmp_path / "elsewhere").iterdir():
        (output / "d2" / path.name).symlink_to(path)
    assert final(job, tmp_path / "base")[0] == 9


def test_states_before_it_stay_and_a_state_of_its_step_is_replaced(
    job: ForkJob, tmp_path: Path, folder: Path
) -> None:
    for step in (4, 7):
        put(folder, step)
        Kept(job, folder, 0).take()
    put(tmp_path / "base/chatsft_checkpoints/d2", 7)
    assert final(job, tmp_path / "base")[0] == 7
    state = newest_whole(Path(job.out_dir), "sft", final=False)
    assert state and state[1].step == 4


# what the fork left -> words of the error
NOTHING: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda base: None, "ended well but left no model_SSSSSS.pt in chatsft"),
    "another folder": (lambda base: put(base / "sft_checkpoints/d2", 9), "left no model"),
    "no tag": (lambda base: put(base / "chatsft_checkpoints", 9), "left no model"),
    "another name": (
        lambda base: put(base / "chatsft_checkpoints/d2", 9, model="") or _rename(base),
        "left no model",
    ),
    "no meta": (
        lambda base: put(base / "chatsft_checkpoints/d2", 9, meta=""),
        "left model_000009.pt without meta_000009.json",
    ),
}


def _rename(base: Path) -> None:
    path = base / "chatsft_checkpoints/d2/model_000009.pt"
    path.rename(path.with_name("model_final.pt"))


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_missing_is_named(name: str, job: ForkJob, tmp_path: Path) -> None:
    leave, words = NOTHING[name]
    leave(tmp_path / "base")
    with pytest.raises(BadAnswer, match=words):
        save_final(job, tmp_path / "base", {})
    assert states(job) == []
