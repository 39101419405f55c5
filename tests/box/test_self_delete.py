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


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"mine"})
        yield server


class Api:
    """An account that answers a delete as told, then with "gone"."""

    def __init__(self, *problems: Exception) -> None:
        self.problems, self.deleted = list(problems), 0

    def delete(self, instance_id: str) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.deleted += 1

    def info(self, instance_id: str) -> Any:
        return SimpleNamespace(
            billing=not self.deleted, status="deleted" if self.deleted else "active"
        )

    def sleep(self, seconds: float) -> None:
        """At once."""


def with_api(box: BoxRun, *problems: Exception) -> Api:
    api = Api(*problems)
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
    assert api.deleted == 1, "and it never stays"


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
    assert api.deleted == 1 and "used up, sft step 5 is lost" in capsys.readouterr().out


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
    assert api.deleted == 1


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on the only PATH; it notes what it was told."""
    told = tmp_path / "bin/told"
    told.parent.mkdir()
    (told.parent / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{told}\n')
    (told.parent / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(told.parent))
    monkeypatch.delenv("BOX_ROOT", raising=False)
    return told


def test_a_machine_that_cannot_be_deleted_is_powered_off_after_its_date_and_not_before(
    tmp_path: Path, systemctl: Path
) -> None:
    m = machine(tmp_path, life_s=150)
    with_api(m, *[OSError("down")] * 4)
    delete(m, NothingToSave("nan"))
    assert systemctl.read_text() == "poweroff\n", "tried at 0, 60, 120 and 180 seconds"


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


def test_a_rehearsal_powers_nothing_off(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_ROOT", "/nowhere")
    power_off()
    assert not systemctl.exists()
