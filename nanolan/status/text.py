"""Renders an overview as text of 80 columns. Pure."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from datetime import datetime, timedelta

from nanolan.cost.projection import Projection, project
from nanolan.cost.spending import split, waste
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.run.record import STOPPED, SUCCEEDED, PhaseReport, Progress, Receipt
from nanolan.shadeform.models import Instance
from nanolan.shadeform.ssh import has_address
from nanolan.status.view import SHORT, Overview, RunView
from nanolan.times import local_text, now_utc, parse_time

WIDTH = 80
MOST_TAIL = 600  # characters of a line of the log


def render(o: Overview) -> list[str]:
    """The overview as text lines of at most 80 columns (commands to copy may be longer)."""
    lines: list[str] = []
    for v in o.runs:
        lines += [*render_run(v), ""]
    for i in o.strays:
        lines += [
            f"{stray_head(o, i)}: {i.name}",
            f"  {i.status}, {dollars(i.hourly_cents)}/h; stop it: just stop {i.id}",
        ]
    for i in o.unasked:
        lines += _wrapped(
            "",
            f"run {i.run_id or '?'}: {i.name} ({i.id}), {i.status}, {dollars(i.hourly_cents)}/h, in the ledger",
        )
    if o.others:
        some = f"{len(o.others)} other instance{'s' * (len(o.others) > 1)}"
        lines.append(f"{some} on this account, {dollars(rate_of(o.others))}/h, not ours")
        for i in o.others:
            lines += _wrapped("  ", f"{i.name} ({i.id}), {i.status}, {dollars(i.hourly_cents)}/h")
    for p in o.problems:
        lines += _wrapped("unavailable: ", p)
    for gap in o.gaps:
        lines += _wrapped("note: ", gap)
    return lines or [
        "No run yet. Start one: just launch phase=sft   (or, for nothing: just rehearse)"
    ]


def rate_of(machines: Sequence[Instance]) -> int | None:
    """Cents per hour of all of them; None when a price is unknown."""
    prices = [i.hourly_cents for i in machines]
    return None if None in prices else sum(p for p in prices if p is not None)


def stray_head(o: Overview, i: Instance) -> str:
    """The heading of an unattended machine."""
    why = o.why.get(i.id, "")
    return "NOT IN THE LEDGER" if "not in the ledger" in why or not why else f"UNATTENDED ({why})"


def render_run(v: RunView) -> list[str]:
    """One run as a block of lines."""
    plan = v.entry.plan
    head = f"run {plan.run_id}  {plan.run_name}  {'+'.join(plan.phases)}  {plan.output_tag}"
    lines = [f"{head}  {v.state.upper():>{max(0, 78 - len(head))}}"]
    if v.reason:
        lines += _wrapped("  why       ", v.reason)
    if v.entry.waiting:
        return lines + _unrented(v)
    if v.progress and not v.receipt and v.progress.step is not None:
        lines += _wrapped("  step      ", _step(v.progress))
    lines += _wrapped("  TROUBLE   ", trouble_text(v))
    lines.append(f"  money     {_money(v)}")
    if changed := v.changed():
        lines += _wrapped("  WARNING   ", f"the provider changed the terms: {changed}")
    lines += _clock(v)
    lines.append(f"  machine   {_machine(v)}")
    if v.instance and v.instance.billing and v.instance.ip:
        lines.append(f"  shell     just ssh {plan.run_id}")
        lines += (
            [f"  {ssh_command(v.instance, plan.instance_name)}"] if has_address(v.instance) else []
        )
    for p, r in v.phases.items():
        lines.append(f"  {p:<9} {_phase(r, v.state)}")
        if r.measured:
            lines += _wrapped(
                "            ",
                ", ".join(
                    f"{name} {value:.3g}"
                    for name, value in r.measured.items()
                    if name != "chatcore_tasks"
                ),
            )
    lines += _earlier(v)
    if v.saved:
        lines.append(
            f"  saved     {v.saved.phase} step {v.saved.step} ({v.saved.files.size / 1e6:,.1f} MB"
            f"{', the weights alone' if v.entry.plan.fork else ''})"
        )
    if v.resumable:
        lines.append(f"  go on     {resume_command(v)}")
    if v.state in SHORT:
        lines.append(f"  more      just why {plan.run_id}")
    if v.receipt:
        lines += _wrapped("  WARNING   ", v.receipt.warning) + _bill(v.receipt, plan)
        lines += _wrapped("  log       ", v.receipt.log)
    if v.state == SUCCEEDED:
        lines += _commands(next_steps(v))
    if v.state != SUCCEEDED:
        lines += [row for line in v.log_tail for row in _tail_rows(line)]
    for p in v.problems:
        lines += _wrapped("  unavailable: ", p)
    return lines


def _unrented(v: RunView) -> list[str]:
    """The rest of the block of a run that waits for an offer, or did: its plan has no offer yet."""
    plan, goes_on = v.entry.plan, not v.ended
    limit = f"; at most {dollars(plan.limit_cents)} once it is" if goes_on else ""
    lines = [f"  money     nothing is rented{limit}", *_earlier(v)]
    if goes_on:
        lines.append(f"  end it    just stop {plan.run_id}")
    for p in v.problems:
        lines += _wrapped("  unavailable: ", p)
    return lines


def _earlier(v: RunView) -> list[str]:
    return [
        row
        for a in v.entry.earlier
        for row in _wrapped(
            "  earlier   ", f"attempt {a.number}: {dollars(a.spent_cents)}, {a.note}"
        )
    ]


def _wrapped(head: str, text: str) -> list[str]:
    """Lines of at most WIDTH columns, except for what must not be broken."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * min(len(head), 12),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _tail_rows(line: str) -> list[str]:
    """A line of the log, whole: its end often is the cause. Of an overlong one the middle is left out."""
    if len(line) > MOST_TAIL:
        line = f"{line[: MOST_TAIL // 2]} ... {line[-MOST_TAIL // 2 :]}"
    return textwrap.wrap(line, WIDTH, initial_indent="    | ", subsequent_indent="    |   ")


