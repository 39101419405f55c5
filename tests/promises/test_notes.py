"""What the box program notes for a later life of it: a disk that does not take a note stops nothing, and loses no older one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan import notify
from nanolan.box import context, main, phase
from nanolan.box.context import RunStopped
from nanolan.box.watch.log import LogParts, unsaid
from nanolan.box.watch.periodic import Periodic
from nanolan.box.watch.timeline import Timeline
from nanolan.files import UNSAID_CHARS, Log, try_write_atomic
from nanolan.redact import Mask, Secret
from nanolan.run.record import to_json
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import PLAN
from tests.support.report_fixtures import RECEIPT
from tests.support.trouble import small_disk


def parts(note: Path) -> None:
    made = LogParts(PLAN, Mask([]), note)
    made._end = 7
    made.sent()


# What each program writes on the way down, besides checkpoints and jobs
NOTES: dict[str, Callable[[Path], object]] = {
    "timeline": lambda path: Timeline(path).enter("save"),
    "what was notified": lambda path: notify._write(path, ["started"]),
    "parts of the log": parts,
    "verdict, instance, limit": lambda path: context.note(path, b"{}"),
    "any other": lambda path: try_write_atomic(path, b"x"),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "gone").touch()
    NOTES[name](tmp_path / "gone/note.json")
    NOTES[name](tmp_path / "note.json")
    assert (tmp_path / "note.json").read_bytes()


@pytest.mark.parametrize("name", NOTES)
def test_on_a_full_disk_the_older_note_stays_whole_and_nothing_half_is_left(
    tmp_path: Path, name: str
) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk.folder / "note.json").write_bytes(b'{"seconds": {}, "stage": "old", "since": 1}')
        disk.fill()
        NOTES[name](disk.folder / "note.json")
        assert (
            disk.folder / "note.json"
        ).read_bytes() == b'{"seconds": {}, "stage": "old", "since": 1}'
        assert {p.name for p in disk.folder.iterdir()} == {"note.json", "filler"}


def test_where_no_attempt_can_be_counted_none_is_begun(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    m: Any = SimpleNamespace(state=tmp_path / "state")
    with pytest.raises(RunStopped) as e:
        phase._next_attempt(m, "sft")
    assert e.value.reason == "disk_full"


@pytest.mark.parametrize("left", [b"", b"x", b"\xff", b"9" * 5000])
def test_a_count_that_a_crash_has_cut_off_begins_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "attempts-sft").write_bytes(left)
    m: Any = SimpleNamespace(state=tmp_path)
    assert [phase._next_attempt(m, "sft"), phase._next_attempt(m, "sft")] == [1, 2]


@pytest.mark.parametrize(
    "left, stands",
    [
        (b"", False),
        (b"{", False),
        (b"[]", False),
        (b'{"verdict": 7}', False),
        (to_json(RECEIPT), True),
    ],
)
def test_a_verdict_that_a_crash_has_cut_off_is_none(
    tmp_path: Path, left: bytes, stands: bool
) -> None:
    (tmp_path / "verdict.json").write_bytes(left)
    assert (main._earlier(tmp_path / "verdict.json") is not None) is stands
    assert main._earlier(tmp_path / "nothing") is None


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    act = (
        "import resource, sys; from pathlib import Path; from nanolan.files import try_write_atomic, write_atomic\n"
        "path = Path(sys.argv[1]); write_atomic(path, b'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))\n"
        "print(try_write_atomic(path, b'new words'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", act, tmp_path / "note"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        done.stdout == "False\n"
        and (tmp_path / "note").read_bytes() == b"old"
        and len(list(tmp_path.iterdir())) == 1
    )


# ---- the log


def test_a_log_on_a_full_disk_never_raises_and_keeps_the_newest_in_memory() -> None:
    with open("/dev/full", "wb") as full:
        log = Log(full.fileno())
        print("first", "x" * UNSAID_CHARS, file=log, flush=True)
        print("last \udc80", file=log, flush=True)
        log.flush()
    assert log.unsaid.endswith("last \udc80\n") and len(log.unsaid) == UNSAID_CHARS


@pytest.mark.parametrize("how", ["broken pipe", "closed"])
def test_a_log_that_nobody_takes_never_raises(how: str) -> None:
    read, write = os.pipe()
    os.close(read)
    log = Log(write)
    if how == "closed":
        os.close(write)
    print("words", file=log, flush=True)
    assert log.unsaid == "words\n"


def test_what_a_log_did_not_take_goes_to_the_hub_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb") as full:
        log = Log(full.fileno())
        print("with hunter22secret in it", file=log)
    monkeypatch.setattr(sys, "stdout", log)
    assert (
        unsaid(Mask([Secret("hunter22secret")]))
        == b"[the disk did not take the rest]\nwith *** in it\n"
    )
    monkeypatch.undo()
    assert unsaid(Mask([])) == b""


# ---- what ticks beside the training


class NoThread:
    """A thread that there is no memory for."""

    def __init__(self, **how: object) -> None:
        pass

    def start(self) -> None:
        raise RuntimeError("can't start new thread")

    def is_alive(self) -> bool:
        return False


def test_without_memory_for_a_thread_the_run_goes_on_without_what_ticks_in_it() -> None:
    problems: list[Exception] = []
    ticker = Periodic(lambda: None, 1.0, problems.append, thread=NoThread)
    assert ticker.start() is ticker and "new thread" in str(problems[0])
    ticker.wake()
    ticker.close()
    assert ticker.closed
