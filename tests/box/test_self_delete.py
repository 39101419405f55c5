"""The end of a machine: a warrant that does not hold is refused, and the machine goes all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from nanolan.box.context import BoxRun
from nanolan.box.self_delete import accepted, delete, power_off, wait_to_be_deleted, warrant_of
from nanolan.box.upload.checkpoint import upload
from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import MayBeBilling
from nanolan.hub.proof import MoneyStop, NothingToSave, Proven, UserStop
from nanolan.sim.hub.server import HubServer
from nanolan.times import parse_time
from tests.support.box_fixtures import REPO, WRITERS
from tests.support.report_fixtures import RECEIPT
from tests.support.saver_fixtures import machine, on_hub, trained

SFT = "chatsft_checkpoints/d20"


@pytest.fixture(autouse=True)
def rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BOX_ROOT: a power-off touches nothing outside it."""
    root = tmp_path / "machine"
    monkeypatch.setenv("BOX_ROOT", str(root))
    return root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"mine"})
        yield server


class Api:
    """An account that answers a delete as told, then with "gone". The deletion is taken back before the looks numbered in `back`."""

    def __init__(self, *problems: Exception, back: tuple[int, ...] = ()) -> None:
        self.problems, self.deleted, self.back, self.looks = list(problems), 0, back, 0
        self.status = "active"

    def delete(self, instance_id: str) -> None:
        self.looks += 1
        if self.looks in self.back:
            self.status = "active"
        if self.problems:
            raise self.problems.pop(0)
        self.deleted += self.status == "active"
        self.status = "deleting"

    def info(self, instance_id: str) -> Any:
        return SimpleNamespace(billing=self.status == "active", status=self.status)

    def sleep(self, seconds: float) -> None:
        """At once."""


class Died(BaseException):
    """The machine was switched off while its program slept."""


def with_api(box: BoxRun, *problems: Exception, back: tuple[int, ...] = ()) -> Api:
    api = Api(*problems, back=back)
    box.api, box.me = api, SimpleNamespace(id="me", hourly_cents=100)  # type: ignore[assignment]
    return api


def uploaded(box: BoxRun, phase: str) -> None:
    trained(box, phase)
    found = newest_whole(box.out_dir(phase), phase)
    assert found
    upload(box, phase, *found)


# ---- the warrant


