"""A transfer shows how far it is, with rate and time left."""

from __future__ import annotations

import time

import pytest

from nanolan.cli.bar import progress_text, transfer_bar


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


def test_in_a_log_there_is_a_line_now_and_then() -> None:
    said: list[str] = []
    with transfer_bar("sft", 100, lambda: 50, said.append, terminal=False, every_s=0.01):
        time.sleep(0.1)
    assert said and said[0].startswith("  sft: 0 of 0 MB (50%)")


def test_on_a_terminal_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with transfer_bar("sft d20", 10**9, lambda: 10**8, said.append, terminal=True, every_s=0.01):
        time.sleep(0.1)
    assert not said and "sft d20" in capsys.readouterr().err


def test_an_error_of_the_transfer_passes_through() -> None:
    with pytest.raises(KeyError), transfer_bar("x", 1, lambda: 0, print, terminal=False):
        raise KeyError("x")
