"""A phase of a foreign trainer: it trains at its first step, and starts again only where the money covers it and the text is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.box import phase as phase_module
from nanolan.box.context import RunStopped
from nanolan.box.phase import train, would_repeat
from nanolan.box.sandbox import trainer_folder
from nanolan.run.record import TRAINING, StopReason
from tests.support.fork_box import LIMIT, SFT, WORKING, ForkBox
from tests.support.saver_fixtures import trained

HANG = StopReason("hang", "no progress for 1800 s in stage train at step 7")
Start = Callable[[], tuple[int, StopReason | None]]


class Phase:
    """A machine, and a trainer that does what each start says."""

    def __init__(self, at: ForkBox) -> None:
        self.at, self.box = at, at.box
        self.starts: list[Start] = []
        self.states: list[str] = []
        self.notes: list[str] = []
        self.polled: Callable[[], StopReason | None] = lambda: None
        heartbeat: Any = self.box.heartbeat
        heartbeat.state = "preparing"
        heartbeat.set_state = self._set_state
        heartbeat.log_tail = lambda size: self.log
        self.log = ""
        self.box.notify = SimpleNamespace(  # type: ignore[assignment]
            send=lambda title, text, *more: self.notes.append(text)
        )
        meter: Any = self.box.meter
        meter.margin, meter.taken = SimpleNamespace(checkpoint_s=1.0), None
        meter.note_save = lambda seconds: None
        meter.spent_cents, meter.soft_cents = 100, 1000
        meter.cost_of = lambda seconds: round(seconds)  # a cent a second
        at.stages["sft.train"] = 60

    def _set_state(self, state: str, message: str = "") -> None:
        self.states.append(state)
        self.box.heartbeat.state = state

    def trainer(self, *args: Any, stop: Callable[[], StopReason | None], **how: Any) -> Any:
        self.polled = stop
        return self.starts.pop(0)()

    def beat(self, step: int, stage: str = "train", steps: int = 0) -> None:
        row = {"phase": "sft", "step": step, "steps": steps, "stage": stage, "t": float(step)}
        path = trainer_folder(self.box.work) / "heartbeat.json"
        path.write_text(json.dumps(row))
        self.polled()

    def run(self, *starts: Start) -> Any:
        self.starts = list(starts)
        return train(self.box, "sft")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phase]:
    monkeypatch.setattr(phase_module, "StateUploads", lambda box, phase: nullcontext())
    made = Phase(ForkBox(tmp_path, WORKING))
    object.__setattr__(made.box.deps, "trainer", made.trainer)
    yield made
    assert made.starts == []


def ends(at: Phase, step: int, *, code: int = 1, steps: int = 0, log: str = "") -> Start:
    """A start that comes to a step and dies."""

    def start() -> tuple[int, StopReason | None]:
        at.beat(0, "load")
        if step:
            at.beat(step, steps=steps)
        at.log = log or "nanolan.train: scripts.chat_sft: RuntimeError: NCCL error"
        return code, None

    return start


def finishes(at: Phase, step: int = 100) -> Start:
    def start() -> tuple[int, StopReason | None]:
        at.beat(step)
        trained(at.box, "sft", step)
        return 0, None

    return start


def test_it_trains_at_its_first_step_and_not_before(at: Phase) -> None:
    def start() -> tuple[int, StopReason | None]:
        at.beat(0, "load")
        at.beat(0, "train")
        assert at.states == []
        at.beat(1)
        assert at.states == [TRAINING]
        at.beat(2)
        trained(at.box, "sft", 2)
        return 0, None

    assert at.run(start)[1].step == 2
    assert at.states == [TRAINING]


def test_a_command_trains_when_it_says_something(at: Phase) -> None:
    def start() -> tuple[int, StopReason | None]:
        at.beat(0, "load")
        assert at.states == []
        at.beat(0, "command")
        return finishes(at)()

    at.at.fork.phases["sft"] = replace(SFT, module="", command="bash train.sh")
    at.run(start)
    assert at.states == [TRAINING]


def test_a_heartbeat_of_an_earlier_trainer_is_no_step(at: Phase) -> None:
    at.beat(50)
    with pytest.raises(RunStopped, match="NCCL error"):
        at.run(ends(at, 0))
    assert at.states == []


def test_a_fork_that_dies_starts_again_from_zero_and_the_text_says_so(
    at: Phase, capsys: pytest.CaptureFixture[str]
) -> None:
    at.run(ends(at, 7), finishes(at))
    said = "scripts.chat_sft: RuntimeError: NCCL error; training again from zero: it had saved no state"
    assert said in capsys.readouterr().out and "from zero" in at.notes[0]


def test_a_fork_with_weights_begins_with_them_and_the_text_says_from_which(
    at: Phase, capsys: pytest.CaptureFixture[str]
) -> None:
    def start() -> tuple[int, StopReason | None]:
        trained(at.box, "sft", 40, final=False)
        return ends(at, 45)()

    at.run(start, finishes(at))
    said = "training again from the beginning, with the weights of step 40"
    assert said in capsys.readouterr().out and "weights of step 40" in at.notes[0]


def test_it_starts_again_only_once(at: Phase) -> None:
    with pytest.raises(RunStopped, match="phase sft: scripts.chat_sft: RuntimeError: NCCL error"):
        at.run(ends(at, 7), ends(at, 9))
    assert len(at.notes) == 1


# seconds trained, step, steps of the phase -> whether 900 cents cover it once more
MONEY = {
    "a tenth was done": (60, 10, 100, True),
    "a tenth of more": (95, 10, 100, False),
    "nearly all": (890, 99, 100, True),
    "all": (890, 100, 100, True),
    "more than all": (890, 120, 100, True),
    "of unknown length, short": (400, 7, 0, True),
    "of unknown length, long": (500, 7, 0, False),
    "the first step": (8, 1, 100, True),
    "the first step took long": (10, 1, 100, False),
}


@pytest.mark.parametrize("name", MONEY)
def test_it_starts_again_only_if_the_money_covers_the_phase(
    name: str, at: Phase, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds, step, steps, again = MONEY[name]
    at.at.stages["sft.train"] = seconds
    if again:
        at.run(ends(at, step, steps=steps), finishes(at))
        return
    with pytest.raises(RunStopped) as found:
        at.run(ends(at, step, steps=steps))
    assert found.value.reason == "nccl" and at.notes == []
    assert "the rest of the money does not cover it once more" in capsys.readouterr().out


# log of a trainer that failed -> reason
LOGS = {
    "nanolan.train: scripts.chat_sft: torch.OutOfMemoryError: CUDA out of memory. T": "oom",
    "nanolan.train: scripts.chat_sft: Signal 9 (SIGKILL) received by PID 3": "killed",
    "nanolan.train: refused: scripts.chat_sft ended well but left no model": "bad_data",
    "nanolan.train: scripts.chat_sft: OSError: [Errno 28] No space left on device": "disk_full",
    "nothing of use": "trainer_failed",
}


@pytest.mark.parametrize("log", LOGS)
def test_before_the_first_step_it_fails_at_once(log: str, at: Phase) -> None:
    with pytest.raises(RunStopped) as found:
        at.run(ends(at, 0, log=log))
    assert found.value.reason == LOGS[log]


def test_a_result_that_is_refused_is_not_trained_for_again(at: Phase) -> None:
    with pytest.raises(RunStopped, match="left no model"):
        at.run(ends(at, 50, log="nanolan.train: refused: it left no model_SSSSSS.pt"))


def test_a_hang_starts_again_and_a_limit_does_not(at: Phase) -> None:
    def hangs(stop: StopReason) -> Start:
        def start() -> tuple[int, StopReason | None]:
            at.beat(7)
            return -9, stop

        return start

    at.run(hangs(HANG), finishes(at))
    assert "no progress" in at.notes[0]


def test_a_limit_ends_it(at: Phase) -> None:
    def start() -> tuple[int, StopReason | None]:
        at.beat(7)
        at.at.stop = LIMIT
        return 0, at.polled()

    with pytest.raises(RunStopped, match="the spend limit is reached") as found:
        at.run(start)
    assert found.value.reason == "spend_limit"


@pytest.mark.parametrize(
    ("reason", "why", "repeats"),
    [
        ("nan", "scripts.chat_sft: the loss is nan", True),
        ("oom", "CUDA out of memory", True),
        ("trainer_failed", "scripts.chat_sft: ValueError: bad batch", True),
        ("trainer_failed", "scripts.chat_sft: MyOwnException", True),
        ("trainer_failed", "torchrun was killed by signal 9", False),
        (
            "trainer_failed",
            "the trainer ended with exit code 1 and saved no final checkpoint",
            False,
        ),
        ("killed", "a rank was killed", False),
        ("nccl", "RuntimeError: NCCL error", False),
        ("gpu_error", "RuntimeError: CUDA error: an illegal memory access", False),
        ("hang", "no progress for 600 s", False),
    ],
)
def test_what_a_fork_would_run_into_again_is_not_paid_for_twice(
    reason: str, why: str, repeats: bool
) -> None:
    assert would_repeat(reason, why) is repeats
