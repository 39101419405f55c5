"""A part that fails, hangs or has no time left is a row with its reason; the others go on, and nothing is left running."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanolan.box.phase_runner import MARK
from nanolan.box.probation import Ended
from nanolan.cost.gpu_check import FAILED, LEFT_OUT, OK, Part
from nanolan.errors import UsageProblem
from nanolan.gpu_check.machine import Machine, read_machine
from nanolan.gpu_check.parts import INPUTS, PARTS, PartKind
from nanolan.gpu_check.runner import OVER_S, chosen_parts, result_of, run_part, run_parts, time_of
from tests.support import broken_parts
from tests.support.box_fixtures import environ


def machine(work: Path, device: str = "cuda") -> Machine:
    return Machine(device, 8, "toy", str(work), "feed0001")


def nothing(machine: Machine) -> dict[str, Any]:
    raise AssertionError("runs in a process of its own")


KINDS = {
    "one": PartKind("", 100.0, nothing),
    INPUTS: PartKind("", 50.0, nothing),
    "two": PartKind("", 100.0, nothing, inputs=True),
    "rest": PartKind("", 300.0, nothing, inputs=True),
}


class Play:
    """Parts that take `seconds` and end so; `clock` is theirs."""

    def __init__(self, seconds: float, ends: dict[str, Ended] | None = None) -> None:
        self.now, self.seconds, self.ends = 0.0, seconds, ends or {}
        self.ran: list[tuple[str, float, float]] = []

    def clock(self) -> float:
        return self.now

    def run(self, name: str, machine: Machine, limit_s: float) -> Ended:
        self.ran.append((name, machine.limit_s, limit_s))
        self.now += min(self.seconds, limit_s)
        if self.seconds > limit_s:
            return Ended(None, "")
        result_of(machine.folder, name).write_text(json.dumps({"ms": 1}))
        return self.ends.get(name, Ended(0, ""))


def play(work: Path, it: Play, total_s: float = 600.0, device: str = "cuda") -> list[Part]:
    return run_parts(
        machine(work, device), list(KINDS), total_s=total_s, kinds=KINDS, run=it.run, clock=it.clock
    )


def test_all_parts_run_in_their_order_with_their_own_limits(tmp_path: Path) -> None:
    it = Play(20.0)
    assert [(p.name, p.state, p.seconds, p.figures) for p in play(tmp_path, it)] == [
        (name, OK, 20.0, {"ms": 1}) for name in KINDS
    ]
    assert it.ran[0] == ("one", 100.0, 100.0 + OVER_S)


def test_the_last_part_gets_what_is_left_before_the_deadline(tmp_path: Path) -> None:
    it = Play(20.0)
    play(tmp_path, it, total_s=200.0)
    assert it.ran[-1] == ("rest", 200.0 - 3 * 20 - OVER_S, 200.0 - 3 * 20)


@pytest.mark.parametrize("total_s", [5.0, 14.0, 100.0, 130.0, 250.0])
def test_whatever_hangs_the_whole_ends_before_its_deadline(tmp_path: Path, total_s: float) -> None:
    it = Play(1e9)
    found = play(tmp_path, it, total_s=total_s)
    assert it.now <= total_s and len(found) == len(KINDS)
    late = [p.reason for p in found if p.state == LEFT_OUT]
    assert all("no time" in why or "nothing to train" in why for why in late)
    assert all("hung: ended after" in p.reason for p in found if p.state == FAILED)


def test_without_inputs_nothing_is_trained_and_the_other_parts_go_on(tmp_path: Path) -> None:
    it = Play(1.0, {INPUTS: Ended(1, "gpu-check: no disk\n")})
    found = play(tmp_path, it)
    assert [(p.name, p.state) for p in found] == [
        ("one", OK),
        (INPUTS, FAILED),
        ("two", LEFT_OUT),
        ("rest", LEFT_OUT),
    ]
    assert found[1].reason == "no disk" and found[2].reason == "there is nothing to train"


def test_a_rehearsal_has_more_time(tmp_path: Path) -> None:
    it = Play(1.0)
    play(tmp_path, it, device="cpu")
    assert it.ran[0][1] == 300.0 and time_of(PARTS["soak"], "cpu") < time_of(PARTS["soak"], "cuda")


def test_named_parts_run_in_their_order_with_the_inputs_that_they_need() -> None:
    assert chosen_parts([]) == list(PARTS)
    assert chosen_parts(["nccl", "facts"]) == ["facts", "nccl"]
    assert chosen_parts(["sft"]) == [INPUTS, "sft"]
    with pytest.raises(UsageProblem, match="no part called 'ncl'; there is facts, user, nccl"):
        chosen_parts(["ncl"])


def test_a_machine_survives_its_file(tmp_path: Path) -> None:
    seen: list[Machine] = []

    def run(name: str, given: Machine, limit_s: float) -> Ended:
        run_part(name, given, 0.0, "nanolan.none")
        seen.append(read_machine(tmp_path / "machine.json"))
        return Ended(1, "")

    run_parts(machine(tmp_path), ["one"], kinds=KINDS, run=run)
    assert seen == [Machine("cuda", 8, "toy", str(tmp_path), "feed0001", 100.0)]


# ---- in processes of their own

SAYS: dict[str, Callable[[Part], bool]] = {
    "good": lambda p: p.figures["list"] == [1, 2],
    "hang": lambda p: p.reason == "hung: ended after 10 s",
    "crash": lambda p: p.reason == "ZeroDivisionError: a bug",
    "killed": lambda p: "exit code -9" in p.reason,
    "refused": lambda p: p.reason == "the GPUs do not agree",
    "last": lambda p: p.state == OK,
}


@pytest.mark.slow  # 23 s of waiting
def test_real_parts_that_hang_crash_or_are_killed_leave_a_row_and_no_process(
    tmp_path: Path,
) -> None:
    kinds = {name: replace(kind) for name, kind in broken_parts.PARTS.items()}
    run = partial(run_part, module="tests.support.broken_parts")
    found = run_parts(machine(tmp_path), list(kinds), kinds=kinds, run=run)
    assert [p.name for p in found] == list(SAYS)
    for part in found:
        assert SAYS[part.name](part), part
        assert (part.state == OK) == (part.name in ("good", "last"))
    assert not [p for p in psutil.process_iter() if environ(p).get(MARK) == "feed0001"]
