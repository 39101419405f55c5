"""`just doctor`: checks every requirement concurrently, with a fix per line. Changes nothing, costs nothing."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Any

from nanolan.checklist import Check
from nanolan.doctor.accounts import (
    check_datasets,
    check_identity,
    check_key,
    check_offers,
    check_pickles,
    check_repo,
    check_structure,
    check_token,
)
from nanolan.doctor.context import DoctorContext
from nanolan.doctor.env_file import check_env, check_settings
from nanolan.doctor.leftovers import (
    check_instances,
    check_ledger,
    check_rehearsals,
    check_ssh_keys,
)
from nanolan.doctor.machine import NETWORK, check_clock, check_code, check_disk, check_tools
from nanolan.errors import NanolanError, TooManyRequests, Unreachable, WrongSetting
from nanolan.net.deadline import start_thread

LIMIT_S = 20.0  # for all checks together: they run concurrently
WIDTH = 80
STATES = {True: "ok", None: "note", False: "FAILED"}


@dataclass(frozen=True)
class Row:
    """One row of the table: its heading, its name and its check."""

    group: str
    name: str
    check: Callable[[DoctorContext], list[Check]]


ROWS = (
    Row("This machine", "tools", check_tools),
    Row("This machine", "disk", check_disk),
    Row("This machine", "code", check_code),
    Row("This machine", "clock", check_clock),
    Row("Settings", ".env", check_env),
    Row("Settings", "settings", check_settings),
    Row("Shadeform", "Shadeform key", check_key),
    Row("Shadeform", "offers", check_offers),
    Row("Hugging Face Hub", "Hub token", check_token),
    Row("Hugging Face Hub", "HF_REPO", check_repo),
    Row("Hugging Face Hub", "structure", check_structure),
    Row("Hugging Face Hub", "safe to load", check_pickles),
    Row("Hugging Face Hub", "identity data", check_identity),
    Row("Hugging Face Hub", "data sets", check_datasets),
    Row("Left behind", "instances", check_instances),
    Row("Left behind", "ledger", check_ledger),
    Row("Left behind", "SSH keys", check_ssh_keys),
    Row("Left behind", "rehearsals", check_rehearsals),
)

Found = list[tuple[str, Check]]  # heading and check


def run_checks(
    context: DoctorContext,
    rows: Sequence[Row] = ROWS,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The results of all rows, in the table's order; a check that raises or takes too long counts as failed."""
    started = [(row, start_thread(partial(row.check, context))) for row in rows]
    end = clock() + limit_s
    hide = context.settings.mask().hide
    found: Found = []
    for row, answer in started:
        for c in _results(row, answer, max(0.0, end - clock()), limit_s):
            repeated = c.ok is False and any(c.text == seen.text for _, seen in found)
            found.append(
                (
                    row.group,
                    Check(row.name, None, "not checked: see above")
                    if repeated
                    else Check(c.name, c.ok, hide(c.text), hide(c.fix)),
                )
            )
    return found


def _results(row: Row, answer: Future[list[Check]], wait_s: float, limit_s: float) -> list[Check]:
    try:
        return answer.result(wait_s)
    except FutureTimeout:
        return [Check(row.name, False, f"no answer within {limit_s:.0f} s", NETWORK)]
    except NanolanError as e:
        down = isinstance(e, Unreachable) and not isinstance(e, (WrongSetting, TooManyRequests))
        return [
            Check(
                row.name,
                None if str(e).startswith("not checked") else False,
                str(e).removesuffix(" Is the network up? Try again"),
                NETWORK if down else "",
            )
        ]
    except Exception as e:  # a crashed check must not hide the others, and counts as failed
        return [
            Check(row.name, False, f"could not be checked ({type(e).__name__}: {str(e)[:200]})")
        ]


def next_steps(found: Found) -> list[str]:
    """The fixes of the failed checks, in the order in which to do them, without duplicates."""
    return list(dict.fromkeys(c.fix or c.text for _, c in found if c.ok is False))


def exit_code(found: Found) -> int:
    """0 when a launch can work, 4 when a check failed."""
    return 4 if any(c.ok is False for _, c in found) else 0


def render(found: Found) -> Iterator[str]:
    """The report, in 80 columns."""
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
    yield f"\n{len(found) - failed - notes} ok, {notes} notes, {failed} FAILED."
    if not failed:
        yield "A launch can start. To see its cost: just dry-run"
        return
    yield "Do this first, in this order:"
    for number, step in enumerate(next_steps(found), 1):
        yield from _wrapped(f"  {number}. ", step)


def _wrapped(start: str, text: str) -> list[str]:
    """`start` and `text`, wrapped to WIDTH. Commands and addresses are not split."""
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
