"""The live line: redrawn in place, cut to the terminal, gone before a line that stays."""

from __future__ import annotations

import io

import pytest

from nanolan.cli.live_line import LiveLine, live_line


def test_a_line_is_replaced_cut_and_cleared_before_one_that_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    line = LiveLine(stream, lambda: 12)
    line.now("0:01 $0.10 booting and much more")
    line.now("two\nlines \x1b[2J")
    line.say("it stays")
    line.say("again")
    assert stream.getvalue() == "\r\x1b[K0:01 $0.10 \r\x1b[Ktwo lines ?\r\x1b[K"
    assert capsys.readouterr().err == "it stays\nagain\n"


def test_without_a_terminal_there_is_none() -> None:
    assert live_line() is None
