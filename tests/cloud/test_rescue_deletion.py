"""The rescue program's last act: the power-off of its own machine."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.test_rescue_timer import program


@pytest.fixture
def rescue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program in a folder of its own; BOX_ROOT keeps it from powering this machine off."""
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    made = program()
    made.HERE = tmp_path
    yield made


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
    rescue.POWER_OFF_WAIT_S = 0.5 if systemctl == "exec sleep 600" else 20
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
