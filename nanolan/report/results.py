"""The report's sections on quality: evaluation, each phase with its curves, and sample answers."""

from __future__ import annotations

from collections.abc import Callable

from nanolan.checkpoint.evaluation import PhaseSamples, Sample
from nanolan.money import dollars
from nanolan.report.charts import charts_of, lead_charts
from nanolan.report.curves import Metrics
from nanolan.report.data import ReportData
from nanolan.report.html import esc, note, section, table, terms
from nanolan.report.scores import MODEL, PUBLISHED_BY, Line, is_d20, passes, score_lines
from nanolan.run.record import PhaseReport

QUICK = "A quick evaluation asks {} questions a task: differences below ten points say little."
MOST_ANSWER = 4000  # characters of a sample's text

Show = Callable[[float], str]


def curves(s: ReportData, draw: bool) -> str:
    """The leading curve of each phase: the loss, or in rl the reward."""
    found = lead_charts(s.metrics, s.plan.phases) if draw else []
    drawn = [
        f"<figure>{c.svg}<figcaption><b>{esc(phase)}: {esc(c.title)}</b>: {esc(c.words)}</figcaption></figure>"
        for phase, c in found
    ]
    kind = "charts" if len(drawn) > 1 else "lead"
    return section(
        "Curve", f'<div class="{kind}">{"".join(drawn)}</div>' if drawn else "", mark="curve"
    )


def evaluation(s: ReportData) -> str:
    """Tasks by phases: the score, its change since the phase before, and what nanochat published; "" without any."""
    lines = score_lines(s.phases)
    if not lines:
        return section("Evaluation", _passes(s), mark="scores")
    judged = table(["task", *s.phases], [[esc(line.name), *_cells(line)] for line in lines])
    legend = f"Below each score: the change since the phase before, and in brackets what {MODEL} scored ({PUBLISHED_BY})."
    same = is_d20(s.plan.parameters)
    size = (
        ""
        if same or s.plan.parameters is None
        else f"This model has {s.plan.parameters / 1e6:,.3g}M parameters: the published scores are not of its size."
    )
    core = "ChatCORE is the mean of (score - chance) / (1 - chance) over the tasks measured here, the published one over the same."
    few = QUICK.format(
        f"at most {most}" if (most := s.plan.recipe.get("exam_problems")) else "64 or 96"
    )
    few = few if (most or s.plan.evaluate == "quick") and not s.plan.fork else ""
    return section(
        "Evaluation",
        judged,
        note(" ".join(filter(None, (legend, core, size, few)))),
        _passes(s),
        mark="scores",
    )


def _cells(line: Line) -> list[str]:
    show: Show = _core if line.name == "ChatCORE" else _percent
    out = []
    for score, change, published in zip(line.scores, line.changes, line.published, strict=True):
        cell = "&ndash;" if score is None else show(score)
        cell += f"<small>{_signed(change, show)}</small>" if change is not None else ""
        cell += f"<small>({_range(published, show)})</small>" if published else ""
        out.append(cell)
    return out


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _core(value: float) -> str:
    return f"{value:.3f}"


def _signed(change: float, show: Show) -> str:
    return f"{'-' if change < 0 else '+'}{show(abs(change))}".rstrip("%")


def _range(ends: tuple[float, float], show: Show) -> str:
    low, high = (show(v) for v in ends)
    return low if low == high else f"{low.rstrip('%')}&ndash;{high}"


def _passes(s: ReportData) -> str:
    """The rl evaluation on GSM8K, before and after."""
    rows = [row for r in s.phases.values() for row in passes(r)]
    cells = [
        [f"pass@{k}", *("&ndash;" if v is None else _percent(v) for v in (before, after))]
        for k, before, after in rows
    ]
    return f"<h3>rl on GSM8K, sampled</h3>{table(['', 'before', 'after'], cells)}" if cells else ""


