"""Failed checks are seen at once on a terminal; a log has no colours."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from nanolan.checklist import Check
from nanolan.cli.marks import coloured, has_colour, say_checks
from nanolan.redact import Secret, redact_stream
from tests.support.core_fixtures import script
from tests.support.terminal import at_terminal

RED, YELLOW, PLAIN = "\x1b[1;31m", "\x1b[33m", "\x1b[0m"


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "line, shown",
    [
        (Check("a", True, "b").line(), "  [  ok  ] a: b"),
        (Check("a", False, "b").line(), f"  {RED}[FAILED]{PLAIN} a: b"),
        (Check("a", None, "b").line(), f"  {YELLOW}[  --  ]{PLAIN} a: b"),
        ("  [ note ] a: b", f"  {YELLOW}[ note ]{PLAIN} a: b"),
        ("Bill: [FAILED]", "Bill: [FAILED]"),  # not at its place
        ("  [FAILED] \x1b[2J\x07", f"  {RED}[FAILED]{PLAIN} ?[2J?"),  # a text of a service
    ],
)
def test_the_mark_alone_is_coloured_and_no_text_moves_the_cursor(line: str, shown: str) -> None:
    assert coloured(line) == shown


@pytest.mark.parametrize(
    "terminal, environ, colour",
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),  # no-color.org: set and not empty
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_a_terminal_whose_user_wants_it(
    terminal: bool, environ: dict[str, str], colour: bool
) -> None:
    assert has_colour(Screen() if terminal else io.StringIO(), environ) is colour


def test_on_a_terminal_colours_pass_the_filter_and_secrets_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    secret, screen = Secret("hf_abcdefgh12345"), Screen()
    say_checks(f"  [FAILED] key: {secret.reveal()}\nnext", redact_stream(screen))
    assert screen.getvalue() == f"  {RED}[FAILED]{PLAIN} key: ***\nnext\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_doctor_at_a_terminal_marks_what_failed(no_color: bool, tmp_path: Path) -> None:
    env = bare_env(tmp_path) | {"TERM": "xterm"} | ({"NO_COLOR": "1"} if no_color else {})
    code, seen, _ = at_terminal("doctor", env=env, stdout=True)
    assert code == 4 and b"[FAILED]" in seen
    assert (f"{RED}[FAILED]{PLAIN}".encode() in seen) is not no_color
    assert (b"\x1b" in seen) is not no_color


def test_doctor_in_a_pipe_has_no_colours(tmp_path: Path) -> None:
    done = script("doctor", env=bare_env(tmp_path) | {"TERM": "xterm"})
    assert "[FAILED]" in done.stdout and "\x1b" not in done.stdout


def bare_env(home: Path) -> dict[str, str]:
    """A user without any setting, and services that refuse the connection."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
    nowhere = dict.fromkeys(("SHADEFORM_API", "HF_ENDPOINT"), "http://127.0.0.1:1")
    return kept | nowhere | {"NANOLAN_HOME": str(home), "NANOLAN_ENV_FILE": os.devnull}
