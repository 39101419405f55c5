"""The log on its machine: in parts and whole, never half a line, never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.box.watch.log import LogParts, new_lines, whole
from nanolan.redact import Mask, Secret
from tests.support.box_fixtures import TOKEN, make_plan

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)
MASK = Mask([Secret(TOKEN)])


def log(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "var/log/lanbot-training.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data, start, most, lines, end",
    [
        (b"", 0, 100, b"", 0),
        (b"one\n", 0, 100, b"one\n", 4),
        (b"one\ntw", 0, 100, b"one\n", 4),
        (b"one\ntw", 4, 100, b"", 4),
        (b"one\ntwo\n", 4, 100, b"two\n", 8),
        (b"x\n", 50, 100, b"x\n", 2),  # somebody has cut it off
        (
            b"0123456789\nabc\ndef\n",
            0,
            9,
            b"[11 bytes of the log are left out here]\nabc\ndef\n",
            19,
        ),  # a flood
        (b"0123456789012345", 0, 9, b"", 0),
    ],  # a line without an end
    ids=["empty", "one", "half", "only half", "second", "cut off", "flood", "endless"],
)
def test_new_lines_are_whole_ones(
    tmp_path: Path, data: bytes, start: int, most: int, lines: bytes, end: int
) -> None:
    assert new_lines(log(tmp_path, data), start, most) == (lines, end)


def test_a_flooded_log_keeps_its_beginning_and_its_end_without_half_a_secret(
    tmp_path: Path,
) -> None:
    line = f"{TOKEN} flood\n".encode()
    path = log(tmp_path, b"boot: run ab12cd34\n" + line * 1000 + b"the last words\n")
    for size in range(200, 200 + 2 * len(line)):  # wherever the cuts fall
        told = whole(path, MASK, size, size).splitlines()
        assert told[0] == b"boot: run ab12cd34" and told[-1] == b"the last words"
        notes = [part for part in told if b"left out here" in part]
        assert len(notes) == 1 and set(told[1:-1]) - set(notes) == {b"*** flood"}


def test_a_log_that_fits_is_whole(tmp_path: Path) -> None:
    assert whole(log(tmp_path, f"a {TOKEN}\nhalf".encode()), MASK) == b"a ***\nhalf"
    assert b"cannot be read" in whole(tmp_path / "none", MASK)


@pytest.mark.parametrize("note", [None, "", "[]", '{"number": "x"}', '{"start": 3}'])
def test_the_first_part_begins_at_the_first_byte_whatever_the_note_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str | None
) -> None:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    log(tmp_path, b"boot\n")
    if note is not None:
        (tmp_path / "note").write_text(note)
    plan = make_plan("", "", run_id="ab12cd34", attempt=2)
    parts = LogParts(plan, MASK, tmp_path / "note")
    assert parts.next() == {"runs/ab12cd34/log/a2-part-0001.log": b"boot\n"}
    parts.sent()
    assert parts.next() == {}
    parts.sent()  # nothing was new: no number is used up
    log(tmp_path, b"boot\nmore\n")
    assert LogParts(plan, MASK, tmp_path / "note").next() == {
        "runs/ab12cd34/log/a2-part-0002.log": b"more\n"
    }


def test_no_log_is_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    assert LogParts(make_plan("", ""), MASK, tmp_path / "note").next() == {}
