"""nanolan/files.py: the entries of a folder, and folders that cannot be read."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import whole_steps
from nanolan.errors import UsageProblem
from nanolan.files import Log, entries_of
from nanolan.run.ledger import Ledger


@pytest.fixture
def full(tmp_path: Path) -> Path:
    for name in ("step-000001", "step-000002", ".saving-000003", "a.json"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_matching_entries_are_in_order_and_hidden_ones_only_by_name(full: Path) -> None:
    assert [p.name for p in entries_of(full, "step-*")] == ["step-000001", "step-000002"]
    assert [p.name for p in entries_of(full, ".saving-*")] == [".saving-000003"]


def test_a_missing_folder_has_no_entries(tmp_path: Path) -> None:
    assert entries_of(tmp_path / "none", "*") == []


@pytest.mark.parametrize(
    "look",
    [
        lambda folder: entries_of(folder, "*"),
        lambda folder: list(whole_steps(folder)),
        lambda folder: Ledger(folder).entries(),
    ],
    ids=["entries_of", "whole_steps", "ledger"],
)
def test_an_unreadable_folder_is_an_error_and_never_empty(full: Path, look: object) -> None:
    (full / "runs").mkdir()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fill = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]  # whatever was free below the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises((OSError, UsageProblem)):
            look(full)  # type: ignore[operator]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fill:
            os.close(fd)


WRITER = """
import sys
from nanolan.files import Log
log = Log(1)
for i in range(300):
    print(sys.argv[1] * 50, i, sys.argv[1] * 50, file=log)
"""


def test_lines_of_processes_that_share_a_log_are_not_torn(tmp_path: Path) -> None:
    with open(tmp_path / "log", "ab") as out:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, letter], stdout=out)
            for letter in "abcd"
        ]
        assert [w.wait() for w in writers] == [0] * 4
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 4 * 300
    assert all(re.fullmatch(r"(\w)\1{49} \d+ \1{50}", line) for line in lines)


def test_a_log_writes_whole_lines_and_the_rest_when_flushed() -> None:
    reader, writer = os.pipe()
    log = Log(writer)
    try:
        log.write("a line\nand the")
        assert os.read(reader, 100) == b"a line\n"
        log.write(" next")
        log.flush()
        assert os.read(reader, 100) == b"and the next"
        print("one", 2, file=log)
        assert os.read(reader, 100) == b"one 2\n"
    finally:
        os.close(reader)
        os.close(writer)
