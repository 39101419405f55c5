"""`just doctor`: checks every requirement concurrently, with a fix per line. Changes nothing, costs nothing."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from nanolan.checklist import Check
from nanolan.doctor.accounts import (
    inspect_datasets,
    inspect_identity,
    look_at_key,
    look_at_market,
    look_at_pickles,
    look_at_repo,
    look_at_structure,
    look_at_token,
)
from nanolan.doctor.context import DoctorContext
from nanolan.doctor.env_file import look_at_env, look_at_settings
from nanolan.doctor.leftovers import (
    look_at_instances,
    look_at_keys,
    look_at_ledger,
    look_at_rehearsals,
)
from nanolan.doctor.machine import look_at_clock, look_at_code, look_at_disk, look_at_tools
from nanolan.errors import NanolanError, TooManyRequests, Unreachable, WrongSetting
from nanolan.net.deadline import start_thread

LIMIT_S = 20.0  # for all looks together: they run at the same time
WIDTH = 80
NETWORK = "see that the network is up, then: just doctor"
STATES = {True: "ok", None: "note", False: "FAILED"}


@dataclass(frozen=True)
class Row:
    """One row of the table: what is looked at, under which heading, and how."""

    group: str
    name: str
    look: Callable[[DoctorContext], list[Check]]


ROWS = (
    Row("This machine", "tools", look_at_tools),
    Row("This machine", "disk", look_at_disk),
    Row("This machine", "code", look_at_code),
    Row("This machine", "clock", look_at_clock),
    Row("Settings", ".env", look_at_env),
    Row("Settings", "settings", look_at_settings),
    Row("Shadeform", "Shadeform key", look_at_key),
    Row("Shadeform", "offers", look_at_market),
    Row("Hugging Face Hub", "Hub token", look_at_token),
    Row("Hugging Face Hub", "HF_REPO", look_at_repo),
    Row("Hugging Face Hub", "structure", look_at_structure),
    Row("Hugging Face Hub", "safe to load", look_at_pickles),
    Row("Hugging Face Hub", "identity data", inspect_identity),
    Row("Hugging Face Hub", "data sets", inspect_datasets),
    Row("Left behind", "instances", look_at_instances),
    Row("Left behind", "ledger", look_at_ledger),
    Row("Left behind", "SSH keys", look_at_keys),
    Row("Left behind", "rehearsals", look_at_rehearsals),
)

Found = list[tuple[str, Check]]  # with the heading of each


def examine(
    p: DoctorContext,
    rows: Sequence[Row] = ROWS,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The results of all rows, in the table's order; a check that fails or takes too long is a result, too."""
    asked = [(row, start_thread(lambda look=row.look: look(p))) for row in rows]  # type: ignore[misc]
    end, hide = clock() + limit_s, p.s.mask().hide
    found: Found = []
    for row, answer in asked:
        for c in _found(row, answer, max(0.0, end - clock()), limit_s):
            again = c.ok is False and any(c.text == seen.text for _, seen in found)
            found.append(
                (
                    row.group,
                    Check(row.name, None, "not looked at: see above")
                    if again
                    else Check(c.name, c.ok, hide(c.text), hide(c.fix)),
                )
            )
    return found


def _found(row: Row, answer: Future[list[Check]], wait_s: float, limit_s: float) -> list[Check]:
    try:
        return answer.result(wait_s)
    except FutureTimeout:
        return [Check(row.name, False, f"no answer within {limit_s:.0f} s", NETWORK)]
    except NanolanError as e:
        down = isinstance(e, Unreachable) and not isinstance(e, (WrongSetting, TooManyRequests))
        return [
            Check(
                row.name,
                None if str(e).startswith("not looked at") else False,
                str(e).removesuffix(" Is the network up? Try again"),
                NETWORK if down else "",
            )
        ]
    except Exception as e:  # one failing check must not hide the others; unknown counts as failed
        return [
            Check(row.name, False, f"could not be looked at ({type(e).__name__}: {str(e)[:200]})")
        ]


def next_steps(found: Found) -> list[str]:
    """The fixes of what failed, each once, in the order in which to do them."""
    return list(dict.fromkeys(c.fix or c.text for _, c in found if c.ok is False))


def exit_code(found: Found) -> int:
    """0 when a launch could work, 4 when something failed."""
    return 4 if any(c.ok is False for _, c in found) else 0


def render(found: Found) -> Iterator[str]:
    """The report, for 80 columns."""
    heading = ""
    for group, c in found:
        if group != heading:
            yield f"\n{group}" if heading else group
            heading = group
        yield from _wrapped(f"  [{STATES[c.ok]:^6}] {c.name}: ", c.text)
        if c.fix:
            yield from _wrapped(" " * 11 + "-> ", c.fix)
    failed = sum(c.ok is False for _, c in found)
    notes = sum(c.ok is None for _, c in found)
    yield f"\n{len(found) - failed - notes} ok, {notes} to know, {failed} FAILED."
    if not failed:
        yield "A launch could start. See what it would cost: just dry-run"
        return
    yield "Do this first, in this order:"
    for number, step in enumerate(next_steps(found), 1):
        yield from _wrapped(f"  {number}. ", step)


def _wrapped(start: str, text: str) -> list[str]:
    """`text` after `start`; what does not fit goes under it. Commands and addresses are not cut in two."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * min(len(start), 14),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def to_dict(found: Found) -> dict[str, Any]:
    """For --json."""
    return {
        "schema_version": 1,
        "ok": exit_code(found) == 0,
        "next": next_steps(found),
        "checks": [
            {
                "group": group,
                "name": c.name,
                "state": STATES[c.ok],
                "text": c.text,
                "fix": c.fix or None,
            }
            for group, c in found
        ],
    }
