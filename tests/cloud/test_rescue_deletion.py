"""The rescue program's deletion of its own machine: what is gone, what is not, and the power-off at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.cloud.test_rescue_timer import program

PLAN = {
    "shadeform_api": "api",
    "run_id": "0badcafe",
    "phases": ["sft"],
    "created_at": "2026-11-24T12:00:00Z",
}
SECRETS = {"SHADEFORM_API_KEY": "a-key-0123"}
NAME = "lanbot-sft-20261124-1200-0badcafe"
TAGS = ["nanolan-run=0badcafe", "nanolan-attempt=1"]


class Died(BaseException):
    """The machine was switched off while its program slept."""


class Account:
    """Answers each listing with the next of `looks`, the last one for ever: a status, "" for a record that is not listed, or None
    for no answer. The machine dies after `lives` sleeps."""

    def __init__(self, *looks: str | None, lives: int = 40, code: int = 200, **record: Any) -> None:
        self.looks, self.lives, self.code = list(looks), lives, code
        self.record = {"id": "me", "name": NAME, "tags": TAGS} | record
        self.now, self.deleted_at = 0.0, list[float]()

    def ask(self, url: str, key: str = "", body: bytes | None = None) -> bytes:
        if body is not None:
            assert url == "api/instances/me/delete"
            self.deleted_at.append(self.now)
            if self.code != 200:
                raise HTTPError(url, self.code, "no", Message(), None)
            return b""
        status = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if status is None:
            raise OSError("no answer")
        return json.dumps(
            {"instances": [self.record | {"status": status}] if status else []}
        ).encode()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.lives -= 1
        if self.lives == 0:
            raise Died

    def how(self) -> dict[str, Any]:
        return {"ask": self.ask, "clock": lambda: self.now, "sleep": self.sleep}


@pytest.fixture
def rescue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program in a folder of its own; BOX_ROOT keeps it from powering this machine off."""
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    made = program()
    made.HERE = tmp_path
    yield made


def runs_on(rescue: Any, account: Account) -> list[float]:
    """When it sent a delete, in a machine that runs on until it has slept `lives` times."""
    with pytest.raises(Died):
        rescue.delete_self(PLAN, SECRETS, rehearsal=False, **account.how())
    return account.deleted_at


@pytest.mark.parametrize(
    "looks, deletes",
    [
        (("active", "deleting"), 1),
        (("active", "deleting", "active", "deleting"), 2),
        (("active", "deleted", "deleting", "active", "active", "deleted"), 3),
        (("active", " Deleting "), 1),
        (("active", "deleting", None, "deleting"), 2),
    ],
    ids=str,
)
def test_a_deletion_that_is_taken_back_is_sent_again_and_none_ends_the_program(
    rescue: Any, looks: tuple[str, ...], deletes: int
) -> None:
    assert len(runs_on(rescue, Account(*looks))) == deletes


def test_what_is_gone_is_looked_at_again_every_few_minutes(rescue: Any) -> None:
    account = Account("deleting")
    runs_on(rescue, account)
    assert 40 * 120 <= account.now <= 40 * 300


@pytest.mark.parametrize(
    "looks, code",
    [
        (("active", ""), 200),  # accepted and ignored, and missing in the listing
        (("active", ""), 500),
        (("active", None), 404),
        (("active",), 404),  # listed: the 404 is not of this machine
    ],
    ids=str,
)
def test_a_listing_without_a_record_is_no_sign_that_the_machine_is_gone(
    rescue: Any, looks: tuple[str | None, ...], code: int
) -> None:
    account = Account(*looks, code=code)
    assert len(runs_on(rescue, account)) == 40 and account.now <= 40 * rescue.LONGEST_WAIT_S


def test_a_machine_that_is_neither_listed_nor_found_is_looked_at_again_in_minutes(
    rescue: Any,
) -> None:
    account = Account("active", "", code=404)
    assert len(runs_on(rescue, account)) == 40 and account.now > 38 * 120


@pytest.mark.parametrize(
    "record",
    [
        {"name": "renamed", "tags": []},
        {"name": NAME[:24], "tags": None},
        {"name": None, "tags": [None, {}]},
    ],
    ids=str,
)
def test_a_machine_without_its_name_and_tags_is_known_by_the_id_that_was_noted(
    rescue: Any, record: dict[str, Any]
) -> None:
    (rescue.HERE / "instance.json").write_text('{"id": "me"}')
    assert len(runs_on(rescue, Account("active", "deleting", **record))) == 1


def test_a_noted_id_that_no_listing_shows_is_deleted(rescue: Any) -> None:
    (rescue.HERE / "instance.json").write_text('{"id": "me"}')
    assert runs_on(rescue, Account("", lives=3)) and rescue.noted_id() == ["me"]


def test_a_colleagues_machine_is_left_alone(rescue: Any) -> None:
    other = {"name": "mine", "tags": ["nanolan-run=0badcafe", "nanolan-attempt=2"]}
    assert runs_on(rescue, Account("active", **other)) == []


def test_a_rehearsal_ends_with_two_looks_at_what_is_gone(rescue: Any) -> None:
    account = Account("active", "deleting", "active", "deleting")
    rescue.delete_self(PLAN, SECRETS, **account.how())
    assert len(account.deleted_at) == 2 and account.now < 5


# ---- the power-off


@pytest.mark.parametrize("looks", [("active",), ("active", "deleting")], ids=str)
def test_past_its_limit_a_machine_that_runs_on_is_powered_off_once(
    rescue: Any, looks: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    account = Account(*looks)
    with pytest.raises(Died):
        rescue.delete_self(PLAN, SECRETS, 900, rehearsal=False, **account.how())
    assert capsys.readouterr().out.count("powering off") == 1 and account.now > 900


@pytest.mark.parametrize(
    "systemctl, by_the_kernel",
    [
        ("exit 0", False),
        ("exit 1", True),
        ("exec sleep 600", True),
        ("kill -9 $$", True),
        (None, True),
    ],
)
def test_what_systemctl_does_not_do_the_kernel_is_asked_for(
    rescue: Any, tmp_path: Path, systemctl: str | None, by_the_kernel: bool
) -> None:
    rescue.CALL_S = 0.5 if systemctl == "exec sleep 600" else 20
    trigger, stand_in = tmp_path / "proc/sysrq-trigger", tmp_path / "usr/bin/systemctl"
    for path in (trigger, stand_in):
        path.parent.mkdir(parents=True)
    if systemctl:
        stand_in.write_text(
            f'#!/bin/sh\necho "$*" >{tmp_path}/told\necho $$ >{tmp_path}/pid\n{systemctl}\n'
        )
        stand_in.chmod(stat.S_IRWXU)
    began = time.monotonic()
    rescue.power_off()
    assert time.monotonic() - began < 15
    assert (trigger.exists() and trigger.read_text() == "o") is by_the_kernel
    assert not systemctl or (tmp_path / "told").read_text() == "poweroff\n"
    end_stand_in(tmp_path / "pid")


def end_stand_in(pid: Path) -> None:
    """A systemctl that hangs is left behind by the program; not by this test."""
    with contextlib.suppress(OSError):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_rehearsal_powers_nothing_off(rescue: Any, tmp_path: Path) -> None:
    rescue.power_off()
    assert list(tmp_path.iterdir()) == []
