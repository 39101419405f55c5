"""Explains the state of a run: cause, cost, what was saved, what was lost, and the next command.

Read from postmortem.json if it exists; else from receipt, ledger and the end of the log. Pure, except
`look_into`.
"""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from nanolan.cost.spending import split
from nanolan.hub.client import Hub
from nanolan.money import dollars, usd
from nanolan.phases import gate_that_opens
from nanolan.run.causes import Cause, by_reason, cause_of, describe, explain
from nanolan.run.postmortem import Postmortem, exception_of, of_attempt
from nanolan.run.record import ENDED, SILENT_S, STOPPED, SUCCEEDED
from nanolan.status.logs import age, end_of_log
from nanolan.status.text import trouble_text
from nanolan.status.view import SHORT, RunView
from nanolan.times import local_text, now_utc, parse_time

WIDTH = 80
BIGGER = "a GPU with more memory"  # when not even one row fits
BOOT_S = 45 * 60  # from a create to the first report
NOT_EVALUATED = re.compile(r"phase (\w+): not evaluated: (.*)")
GATE_TOLD = re.compile(r"Go on: just resume \w+ (gate=none|'gate=\w+[<>]=?-?[0-9.]+')")
UNSAVED = re.compile(r"NOT saved: (.*?)(?:\. Go on|$)")


@dataclass(frozen=True)
class Why:
    """The answer."""

    run_id: str
    state: str
    cause: str  # in one line
    name: str = ""  # the row of nanolan/run/causes.py; "" when nothing is wrong
    advice: str = ""
    next: str = ""  # the exact command
    phase: str = ""
    exception: str = ""  # its last line
    kernel: tuple[str, ...] = ()
    spent_cents: int | None = None
    limit_cents: int = 0
    stages: dict[str, int] = field(default_factory=dict)  # cents
    saved: tuple[str, ...] = ()
    lost: str = ""
    log: str = ""  # path of the whole log in RUNS_REPO
    notes: tuple[str, ...] = ()  # what went wrong without ending the run
    problems: tuple[str, ...] = ()  # look-ups that failed


def look_into(hub: Hub, view: RunView, problems: tuple[str, ...] = ()) -> Why:
    """The answer, including the run folder's records of the end. A failed read is a problem, never "nothing"."""
    told = [*problems]
    box = of_attempt(hub, view.entry.plan, told) if view.state in ENDED else None
    log = end_of_log(hub, view, told) if view.state in ENDED and not (box and box.cause) else ""
    found = answer(view, box, log)
    return replace(found, problems=tuple(dict.fromkeys((*found.problems, *told))))


def answer(v: RunView, box: Postmortem | None, log: str = "", now: datetime | None = None) -> Why:
    """Explain `v`; `log` is the end of its log, or ""."""
    plan, ended = v.entry.plan, v.state in SHORT or v.state == SUCCEEDED
    notes = [
        f"attempt {a.number} before it: {dollars(a.spent_cents)}, {a.note}" for a in v.entry.earlier
    ]
    notes += [f"{phase} was not evaluated: {why}" for phase, why in NOT_EVALUATED.findall(log)]
    notes += [v.receipt.warning] if v.receipt and v.receipt.warning else []
    base = Why(
        plan.run_id,
        v.state,
        "",
        spent_cents=v.spent_cents,
        limit_cents=plan.limit_cents,
        problems=v.problems,
        stages=split(v.receipt, plan.offer.hourly_cents) if v.receipt else {},
        saved=saved(v),
        log=v.receipt.log if v.receipt else "",
        notes=tuple(notes),
    )
    if v.state not in SHORT:
        silent_s = 0 if ended or v.entry.waiting else too_silent_s(v, now or now_utc())
        return replace(
            base,
            cause=nothing_heard(v, silent_s) if silent_s else nothing_wrong(v),
            next=""
            if ended
            else f"just {'ssh' if silent_s and v.instance else 'watch'} {plan.run_id}",
        )
    found, cause = the_cause(v, box, log)
    exception = (box.exception if box else exception_of(log.splitlines()))[-1:]
    return replace(
        base,
        cause=cause,
        name=found.name,
        advice=found.advice.replace("{run}", plan.run_id),
        next=next_command(v, found),
        phase=box.phase if box else "",
        exception="".join(exception)[:200],
        kernel=box.kernel if box else (),
        lost=lost(v, box),
    )