def next_steps(v: RunView) -> list[str]:
    """What to type after a success."""
    plan = v.entry.plan
    tag = f" output-tag={plan.output_tag}" if plan.output_tag != plan.model_tag else ""
    use = [] if plan.fork else [f"just pull {plan.phases[-1]}{tag}", "just chat"]
    return [*use, f"just report {plan.run_id}"]


def _commands(commands: list[str]) -> list[str]:
    """Commands to copy, none of them broken: in one line if it fits."""
    together = f"  next      {'; '.join(commands)}"
    if len(together) <= WIDTH:
        return [together]
    return [f"  {'next' if i == 0 else '':<9} {c}" for i, c in enumerate(commands)]


def _money(v: RunView) -> str:
    plan = v.terms()
    date = (
        "NO DATE at which it is deleted"
        if "no date" in v.changed()
        else f"deleted by {local_text(plan.deadline)}"
    )
    end = date if not v.ended else f"{duration_text(v.receipt.seconds)} in all" if v.receipt else ""
    used = f"{dollars(v.spent_cents)} of {dollars(plan.limit_cents)} spent, {dollars(plan.offer.hourly_cents)}/h"
    return f"{used}; {end}".rstrip("; ")


def _step(p: Progress) -> str:
    """Step, speed and loss, and the age of the report."""
    share = f" ({p.step / p.steps:.0%})" if p.step is not None and p.steps else ""
    parts = [
        f"{p.phase} {p.step}/{p.steps}{share}".strip(),
        f"{p.tok_per_s:,.0f} tok/s" if p.tok_per_s is not None else "",
        f"loss {p.loss:.3f}" if p.loss is not None else "",
        p.stage if p.stage != "train" else "",
        f"reported {_age(p.updated)} ago",
    ]
    return ", ".join(filter(None, parts))


def trouble_text(v: RunView) -> str:
    """The last error of an upload that goes on, and since when; "" when there is none."""
    p = v.progress
    return (
        f"{p.trouble} (since {local_text(p.trouble_since) if p.trouble_since else '?'})"
        if p and p.trouble and not v.receipt and not v.ended
        else ""
    )


