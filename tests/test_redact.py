"""The redacted stream: no secret and no escape sequence passes; otherwise it behaves like the stream behind it."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.redact import (
    NOTE,
    OUTPUT,
    SHOWN,
    STARS,
    RedactedStream,
    Secret,
    cursor_allowed,
    printable,
    redact_stream,
)
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER, TWIST

VALUE = f"sf-{MARKER}{TWIST}"
KEY = Secret(VALUE)


def through(*pieces: str, **how: bool) -> str:
    behind = io.StringIO()
    stream = RedactedStream(behind, **how)
    for piece in pieces:
        stream.write(piece)
    stream.flush()
    return behind.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        VALUE,
        quote(VALUE),
        quote(VALUE, safe=""),
        json.dumps({"k": VALUE}),
        repr([VALUE]),
        html.escape(VALUE),
        base64.b64encode(VALUE.encode()).decode(),
    ],
    ids=["raw", "path", "query", "JSON", "Python", "HTML", "base64"],
)
def test_a_secret_of_this_process_is_masked_in_every_form(text: str) -> None:
    shown = through(f"a {text} b\n")
    assert (
        MARKER not in shown and STARS in shown and shown.startswith("a ") and shown.endswith(" b\n")
    )


def test_a_secret_that_is_made_later_is_masked_from_then_on() -> None:
    behind = io.StringIO()
    stream = RedactedStream(behind)
    later = Secret("made-later-" + "x" * 9)
    stream.write(later.reveal() + "\n")
    assert behind.getvalue() == "***\n"


@given(
    st.lists(
        st.sampled_from([VALUE[:5], VALUE[5:9], VALUE[9:], VALUE, "a word ", "\n", "sf-"]),
        max_size=12,
    )
)
def test_a_secret_that_is_written_in_pieces_is_masked_and_the_rest_arrives(
    pieces: list[str],
) -> None:
    assert through(*pieces) == "".join(pieces).replace(VALUE, STARS)


@pytest.mark.parametrize(
    "foreign, shown",
    [
        ("\x1b]52;c;aGk=\x07", "?]52;c;aGk=?"),
        ("\x1b[2J\x1b[H", "?[2J?[H"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("a\rb", "a?b"),
        ("\x9b31m", "?31m"),
        ("\u202eabc", "?abc"),
        ("\x08\x7f\0", "???"),
        ("\ud800", "?"),
        ("a\tb\n", "a\tb\n"),
        ("caf\u00e9 \u2014 \U0001f600", "caf\u00e9 \u2014 \U0001f600"),
    ],
    ids=[
        "clipboard",
        "clear",
        "title",
        "return",
        "c1",
        "bidi",
        "delete",
        "surrogate",
        "tab",
        "words",
    ],
)
def test_nothing_drives_the_terminal(foreign: str, shown: str) -> None:
    assert through(foreign) == shown == printable(foreign)


@given(st.text(max_size=80))
def test_only_line_ends_and_tabs_pass_of_the_control_characters(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in through(text))


@pytest.mark.parametrize(
    "text, shown",
    [
        (
            "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[1A\x1b[?25l\r",
            "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[1A\x1b[?25l\r",
        ),
        ("\x1b]52;c;aGk=\x07", "?]52;c;aGk=?"),
        ("\x1b[6n\x1b[c\x1bPq\x1b\\", "?[6n?[c?Pq?\\"),
        (f"\x1b[1m{VALUE}\x1b[0m", "\x1b[1m***\x1b[0m"),
    ],
    ids=["rich", "clipboard", "questions", "secret"],
)
def test_a_drawing_stream_allows_only_cursor_moves_and_colours(text: str, shown: str) -> None:
    assert through(text, moves=True) == shown
    assert through(*text, moves=True) == shown, "character by character"


def test_the_first_secret_leaves_a_note_that_stays_in_the_log() -> None:
    assert (
        through("fine\n", f"with {VALUE}", " and\n", f"{VALUE}\n", note=True)
        == f"fine\nwith *** and\n{NOTE}\n***\n"
    )
    assert NOTE not in through("fine\n", "***\n", note=True) + through(f"{VALUE}\n")


def test_in_everything_else_it_behaves_like_the_stream_behind_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as f:
        stream = redact_stream(f)
        assert (stream.fileno(), stream.isatty(), stream.encoding, stream.name) == (
            f.fileno(),
            False,
            f.encoding,
            f.name,
        )
        assert (
            redact_stream(stream) is stream
            and redact_stream(None) is None
            and cursor_allowed(f) is f
        )
        assert stream.drawing.isatty() is False
        print("one", VALUE, file=stream)
        stream.writelines(["two\n", "three\n"])
        stream.buffer.write(f"four {VALUE}\n".encode())
        click.echo(f"five {VALUE}".encode(), file=stream)
    assert (tmp_path / "file").read_text() == "one ***\ntwo\nthree\nfour ***\nfive ***\n"
    with pytest.raises(TypeError):
        RedactedStream(io.StringIO()).write(b"bytes")  # type: ignore[arg-type]


PROGRAM = """
import sys
sys.path.insert(0, "scripts")
import click
from nanolan.cli.command import KeyValueCommand, run
from nanolan.errors import ApiProblem
from nanolan.redact import Secret