def nothing_wrong(v: RunView) -> str:
    """Of a run that goes on, or that succeeded."""
    if v.state == SUCCEEDED:
        return "nothing went wrong: every phase is proven on the Hub"
    reason = f" ({v.reason})" if v.reason else ""
    reported = f", reported {age(v.progress.updated)} ago" if v.progress else ""
    if v.progress and v.progress.trouble:
        return f"{stands(v)}, but {trouble_text(v)}{reported}"
    return (
        f"nothing is wrong: {stands(v)}{reason}{reported}"
        if not v.problems
        else f"{stands(v)}, as far as is known{reason}{reported}"
    )


def too_silent_s(v: RunView, now: datetime) -> float:
    """Seconds without a report from a running run, if that is too long; else 0."""
    since, most_s = (
        (v.progress.updated, SILENT_S) if v.progress else (v.entry.plan.created_at, BOOT_S)
    )
    silent_s = (now - parse_time(since)).total_seconds()
    return silent_s if silent_s > most_s else 0


def nothing_heard(v: RunView, silent_s: float) -> str:
    return (
        f"no heartbeat for {silent_s / 60:.0f} minutes: {stands(v)}. It deletes itself at "
        f"{dollars(v.entry.plan.limit_cents)} or {local_text(v.entry.plan.deadline)} at the latest"
    )


def stands(v: RunView) -> str:
    """Where it is."""
    return v.state + (
        f", step {v.progress.step} of {v.progress.steps}"
        if v.progress and v.progress.step is not None
        else ""
    )


def the_cause(v: RunView, box: Postmortem | None, log: str) -> tuple[Cause, str]:
    """The row of the causes and the cause in one line."""
    if box and box.cause:
        return by_reason(box.reason, v.receipt.message if v.receipt else ""), box.cause
    reason, told = (v.receipt.reason, v.receipt.message) if v.receipt else ("", v.reason)
    if v.entry.waiting:
        return by_reason("no_offer", told), describe(by_reason("no_offer", told), told)
    if not v.receipt and v.state == STOPPED:
        reason = "user"
    if reason == "trainer_failed":
        reason = cause_of(log)[0]
    stage, step = (v.progress.stage, v.progress.step) if v.progress else ("", None)
    kernel = box.kernel if box else ()
    found = explain(reason or "error", told, kernel)
    return found, describe(found, told, stage, step, kernel)


def next_command(v: RunView, cause: Cause) -> str:
    """The next command: resume, look again, or stop an instance that still bills."""
    plan = v.entry.plan
    if v.instance and v.instance.billing:
        return f"just stop {plan.run_id} --now"
    life_s = (parse_time(plan.deadline) - parse_time(plan.created_at)).total_seconds()
    spent = sum(c or 0 for c in (v.spent_cents, *(a.spent_cents for a in v.entry.earlier)))
    words = cause.words.format(
        limit=spent // 100 + plan.limit_cents // 100 + 1, hours=math.ceil(2 * life_s / 3600)
    )
    if words.startswith("batch=") and (rows := rows_tried(v)):
        words = f"batch={rows // 2}" if rows > 1 else BIGGER
    if cause.name == "gate":
        words = another_gate(v)
    if cause.command == "offers" or words == BIGGER:
        return "just offers --all-configs"
    verb = (
        f"resume {plan.run_id}"
        if cause.command == "resume"
        else f"launch phase={'+'.join(plan.phases)}"
    )
    return f"just {verb} {words}".rstrip()


