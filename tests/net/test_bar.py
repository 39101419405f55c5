"""A transfer shows how far it is, with rate and time left."""

from __future__ import annotations

import time
from itertools import count

import pytest

from nanolan.net.bar import LogLines, progress_text, transfer_bar


@pytest.mark.parametrize(
    "done, before, seconds, text",
    [
        (412_000_000, 0, 16.0, "412 of 1,004 MB (41%), 25.8 MB/s, 0:00:23 left"),
        (412_000_000, 412_000_000, 16.0, "412 of 1,004 MB (41%)"),
        (0, 0, 0.0, "0 of 1,004 MB (0%)"),
        (1_004_000_000, 4_000_000, 10.0, "1,004 of 1,004 MB (100%), 100.0 MB/s, 0:00:00 left"),
    ],
)
def test_the_text_has_rate_and_time_left(done: int, before: int, seconds: float, text: str) -> None:
    assert progress_text(done, before, 1_004_000_000, seconds) == text


@pytest.mark.parametrize(
    "size_mb, mb_per_s, stalled_s, at",
    [
        (900, 100, 0, []),  # over in 9 s
        (1000, 10, 0, [10, 20, 30, 40, 50, 60, 70, 80, 90]),  # 10 % in 10 s
        (4000, 100, 0, [10, 20, 30]),  # 25 % in 10 s: no two lines within 10 s
        (3600, 1, 0, [10, *range(70, 3600, 60)]),  # an hour: a line a minute
        (100, 10, 200, [10, 70, 130, 190, 201]),  # nothing arrives at first
    ],
)
def test_a_log_gets_a_line_for_each_tenth_but_none_within_ten_seconds(
    size_mb: int, mb_per_s: int, stalled_s: int, at: list[int]
) -> None:
    lines = LogLines("sft d20", size_mb * 10**6, 0)
    said = {}
    for seconds in range(1, stalled_s + size_mb // mb_per_s):
        done = max(0, seconds - stalled_s) * mb_per_s * 10**6
        if line := lines.line(done, seconds):
            said[seconds] = line
    assert [*said] == at
    assert all(line.startswith("  sft d20: ") for line in said.values())


def test_what_was_there_before_does_not_count_as_speed() -> None:
    line = LogLines("sft", 10**9, 9 * 10**8).line(91 * 10**7, 10.0)
    assert line == "  sft: 910 of 1,000 MB (91%), 1.0 MB/s, 0:01:30 left"


def test_in_a_log_there_is_a_line_now_and_then() -> None:
    said: list[str] = []
    clock = count(step=4.0)
    with transfer_bar(
        "sft",
        10**9,
        lambda: 5 * 10**8,
        said.append,
        terminal=False,
        clock=lambda: next(clock),
        every_s=0.01,
    ):
        time.sleep(0.1)
    assert said and said[0] == "  sft: 500 of 1,000 MB (50%)"


def test_in_a_log_a_short_transfer_says_nothing() -> None:
    said: list[str] = []
    with transfer_bar("sft", 100, lambda: 50, said.append, terminal=False, every_s=0.01):
        time.sleep(0.05)
    assert said == []


def test_on_a_terminal_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with transfer_bar("sft d20", 10**9, lambda: 10**8, said.append, terminal=True, every_s=0.01):
        time.sleep(0.1)
    assert not said and "sft d20" in capsys.readouterr().err


def test_an_error_of_the_transfer_passes_through() -> None:
    with pytest.raises(KeyError), transfer_bar("x", 1, lambda: 0, print, terminal=False):
        raise KeyError("x")