def phase_section(s: ReportData, phase: str, draw: bool) -> str:
    """The outcome of a phase, and its curves."""
    r = s.phases.get(phase, PhaseReport("none"))
    charts = charts_of(s.metrics, phase, draw)
    charts = charts[1:] if draw else charts  # the first one leads the page
    drawn = [
        f"<figure>{c.svg}<figcaption><b>{esc(c.title)}</b>: {esc(c.words)}</figcaption></figure>"
        for c in charts
    ]
    if r.state == "none" and not charts:
        return ""  # the head names it
    return section(
        f"{phase}: {s.plan.phase(phase).title}",
        terms(_facts(s, phase, r)),
        '<div class="charts">' + "\n".join(drawn) + "</div>"
        if drawn
        else note("" if len(charts_of(s.metrics, phase, False)) else no_curves(s.metrics, phase)),
        mark=f"phase-{phase}",
    )


def no_curves(metrics: Metrics, phase: str) -> str:
    """Why there is nothing to draw."""
    steps = sum(row.phase == phase and "loss" in row.numbers for row in metrics.rows)
    lines = (
        f"; {metrics.damaged} line{'s' * (metrics.damaged > 1)} of the metrics cannot be read"
        if metrics.damaged
        else ""
    )
    return (
        f"{steps} step{'s' * (steps > 1)}: too few for a curve" if steps else "No step was recorded"
    ) + f"{lines}."


def _facts(s: ReportData, phase: str, r: PhaseReport) -> dict[str, object]:
    cents = s.receipt.phase_cents.get(phase) if s.receipt else None
    seconds = s.receipt.stages.get(f"{phase}.train") if s.receipt else None
    speed = (
        f" ({r.tokens / seconds:,.0f} a second over the whole phase)"
        if r.tokens and seconds
        else ""
    )
    state = "not finished; saved" if r.state == "failed" and r.folder else r.state
    return {
        "state": state
        + (f" in {r.folder}" if r.folder else "")
        + (f" step {r.step}" if r.step is not None else ""),
        "revision": r.revision,
        "reward": _change(r.reward_start, r.reward_end),
        "loss": ""
        if r.reward_end is not None
        else _change(r.loss_start, r.loss_end),  # the loss of rl is not expected to fall
        "validation": ", ".join(
            f"{k} {v:.4f}" for k, v in r.measured.items() if k.startswith("val_")
        ),
        "tokens": f"{r.tokens:,}{speed}" if r.tokens is not None else "",
        "training and evaluation": dollars(cents) if cents is not None else "",
    }


def _change(start: float | None, end: float | None) -> str:
    return (
        ""
        if start is None or end is None
        else f"{start:.3f} to {end:.3f} (means of the first and the last tenth)"
    )


def samples(s: ReportData) -> str:
    """The model's answers, the newest phase's open."""
    last = s.samples[-1].phase if s.samples else ""
    found = [_answers(p, p.phase == last) for p in s.samples if p.samples]
    return section("What it answers", *found, mark="answers")


def _answers(p: PhaseSamples, is_open: bool) -> str:
    return (
        f"<details{' open' if is_open else ''}><summary>{esc(p.phase)}, step {p.step}</summary>\n"
        + "\n".join(map(_answer, p.samples))
        + "\n</details>"
    )


def _answer(x: Sample) -> str:
    verdict = (
        ' &middot; <span class="good"><b>right</b></span>'
        if x.right
        else f' &middot; <span class="bad"><b>wrong</b></span>, expected {esc((x.expected or "?")[:100])}'
    )
    question = esc(x.question[:MOST_ANSWER])
    asked = (
        f"<h3>{question}</h3>"
        if x.right is None
        else f"<h3>{esc(x.task)}{verdict}</h3><p>{question}</p>"
    )
    return f'{asked}<div class="answer">{esc(x.answer[:MOST_ANSWER].strip()) or "(nothing)"}</div>'
