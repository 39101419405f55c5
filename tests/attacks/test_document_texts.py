"""Hostile texts and patterns in documents."""

from __future__ import annotations

import json
import subprocess
import time

import msgspec
import pytest

from nanolan.errors import NotFound
from nanolan.redact import printable
from nanolan.report.model_card import new_card
from nanolan.run.causes import cause_of
from nanolan.run.postmortem import exception_of
from nanolan.run.record import read_progress
from nanolan.shadeform.ssh import run_bounded
from nanolan.status.closeup import TAIL_BYTES, newer
from nanolan.status.logs import fetch, shown, to_lines
from nanolan.status.text import render_run
from tests.fuzz import reading
from tests.support.core_fixtures import PLAN
from tests.support.pickle_fixtures import grown
from tests.support.report_fixtures import RECEIPT

CODES = (
    ("clipboard", "\x1b]52;c;cHduZWQ=\x07"),
    ("title", "\x1b]0;pwned\x07"),
    ("clear", "\x1b[2J\x1b[H"),
    ("cursor", "\x1b[1;1Hsucceeded"),
    ("C1", "\x9b2J"),
    ("bell", "\x07"),
    ("backspaces", "FAILED\b\b\b\b\b\b"),
    ("return", "FAILED\rproven"),
    ("turned round", "\u202eabc"),
    ("isolate", "\u2066abc"),
    ("link", "\x1b]8;;http://evil.invalid\x1b\\x\x1b]8;;\x1b\\"),
    ("answerback", "\x05"),
    ("DCS", "\x1bP$q\x1b\\"),
    ("no width", "a\u200bb"),
    ("half a pair", "\ud800"),
    ("line separator", "a\u2028b"),
    ("NUL", "\0"),
    ("delete", "\x7f"),
)


# ---- text that is shown
@pytest.mark.parametrize("text", [t for _, t in CODES], ids=[n for n, _ in CODES])
def test_text_of_others_drives_no_terminal(text: str) -> None:
    for line in (shown(text), *map(shown, to_lines(text))):
        assert printable(line).isprintable()
    told = msgspec.structs.replace(
        RECEIPT,
        message=text.encode(errors="replace").decode(),
        log=text.encode(errors="replace").decode(),
    )
    view = reading.RunView(
        reading.Entry(PLAN, "i-1", gone=True, receipt=told),
        "failed",
        text,
        receipt=told,
        log_tail=(text,),
        problems=(text,),
    )
    for line in render_run(view):
        assert printable(line).replace("\n", "").isprintable()


def test_a_machine_that_sends_without_end_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanolan.shadeform.ssh.MOST_BYTES", 1 << 20)
    before = grown()
    with pytest.raises(subprocess.TimeoutExpired):
        run_bounded(["yes"], timeout=60)
    with pytest.raises(NotFound, match="ssh: exit code -9"):
        fetch(["sleep", "60"], lambda argv, timeout, **how: run_bounded(argv[:2], timeout=0.1))
    assert run_bounded(["echo", "a"], timeout=60).stdout == b"a\n" and grown() - before < 50


SLOW = 50_000


README = (
    ("blank lines", "---\n" + "  \n" * 500 + "!\n---\n"),
    ("blanks", "---\n" + " " * SLOW + "\n!\n---\n"),
    ("dashes", "---\n" + "- : x\n" * 500 + "!\n---\n"),
    ("rules", "---\n" * 5000),
    ("beginnings", "<!-- nanolan:begin -->" * 5000),
    ("data", "<!-- nanolan:begin -->" + "<!-- nanolan:data " * 5000 + "<!-- nanolan:end -->"),
    ("keys", "---\n" + "a" * SLOW + "\n---\n"),
    (
        "deep data",
        "<!-- nanolan:begin --><!-- nanolan:data " + "[" * SLOW + " --><!-- nanolan:end -->",
    ),
    ("comments", "---\n" + "#\n" * 5000 + "!\n---\n"),
)


# ---- patterns that could take for ever
@pytest.mark.parametrize("text", [t for _, t in README], ids=[n for n, _ in README])
def test_no_readme_keeps_the_machine_from_its_end(text: str) -> None:
    """It is read while the machine waits to be deleted, and a pattern cannot be interrupted."""
    began = time.process_time()
    card = new_card(text, PLAN, RECEIPT, {"mid_checkpoints/d20"})
    assert time.process_time() - began < 2 and card.count("<!-- nanolan:end -->") >= 1


LOGS = (
    ("steps", "sft step 1/1 | loss 1.0 |" + " 1 tok/s |" * 5000),
    ("commas", "sft step 1/1 | loss 1.0 | " + "1," * SLOW),
    ("pipes", "a step 1/1 | loss 1.0 |" + "|" * SLOW),
    ("words", "a" * SLOW + "\n" + "sft step 1/1 | loss " * 2000),
    ("ranks", "[rank0]: " * 5000),
    ("tracebacks", "Traceback (most recent call last):\n" * 2000),
    ("memory", "CUDA out of memory " * 2000),
    ("brackets", "(" * SLOW),
    ("blanks", " " * SLOW),
    ("errors", "Error: " * 5000),
    ("Xid", "NVRM: Xid (" * 5000),
    ("not evaluated", "phase x: not evaluated: " * 2000),
)


@pytest.mark.parametrize("text", [t for _, t in LOGS], ids=[n for n, _ in LOGS])
def test_no_log_keeps_status_or_the_machine_busy(text: str) -> None:
    began = time.process_time()
    (
        cause_of(text),
        exception_of(text.splitlines()),
        newer(read_progress(json.dumps(reading.PROGRESS).encode()), text[-TAIL_BYTES:]),
        [shown(line) for line in to_lines(text)],
    )
    assert time.process_time() - began < 2
