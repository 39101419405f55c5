"""postmortem.json: the record that a run leaves when it ends early, and its readers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from nanolan.errors import BadAnswer, NanolanError, NotFound
from nanolan.hub.client import Hub
from nanolan.plan import UNREADABLE, Plan

NAME = "postmortem.json"  # in the run folder
MOST_STACK_LINES = 500
TRACEBACK = "Traceback (most recent call last):"
RANK = re.compile(r"(\[rank\d+\]): ?")
TORCHRUN = re.compile(r"[WEI]\d{4} \d\d:")  # a line of its log
# raised by torchrun after the rank's exception
SECONDARY = ("ChildFailedError", "SignalException")
STACK = re.compile(r"^(Current thread|Thread) 0x")


class Postmortem(msgspec.Struct, frozen=True):
    """postmortem.json."""

    run_id: str
    reason: str  # a row of nanolan/run/causes.py
    cause: str  # in one line
    attempt: int = 1
    at: str = ""
    verdict: str = ""
    message: str = ""
    phase: str = ""
    stage: str = ""
    step: int | None = None
    exception: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()  # of a trainer that hung
    seen: dict[str, list[str] | dict[str, Any]] = {}  # by probe: lines, or values
    not_seen: dict[str, str] = {}  # by probe: why it failed
    log: tuple[str, ...] = ()  # the last lines
    plan: dict[str, Any] = {}

    @property
    def kernel(self) -> tuple[str, ...]:
        """The kernel's lines."""
        lines = self.seen.get("kernel")
        return tuple(lines) if isinstance(lines, list) else ()


def read_postmortem(data: bytes) -> Postmortem:
    """Decode a Postmortem from JSON; raises BadAnswer."""
    try:
        return msgspec.json.decode(data, type=Postmortem)
    except UNREADABLE as e:
        raise BadAnswer(f"postmortem.json cannot be read: {str(e)[:200]}") from None


def of_attempt(hub: Hub, plan: Plan, problems: list[str]) -> Postmortem | None:
    """The record of this attempt, or None; a failed read is added to `problems`."""
    try:
        record = read_postmortem(hub.read(plan.runs_repo, f"{plan.folder}/{NAME}"))
    except NotFound:
        return None
    except NanolanError as e:
        problems.append(str(e))
        return None
    return record if (record.run_id, record.attempt) == (plan.run_id, plan.attempt) else None


def exception_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The newest traceback that says what went wrong, with its exception. Lines of ranks and torchrun may be interleaved."""
    blocks: list[list[str]] = []
    open_blocks: dict[str, list[str]] = {}  # by the rank that writes it
    for line in lines:
        rank = RANK.match(line)
        writer, text = (rank[1], line[rank.end() :]) if rank else ("", line)
        if text == TRACEBACK:
            open_blocks[writer] = []
            blocks.append(open_blocks[writer])
        elif TORCHRUN.match(text):
            continue
        if writer in open_blocks:
            open_blocks[writer].append(line)
            if not text.startswith((" ", "Traceback ")):
                del open_blocks[writer]
    primary = [b for b in blocks if not any(word in b[-1] for word in SECONDARY)]
    return tuple(primary[-1]) if primary else ()


def stacks_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The stacks that the ranks printed."""
    found: list[str] = []
    inside = False
    for line in lines:
        inside = bool(STACK.match(line)) or inside and line.startswith("  File ")
        if inside:
            found.append(line)
    return tuple(found[-MOST_STACK_LINES:])