def another_gate(v: RunView) -> str:
    """A gate= option that the last proven phase passes: the one that the box has named, or else from what was measured."""
    if v.receipt and (told := GATE_TOLD.search(v.receipt.message)):
        return told[1]
    if v.entry.plan.gate is None:
        return ""
    measured = [r.measured for r in v.phases.values() if r.measured]
    return gate_that_opens(v.entry.plan.gate, measured[-1] if measured else {})


def rows_tried(v: RunView) -> int | None:
    """Rows per GPU that were too many: from the trainer's message, else from the plan."""
    said = re.search(r"at (\d+) row", v.receipt.message) if v.receipt else None
    return int(said[1]) if said else v.entry.plan.batch


def saved(v: RunView) -> tuple[str, ...]:
    """What is proven on the Hub."""
    whole = [
        f"{p} whole, {r.folder} step {r.step}" for p, r in v.phases.items() if r.state == "proven"
    ]
    return (
        *whole,
        *([f"{v.saved.phase} step {v.saved.step}, {v.saved.folder}"] if v.saved else []),
    )


def lost(v: RunView, box: Postmortem | None) -> str:
    """Trained steps that were not saved, as far as is known."""
    if v.receipt and (m := UNSAVED.search(v.receipt.message)):
        return m[1]
    step, phase = (
        (box.step, box.phase) if box else (v.progress.step, "") if v.progress else (None, "")
    )
    left = [p for p, r in v.phases.items() if r.state != "proven"]
    if not step or not left or phase and phase != left[0]:
        return (
            "nothing that was trained"
            if v.receipt or not v.progress
            else "unknown: it did not report in time"
        )
    kept = v.saved.step if v.saved and v.saved.phase == left[0] else 0
    if kept and v.entry.plan.fork:
        return f"the place in {left[0]}: it starts again, with the weights of step {kept}"
    if step <= kept:
        return "nothing that was trained"
    more = "" if v.receipt else ", and what it did after its last report"
    return f"steps {kept + 1} to {step} of {left[0]}{more}"


# ------------------------------------------------------------------ shown
def render(w: Why) -> list[str]:
    """As text of 80 columns (commands may be longer)."""
    lines = [f"run {w.run_id} {w.state}", *_wrapped("  cause     ", w.cause)]
    for head, text in (
        ("phase", w.phase),
        ("error", w.exception),
        *(("kernel", k) for k in w.kernel[-3:]),
    ):
        lines += _wrapped(f"  {head:<10}", text)
    lines += _wrapped("  money     ", money(w))
    for text in w.saved or (("nothing",) if w.name else ()):
        lines += _wrapped("  saved     ", text)
    lines += _wrapped("  lost      ", w.lost)
    for note in w.notes:
        lines += _wrapped("  note      ", note)
    lines += _wrapped("  advice    ", w.advice)
    lines += [f"  next      {w.next}"] if w.next else []
    lines += [f"  log       just logs {w.run_id}"] if w.log or w.name else []
    for problem in w.problems:
        lines += _wrapped("  unavailable: ", problem)
    return lines


def money(w: Why) -> str:
    """What was spent, and on what."""
    parts = ", ".join(f"{stage} {dollars(c)}" for stage, c in w.stages.items() if c)
    return f"{dollars(w.spent_cents)} of {dollars(w.limit_cents)} spent{parts and f': {parts}'}"


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * 12, break_on_hyphens=False
    )


def to_dict(w: Why) -> dict[str, Any]:
    """For --json: money in dollars as text, unknown is null."""
    return {
        "schema_version": 1,
        "run_id": w.run_id,
        "state": w.state,
        "cause": w.cause,
        "reason": w.name or None,
        "phase": w.phase or None,
        "exception": w.exception or None,
        "kernel": list(w.kernel),
        "spent_usd": usd(w.spent_cents),
        "limit_usd": usd(w.limit_cents),
        "stages_usd": {s: usd(c) for s, c in w.stages.items()},
        "saved": list(w.saved),
        "lost": w.lost or None,
        "notes": list(w.notes),
        "advice": w.advice or None,
        "next": w.next or None,
        "log": w.log or None,
        "problems": list(w.problems),
    }
