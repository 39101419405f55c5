"""Saves that go on beside the training: one at a time, finished at the end, given up safely, and whole or not there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanolan.checkpoint.manifest import FileEntry, whole_steps
from nanolan.model.checkpoint import read_state, write_tensors
from nanolan.model.gpt import GPT, GPTConfig
from nanolan.train.job import Job, read_job
from nanolan.train.optim import make_optimizer
from nanolan.train.phase import finish
from nanolan.train.progress import ProgressWriter
from nanolan.train.state.saving import SPARE_BYTES, States
from nanolan.train.stop import StopFlag
from nanolan.train.supervised import loop, prepare
from tests.support.ranks import run_ranks
from tests.support.state_fixtures import ALONE, After, states
from tests.support.tiny_world import write_job


class Disk:
    """Writes files of tensors when `open` is set; counts the saves at work at once, and fails when `full`."""

    def __init__(self) -> None:
        self.open, self.full = threading.Event(), False
        self.open.set()
        self.writing = self.most = 0
        self.threads: list[str] = []

    def write(
        self, path: Path, state: Mapping[str, Tensor], cancelled: Callable[[], bool]
    ) -> FileEntry:
        self.writing += 1
        self.most = max(self.most, self.writing)
        self.threads.append(threading.current_thread().name)
        try:
            while not self.open.wait(0.01) and not cancelled():
                pass
            if self.full:
                raise OSError(28, "No space left on device")
            return write_tensors(path, state, cancelled)
        finally:
            self.writing -= 1


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def job(tiny: Path, tmp_path: Path) -> Job:
    return read_job(write_job(tiny, tmp_path / "run", "mid", {"val_rows": 0}))


Make = Callable[..., States]


@pytest.fixture
def make(job: Job, disk: Disk) -> Make:
    """States of a small model whose optimizer has made a step."""

    def made(**given: object) -> States:
        model = GPT.fresh(GPTConfig(16, 64, 1, 2, 2, 16))
        optimizer = make_optimizer(
            model, ALONE, unembedding_lr=0.1, embedding_lr=0.1, matrix_lr=0.1
        )
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step(1.0, 0.9)
        given = {"write": disk.write, "free_bytes": lambda: 1 << 40} | given
        return States(job, ALONE, model, optimizer, **given)  # type: ignore[arg-type]

    return made


def save(s: States, step: int, *, beside: bool = True) -> bool:
    return s.save(step, {"step": step}, [0.5] * step, beside=beside)


def on_disk(job: Job) -> list[int]:
    return [m.step for _, m in whole_steps(job.out_dir)]


def hidden(job: Job) -> list[str]:
    return [p.name for p in job.out_dir.iterdir() if p.name.startswith(".")]


def test_a_save_keeps_what_was_there_when_it_began(make: Make, disk: Disk, job: Job) -> None:
    told: list[int] = []
    s = make(told=lambda step, seconds, stopped_s: told.append(step))
    before = {key: t.clone() for key, t in s.model.state_dict().items()}
    moment = s.optimizer.state(0)["0.exp_avg"].clone()
    disk.open.clear()
    save(s, 3)
    assert not s.has(3) and on_disk(job) == [], "still being written"
    with torch.no_grad():
        for p in s.model.parameters():
            p.grad = torch.ones_like(p)
    s.optimizer.step(1.0, 0.9)
    s.tend()
    disk.open.set()
    s.settle()
    assert s.has(3) and told == [3] and on_disk(job) == [3] and hidden(job) == []
    folder = job.out_dir / "step-000003"
    written = read_state(folder / "model_000003.pt")
    assert all(torch.equal(written[key], before[key]) for key in before)
    assert torch.equal(read_state(folder / "optim_000003_rank0.pt")["0.exp_avg"], moment)


def test_never_two_saves_at_once(make: Make, disk: Disk, job: Job) -> None:
    s = make()
    for step in range(1, 6):
        save(s, step)
    s.settle()
    assert disk.most == 1
    assert on_disk(job) == [5, 4], "the newest two are kept"
    assert set(disk.threads) == {"save"}


def test_no_save_is_due_while_one_is_under_way(make: Make, disk: Disk) -> None:
    now = [0.0]
    s = make(clock=lambda: now[0])
    now[0] = 60 * s.job.save_minutes
    assert s.due()
    disk.open.clear()
    save(s, 1)
    now[0] *= 3
    assert not s.due()
    disk.open.set()
    s.settle()
    assert s.due()


def test_a_save_that_fails_beside_the_training_is_a_warning_and_the_state_before_stays(
    make: Make, disk: Disk, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    s = make()
    save(s, 1)
    s.settle()
    disk.full = True
    save(s, 2)
    assert s.kept() == "the state in step-000001 is kept"
    assert capsys.readouterr().err == (
        "warning: the state of step 2 could not be saved (OSError: [Errno 28] No space left on device)\n"
    )
    assert on_disk(job) == [1] and hidden(job) == []
    disk.full = False
    assert save(s, 3, beside=False)
    assert on_disk(job) == [3, 1]


def test_a_save_that_cannot_be_published_is_a_warning_too(
    make: Make, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    s = make()
    job.out_dir.mkdir(parents=True)
    (job.out_dir / ".saving-000002").write_text("in the way")
    save(s, 2)
    assert s.kept() == "nothing saved"
    assert "warning: the state of step 2 could not be saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spare", "thread"), [(0, "MainThread"), (SPARE_BYTES, "MainThread"), (1 << 40, "save")]
)
def test_without_memory_for_a_copy_the_training_waits_for_the_save(
    spare: int, thread: str, make: Make, disk: Disk, job: Job
) -> None:
    s = make(free_bytes=lambda: spare)
    save(s, 1)
    s.settle()
    assert set(disk.threads) == {thread} and on_disk(job) == [1]


def test_a_save_given_up_leaves_the_state_before_and_nothing_else(
    make: Make, disk: Disk, job: Job
) -> None:
    s = make()
    with pytest.raises(RuntimeError, match="of the training"), s:
        save(s, 1)
        s.settle()
        disk.open.clear()
        save(s, 2)
        raise RuntimeError("of the training")
    assert on_disk(job) == [1] and hidden(job) == [] and disk.writing == 0


def test_an_error_while_a_state_gets_its_name_does_not_lose_it(make: Make, job: Job) -> None:
    s = make()
    with pytest.raises(RuntimeError), s:
        save(s, 1)
        assert s._save
        s._save.task.wait()
        s.tend()  # all files are written: only the manifest is missing
        raise RuntimeError
    assert on_disk(job) == [1] and hidden(job) == []


def test_a_stop_finishes_the_save_under_way_and_saves_the_last_step(
    tiny: Path, tmp_path: Path, disk: Disk
) -> None:
    path = write_job(tiny, tmp_path / "stopped", "mid", {"val_rows": 0})
    job = read_job(path)
    t = prepare(job, ALONE, ProgressWriter(job))
    t.states = States(job, ALONE, t.model, t.optimizer, write=disk.write)
    loop(t, After(t, 2))  # type: ignore[arg-type]
    disk.open.clear()
    t.save_state()
    loop(t, After(t, 3))  # type: ignore[arg-type]
    assert states(path) == []
    threading.Timer(0.1, disk.open.set).start()
    finish(t, StopFlag())
    assert states(path) == [3, 2]


def test_all_ranks_agree_that_a_save_failed_on_one_of_them(tmp_path: Path) -> None:
    said = run_ranks(3, "tests.support.rank_cases:one_rank_cannot_save", tmp_path)
    kept = {1: "step-000001", 2: "step-000001", 3: "step-000003"}
    for step, name in kept.items():
        assert said.count(f" step {step}: the state in {name} is kept") == 3
    assert said.count("warning: the state of step 2 could not be saved") == 1
    assert [m.step for _, m in whole_steps(tmp_path / "out")] == [3, 1]
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