@pytest.mark.parametrize(
    "proven, verdict, reason, unsaved, want",
    [
        (
            ("mid", "sft"),
            "succeeded",
            "",
            [],
            "everything is proven on the Hub: mid_checkpoints/d20 step 5, chatsft_checkpoints/d20 step 5",
        ),
        (("mid",), "stopped", "gate", [], "nothing is left to save (gate)"),
        ((), "failed", "nan", [], "nothing is left to save (nan)"),
        (("mid",), "stopped", "user", [], "stopped, asked for by the user"),
        ((), "failed", "", [], "nothing is left to save (failed)"),
        (
            ("mid",),
            "stopped",
            "spend_limit",
            ["sft step 7"],
            "the money or time for saving is used up, sft step 7 is lost",
        ),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_warrant_says_why_the_machine_may_go(
    tmp_path: Path,
    hub: HubServer,
    proven: tuple[str, ...],
    verdict: str,
    reason: str,
    unsaved: list[str],
    want: str,
) -> None:
    m = machine(tmp_path, hub, phases=("mid", "sft"))
    for phase in proven:
        uploaded(m, phase)
    m.unsaved += unsaved
    assert str(warrant_of(m, replace(RECEIPT, verdict=verdict, reason=reason))) == want


def test_a_warrant_that_does_not_cover_the_phases_is_refused_and_what_is_whole_is_proven_first(
    tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    m = machine(tmp_path, hub, phases=("mid", "sft"))
    uploaded(m, "mid")
    trained(m, "sft")
    api = with_api(m)
    delete(m, Proven(tuple(m.proofs)))
    said = capsys.readouterr().out
    assert f"{SFT}/model_000005.pt" in on_hub(hub, REPO), "nothing whole is lost by it"
    assert (
        "NOT deleting yet: no proof of sft" in said
        and "nothing is left to save (not everything was proven)" in said
    )
    assert api.deleted, "and it never stays"


def test_a_state_on_its_way_is_no_proof_of_its_phase(tmp_path: Path, hub: HubServer) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft", final=False)
    found = newest_whole(m.out_dir("sft"), "sft")
    assert found
    upload(m, "sft", *found)
    assert isinstance(accepted(m, Proven(tuple(m.proofs))), NothingToSave)


@pytest.mark.parametrize("trouble", ["the Hub refuses", "it raises"])
def test_a_refused_warrant_keeps_no_machine_billing(
    tmp_path: Path, hub: HubServer, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    m = machine(tmp_path, hub)
    trained(m, "sft")
    m.meter.give_up = lambda: "the money is gone" if trouble == "the Hub refuses" else 1 / 0  # type: ignore[assignment,return-value]
    api = with_api(m)
    delete(m, Proven(()))
    assert api.deleted and "used up, sft step 5 is lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    "warrant", [NothingToSave("nan"), UserStop(), MoneyStop("limit", "sft step 5")], ids=str
)
def test_any_other_warrant_is_taken_as_it_is(tmp_path: Path, hub: HubServer, warrant: Any) -> None:
    m = machine(tmp_path, hub)
    assert accepted(m, warrant) is warrant and not on_hub(hub, REPO)[1:]


# ---- the deletion


@pytest.mark.parametrize(
    "problem",
    [
        MayBeBilling("x"),
        OSError(28, "no space"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        RecursionError(),
        ValueError("odd"),
        KeyError("id"),
        AttributeError("x"),
    ],
    ids=repr,
)
def test_whatever_goes_wrong_in_a_deletion_it_is_tried_again(
    tmp_path: Path, problem: Exception
) -> None:
    m = machine(tmp_path)
    api = with_api(m, problem, problem)
    delete(m, NothingToSave("nan"))
    assert api.deleted


def dies_after(box: BoxRun, sleeps: int) -> list[float]:
    """How long the box program slept, each time; the machine dies in the last of these sleeps."""
    slept: list[float] = []
    sleep = box.deps.sleep

    def sleep_or_die(seconds: float) -> None:
        sleep(seconds)
        slept.append(seconds)
        if len(slept) == sleeps:
            raise Died

    object.__setattr__(box.deps, "sleep", sleep_or_die)
    return slept


@pytest.mark.parametrize("back, deletes", [((), 1), ((2,), 2), ((3, 4, 9), 4)], ids=str)
def test_a_program_that_still_runs_looks_again_and_deletes_what_came_back(
    tmp_path: Path, back: tuple[int, ...], deletes: int
) -> None:
    m = machine(tmp_path)
    api, slept = with_api(m, back=back), dies_after(m, 12)
    with pytest.raises(Died):
        delete(m, NothingToSave("nan"), rehearsal=False)
    assert (api.deleted, api.looks) == (deletes, 12)
    assert all(120 <= seconds <= 300 for seconds in slept)


def test_a_machine_that_is_called_gone_and_runs_is_powered_off_at_its_date(
    tmp_path: Path, systemctl: Path
) -> None:
    m = machine(tmp_path, life_s=1000)
    with_api(m)
    dies_after(m, 5)
    with pytest.raises(Died):
        delete(m, NothingToSave("nan"), rehearsal=False)
    assert not systemctl.exists(), "not before it"
    dies_after(m, 2)
    with pytest.raises(Died):
        delete(m, NothingToSave("nan"), rehearsal=False)
    assert set(systemctl.read_text().split()) == {"poweroff"}


def test_a_rehearsal_ends_with_two_confirmations_in_a_row(tmp_path: Path) -> None:
    m = machine(tmp_path)
    api = with_api(m, back=(2,))
    delete(m, NothingToSave("nan"))
    assert (api.deleted, api.looks, m.deps.clock()) == (2, 2, 1.0)


def stand_in(root: Path, commands: str = "") -> Path:
    """A systemctl in BOX_ROOT; it notes what it was told in the file that is returned."""
    told = root / "told"
    program = root / "usr/bin/systemctl"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$*" >>{told}\n{commands}\n')
    program.chmod(0o755)
    return told


@pytest.fixture
def systemctl(rehearsed: Path) -> Path:
    return stand_in(rehearsed)


def test_a_machine_that_cannot_be_deleted_is_powered_off_after_its_date_and_not_before(
    tmp_path: Path, systemctl: Path
) -> None:
    m = machine(tmp_path, life_s=150)
    with_api(m, *[OSError("down")] * 4)
    dies_after(m, 3)
    with pytest.raises(Died):
        delete(m, NothingToSave("nan"))
    assert not systemctl.exists(), "tried at 0, 60 and 120 seconds"
    with pytest.raises(Died):
        dies_after(m, 1)
        delete(m, NothingToSave("nan"))
    assert systemctl.read_text() == "poweroff\n", "and at 180"


def test_a_machine_without_a_key_is_powered_off_at_its_date(
    tmp_path: Path, systemctl: Path
) -> None:
    m = machine(tmp_path, life_s=150, self_delete=False)
    sleep = m.deps.sleep

    def watch(seconds: float) -> None:
        assert not systemctl.exists(), "not before it"
        sleep(seconds)

    object.__setattr__(m.deps, "sleep", watch)
    wait_to_be_deleted(m, NothingToSave("nan"))
    assert systemctl.read_text() == "poweroff\n" and m.deps.now() >= parse_time(m.plan.deadline)


@pytest.mark.parametrize("commands", ["exit 1", "kill -9 $$", None])
def test_what_systemctl_does_not_do_the_kernel_is_asked_for(
    rehearsed: Path, commands: str | None
) -> None:
    if commands:
        stand_in(rehearsed, commands)
    trigger = rehearsed / "proc/sysrq-trigger"
    trigger.parent.mkdir(parents=True)
    power_off()
    assert trigger.read_text() == "o"


def test_a_power_off_by_systemctl_leaves_the_kernel_alone(systemctl: Path) -> None:
    (systemctl.parent / "proc").mkdir()
    power_off()
    assert systemctl.exists() and not (systemctl.parent / "proc/sysrq-trigger").exists()


def test_a_rehearsal_powers_nothing_off(rehearsed: Path) -> None:
    power_off()
    assert not rehearsed.exists()
