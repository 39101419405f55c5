"""postmortem.json: the record that a run leaves when it ends short, and its readers."""

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
NOT_TELLING = (
    "ChildFailedError",
    "SignalException",
)  # raised by torchrun after the rank's exception
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
    not_seen: dict[str, str] = {}  # by probe: why not
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
    """The record of this attempt, if there is one; None and a problem when it cannot be read."""
    try:
        box = read_postmortem(hub.read(plan.runs_repo, f"{plan.folder}/{NAME}"))
    except NotFound:
        return None
    except NanolanError as e:
        problems.append(str(e))
        return None
    return box if (box.run_id, box.attempt) == (plan.run_id, plan.attempt) else None


def exception_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The newest traceback that says what went wrong, up to its exception; ranks and torchrun write between each other's lines."""
    blocks: list[list[str]] = []
    open_blocks: dict[str, list[str]] = {}  # by the rank that writes it
    for line in lines:
        rank = RANK.match(line)
        who, text = (rank[1], line[rank.end() :]) if rank else ("", line)
        if text == TRACEBACK:
            open_blocks[who] = []
            blocks.append(open_blocks[who])
        elif TORCHRUN.match(text):
            continue
        if who in open_blocks:
            open_blocks[who].append(line)
            if not text.startswith((" ", "Traceback ")):
                del open_blocks[who]
    telling = [b for b in blocks if not any(word in b[-1] for word in NOT_TELLING)]
    return tuple(telling[-1]) if telling else ()


def stacks_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The stacks that the ranks printed."""
    found: list[str] = []
    inside = False
    for line in lines:
        inside = bool(STACK.match(line)) or inside and line.startswith("  File ")
        if inside:
            found.append(line)
    return tuple(found[-MOST_STACK_LINES:])
