"""The report's sections on time and money: the stages and the receipt."""

from __future__ import annotations

from datetime import timedelta

from nanolan.cost.forecast import no_figures
from nanolan.cost.spending import split, waste
from nanolan.money import cost_cents, dollars
from nanolan.plan import Plan
from nanolan.report.data import ReportData
from nanolan.report.html import NOTHING, Html, section, table, terms
from nanolan.run.record import Receipt

BAR = Html(
    '<div class="stage"><span>{stage}</span><div class="track"><i class="{kind}" style="{place}"></i></div>'
    "<span>{time}</span><span>{cost}</span><span>{share}</span></div>"
)
STAGES = {"setup": "set-up"}
PARTS = {"train": "training", "evaluate": "evaluation"}


def timeline(s: ReportData) -> Html:
    """A bar for each stage, from where it began to where it ended, with its seconds and dollars."""
    stages = {stage: sec for stage, sec in s.receipt.stages.items() if sec > 0} if s.receipt else {}
    total, at, lines = sum(stages.values()), 0, list[Html]()
    for stage, sec in stages.items():
        lines.append(
            _bar(stage, sec, at / total, sec / total, cost_cents(s.plan.offer.hourly_cents, sec))
        )
        at += sec
    return section("Where time and money went", *lines, mark="money")


def _bar(stage: str, seconds: int, start: float, share: float, cents: int) -> Html:
    kind = stage.rpartition(".")[2]
    left = min(start, 0.995)
    return BAR.format(
        stage=stage_name(stage),
        kind=kind if kind in ("train", "evaluate", "upload") else "",
        place=f"margin-left:{100 * left:.2f}%;width:{100 * min(share, 1 - left):.2f}%",
        time=_time(seconds),
        cost=dollars(cents),
        share=f"{share:.0%}",
    )


def stage_name(stage: str) -> str:
    """A stage of the timeline in words: "mid training"."""
    phase, _, part = stage.rpartition(".")
    return f"{phase} {PARTS.get(part, part)}".strip() if phase else STAGES.get(stage, stage)


def _time(seconds: int | None) -> str:
    return (
        "?"
        if seconds is None
        else f"{seconds} s"
        if seconds < 100
        else str(timedelta(seconds=seconds))
    )


def bill(s: ReportData) -> Html:
    """Predicted and metered cost, the provider's figure, the split by kind, and the cost of earlier machines."""
    r, p = s.receipt, s.plan
    foretold = (r.predicted if r else None) or p.predicted
    lost = waste(r) if r else None
    rows = {
        "predicted": f"{dollars(foretold.likely_cents)} ({dollars(foretold.low_cents)} to {dollars(foretold.high_cents)})"
        if foretold
        else no_figures(p.fork),
        "metered": dollars(r.metered_cents)
        if r
        else f"{dollars(s.cents)}{'' if s.ended else ' so far'}",
        "the provider says": _told(r),
        "limit": dollars(p.limit_cents),
        "waste": ""
        if lost is None
        else f"{lost:.0%} of the time neither trained nor evaluated a phase that was proven",
    }
    before = [[f"attempt {a.number}", a.note, dollars(a.spent_cents)] for a in s.earlier]
    return section(
        "Receipt",
        terms(rows),
        _by_kind(r, p) if r else NOTHING,
        Html("<h3>Earlier machines of this run</h3>") if before else NOTHING,
        table(["", "what became of it", "cost"], before),
        mark="receipt",
    )


def _told(r: Receipt | None) -> str:
    return "" if r is None else "nothing" if r.provider_cents is None else dollars(r.provider_cents)


def _by_kind(r: Receipt, p: Plan) -> Html:
    """Dollars and seconds by what they were spent on, over all phases."""
    cents: dict[str, int] = {}
    seconds: dict[str, int] = {}
    for stage, c in split(r, p.offer.hourly_cents).items():
        kind = stage_name(stage.rpartition(".")[2])
        kind = PARTS.get(kind, kind)
        cents[kind] = cents.get(kind, 0) + c
        seconds[kind] = seconds.get(kind, 0) + r.stages[stage]
    rows = [[kind, _time(seconds[kind]), dollars(c)] for kind, c in cents.items()]
    return table(["spent on", "time", "cost, each stage rounded up"], rows)