def clock_of(v: RunView) -> Projection:
    """The projected cost and end of a running run; empty once it has ended."""
    if v.receipt or v.ended or v.entry.waiting:
        return Projection()
    rate = (v.instance.hourly_cents if v.instance else None) or v.entry.plan.offer.hourly_cents
    return project(v.terms(), v.progress, v.spent_cents, rate, now_utc())


def _clock(v: RunView) -> list[str]:
    """Projected cost and end, the time at which the limit would be reached, and a warning if that is sooner."""
    o, lines = clock_of(v), []
    if o.will_cost_cents is not None:
        lines = _wrapped(
            "  forecast  ",
            f"ends {moment_text(o.ends)} and will have cost about {dollars(o.will_cost_cents)}; "
            f"{_limit_text(v, o)}",
        )
    elif o.limit_at is not None:
        lines = _wrapped("  forecast  ", f"not known yet; {_limit_text(v, o)}")
    return lines + (_wrapped("  WARNING   ", o.warning) if o.warning else [])


def _limit_text(v: RunView, o: Projection) -> str:
    """Which limit comes first, its dollars or its date, and when."""
    first = "its date comes first" if o.by_date else f"{dollars(v.terms().limit_cents)} is reached"
    return (
        f"{first}: {moment_text(o.limit_at)}" if o.by_date else f"{first} {moment_text(o.limit_at)}"
    )


def moment_text(moment: datetime | None) -> str:
    """A time in this laptop's zone, and the time left until then."""
    if moment is None:
        return "?"
    left_s = (moment - now_utc()).total_seconds()
    left = duration_text(int(left_s / 60) * 60)[:-3] if left_s >= 60 else "0:01"
    return f"{local_text(moment)} (in {left})"


def _bill(r: Receipt, plan: Plan) -> list[str]:
    """Predicted and actual cost, and the split by stage."""
    p, cents, lost = r.predicted or plan.predicted, split(r, plan.offer.hourly_cents), waste(r)
    predicted = (
        f"predicted {dollars(p.likely_cents)} ({dollars(p.low_cents)} to {dollars(p.high_cents)}), "
        if p
        else "not predicted, "
    )
    lines = _wrapped(
        "  bill      ",
        f"{predicted}metered {dollars(r.metered_cents)}, "
        f"the provider says {dollars(r.provider_cents)}",
    )
    if cents:
        lines += _wrapped(
            "  split     ", ", ".join(f"{stage} {dollars(c)}" for stage, c in cents.items())
        )
        share = "?" if lost is None else f"{lost:.0%}"
        lines += _wrapped(
            "  waste     ",
            f"{share} of the time neither trained nor evaluated a phase that was proven",
        )
    return lines


def _machine(v: RunView) -> str:
    where = v.entry.plan.offer.where
    if v.instance:
        return f"{where}: {v.instance.status}, {_age(str(v.entry.plan.created_at))} old"
    if v.unknown:
        return f"{where}: not known ({v.unknown.partition(':')[0]})"
    return f"{where}: {'gone' if v.entry.instance_id else 'none'}"


def _phase(r: PhaseReport, run_state: str) -> str:
    step = f" step {r.step}" if r.step is not None else ""
    name, start, end = (
        ("loss", r.loss_start, r.loss_end)
        if r.reward_end is None
        else ("reward", r.reward_start, r.reward_end)
    )
    change = f"  {name} {start:.3f} -> {end:.3f}" if start is not None and end is not None else ""
    state = "unfinished" if run_state == STOPPED and r.state == "failed" else r.state
    return f"{state:<10} {r.folder}{step}{change}".rstrip()


def ssh_command(i: Instance, name: str) -> str:
    """The line that opens a shell on the machine; user and address come from the API and are quoted."""
    port = f" -p {i.ssh_port}" if i.ssh_port != 22 else ""
    return f"ssh -i .ssh_keys/{name}.pem{port} {shlex.quote(f'{i.ssh_user}@{i.ip}')}"


def resume_command(v: RunView) -> str:
    """The command that continues a run that ended short."""
    return f"just resume {v.entry.plan.run_id}"


def _age(moment: str) -> str:
    return duration_text(int((now_utc() - parse_time(moment)).total_seconds()))


def duration_text(seconds: int | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=max(0, seconds)))