@click.command(cls=KeyValueCommand)
@click.argument("how")
def try_it(how):
    secret = Secret(sys.stdin.readline().strip() if how != "ask" else click.prompt("the \\x1b[2Jkey", err=True))
    if how == "error": raise ApiProblem(f"refused {secret.reveal()} \\x1b]0;x\\x07")
    if how == "fault": raise ValueError(f"{'x' * 280} {secret.reveal()}")
    if how == "ascii": click.echo(f"caf\\u00e9 {secret.reveal()}")
    click.echo(f"tty {sys.stdout.isatty()} {secret.reveal()}")
    return 0
run(try_it)
"""


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        input=VALUE + "\n",
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]} | env,
        timeout=30,
    )


@pytest.mark.parametrize(
    "words, code, err",
    [
        (("error",), 1, "error: refused *** ?]0;x?\n"),
        (("error", "--debug"), 1, "ApiProblem: refused ***"),
        (("fault",), 1, "a bug in nanolan"),
        (("fault", "--debug"), 1, "Traceback (most recent call last)"),
        (("fine",), 0, ""),
    ],
    ids=["error", "error with debug", "fault", "fault with debug", "fine"],
)
def test_errors_and_tracebacks_of_every_command_are_masked(
    words: tuple[str, ...], code: int, err: str
) -> None:
    done = command(*words)
    assert (
        done.returncode == code
        and err in done.stderr
        and MARKER[:8] not in done.stdout + done.stderr
    )
    assert (done.stdout == "tty False ***\n") == (code == 0)


def test_an_ascii_terminal_does_not_bypass_the_mask() -> None:
    done = command("ascii", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "***" in done.stdout and MARKER not in done.stdout + done.stderr


def test_a_terminal_is_still_a_terminal_and_prompts_work() -> None:
    main, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "ask"], stdin=other, stdout=other, stderr=other, cwd=ROOT
    )
    os.close(other)
    seen = b""
    try:
        while b"?[2Jkey: " not in seen:
            seen += os.read(main, 999)
        os.write(main, b"an-answer-of-mine\n")
        while b"tty" not in seen.rpartition(b"mine")[2] or not seen.endswith(b"\n"):
            seen += os.read(main, 999)
        assert child.wait(20) == 0 and b"tty True ***" in seen
    finally:
        child.kill()
        child.wait()
        os.close(main)


def shown_of(form: str, shown: str) -> bool:
    """Whether more of it in a row can be read than a flush shows at most."""
    most = len(form) // SHOWN + 2
    return any(form[i : i + most + 1] in shown for i in range(len(form) - most))


@pytest.mark.parametrize("flushed", [False, True], ids=["written", "flushed"])
@pytest.mark.parametrize(
    "shorter", ["", "short1", "hf_", "Qw7xTe", "Zebra7hf"], ids=lambda s: s or "alone"
)
def test_a_token_written_in_two_parts_is_masked_at_every_cut(flushed: bool, shorter: str) -> None:
    token = "hf_" + "Qw7xTe4M" * 3 + "cv9hZ"
    (
        Secret(token),
        Secret(shorter),
        Secret("Z" + "other1" * 3),
    )  # another one begins as the token ends
    for form in (
        token,
        base64.b64encode(b"x" + token.encode()).decode(),
        quote(f"{token}+/", safe=""),
    ):
        for cut in range(1, len(form)):
            behind = io.StringIO()
            stream = RedactedStream(behind)
            stream.write(form[:cut])
            if flushed:
                stream.flush()
            stream.write(form[cut:])
            stream.flush()
            assert STARS in behind.getvalue() and not shown_of(form, behind.getvalue()), (
                cut,
                behind.getvalue(),
            )


@given(
    st.lists(st.booleans(), min_size=len(VALUE), max_size=len(VALUE)),
    st.sampled_from(["", " ", "sf-", "a"]),
    st.sampled_from(["", "\n", " b\n", "sf-"]),
)
def test_a_secret_is_masked_at_every_flush(flushes: list[bool], before: str, after: str) -> None:
    behind = io.StringIO()
    stream = RedactedStream(behind)
    stream.write(before)
    for letter, flush in zip(VALUE, flushes, strict=True):
        stream.write(letter)
        if flush:
            stream.flush()
    stream.write(after)
    stream.flush()
    assert (
        not shown_of(VALUE, behind.getvalue())
        and behind.getvalue().startswith(before)
        and behind.getvalue().endswith(after)
    )


def test_a_prompt_that_ends_as_a_secret_begins_is_shown_at_once() -> None:
    behind = io.StringIO()
    stream = RedactedStream(behind)
    stream.write("type s")
    stream.flush()
    assert behind.getvalue() == "type s"
    stream.write("ay\n")
    assert behind.getvalue() == "type say\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("insist", [False, True])
def test_an_output_that_cannot_be_written_is_named_or_ignored_as_asked(insist: bool) -> None:
    behind = open("/dev/full", "w")  # noqa: SIM115  # its close fails, too
    stream = redact_stream(behind, insist=insist)
    stream.write("text\n")
    if insist:
        stream.flush()
    else:
        with pytest.raises(OSError, match="No space left") as e:
            stream.flush()
        assert e.value.filename == OUTPUT
    with pytest.raises(OSError):
        behind.close()
