"""The report's sections on quality: evaluation, each phase with its curves, and sample answers."""

from __future__ import annotations

from collections.abc import Callable

from nanolan.checkpoint.evaluation import PhaseSamples, Sample
from nanolan.money import dollars
from nanolan.report.charts import charts_of, lead_charts
from nanolan.report.curves import Metrics
from nanolan.report.data import ReportData
from nanolan.report.html import NOTHING, Html, joined, note, section, table, terms
from nanolan.report.scores import MODEL, PUBLISHED_BY, Line, is_d20, passes, score_lines
from nanolan.run.record import PhaseReport

QUICK = "A quick evaluation asks {} questions a task: differences below ten points say little."
MOST_ANSWER = 4000  # characters of a sample's text

DASH = Html("&ndash;")
FIGURE = Html("<figure>{}<figcaption><b>{}</b>: {}</figcaption></figure>")

Show = Callable[[float], str]


def curves(s: ReportData, draw: bool) -> Html:
    """The leading curve of each phase: the loss, or in rl the reward."""
    found = lead_charts(s.metrics, s.plan.phases) if draw else []
    drawn = [FIGURE.format(Html(c.svg), f"{phase}: {c.title}", c.words) for phase, c in found]
    return section("Curve", _figures(drawn, "charts" if len(drawn) > 1 else "lead"), mark="curve")


def _figures(drawn: list[Html], kind: str) -> Html:
    return Html('<div class="{}">{}</div>').format(kind, joined(drawn)) if drawn else NOTHING


def evaluation(s: ReportData) -> Html:
    """Tasks by phases: the score, its change since the phase before, and what nanochat published; "" without any."""
    lines = score_lines(s.phases)
    if not lines:
        return section("Evaluation", _passes(s), mark="scores")
    judged = table(["task", *s.phases], [[line.name, *_cells(line)] for line in lines])
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


def _cells(line: Line) -> list[Html]:
    show: Show = _core if line.name == "ChatCORE" else _percent
    out = []
    for score, change, published in zip(line.scores, line.changes, line.published, strict=True):
        small = Html("<small>{}</small>").format
        cell = [DASH if score is None else show(score)]
        cell += [small(_signed(change, show))] if change is not None else []
        cell += [small(Html("({})").format(_range(published, show)))] if published else []
        out.append(joined(cell, NOTHING))
    return out


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _core(value: float) -> str:
    return f"{value:.3f}"


def _signed(change: float, show: Show) -> str:
    return f"{'-' if change < 0 else '+'}{show(abs(change))}".rstrip("%")


def _range(ends: tuple[float, float], show: Show) -> Html:
    low, high = (show(v) for v in ends)
    return joined([low] if low == high else [low.rstrip("%"), high], DASH)


def _passes(s: ReportData) -> Html:
    """The rl evaluation on GSM8K, before and after."""
    rows = [row for r in s.phases.values() for row in passes(r)]
    cells = [
        [f"pass@{k}", *(DASH if v is None else _percent(v) for v in (before, after))]
        for k, before, after in rows
    ]
    title = Html("<h3>rl on GSM8K, sampled</h3>")
    return joined([title, table(["", "before", "after"], cells)], NOTHING) if cells else NOTHING


def phase_section(s: ReportData, phase: str, draw: bool) -> Html:
    """The outcome of a phase, and its curves."""
    r = s.phases.get(phase, PhaseReport("none"))
    charts = charts_of(s.metrics, phase, draw)
    charts = charts[1:] if draw else charts  # the first one leads the page
    drawn = [FIGURE.format(Html(c.svg), c.title, c.words) for c in charts]
    if r.state == "none" and not charts:
        return NOTHING  # the head names it
    return section(
        f"{phase}: {s.plan.phase(phase).title}",
        terms(_facts(s, phase, r)),
        _figures(drawn, "charts")
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


def samples(s: ReportData) -> Html:
    """The model's answers, the newest phase's open."""
    last = s.samples[-1].phase if s.samples else ""
    found = [_answers(p, p.phase == last) for p in s.samples if p.samples]
    return section("What it answers", *found, mark="answers")


def _answers(p: PhaseSamples, is_open: bool) -> Html:
    whole = Html("<details{}><summary>{}, step {}</summary>\n{}\n</details>")
    return whole.format(
        Html(" open") if is_open else "", p.phase, p.step, joined(map(_answer, p.samples))
    )


def _answer(x: Sample) -> Html:
    question, answer = x.question[:MOST_ANSWER], x.answer[:MOST_ANSWER].strip() or "(nothing)"
    if x.right is None:
        asked = Html("<h3>{}</h3>").format(question)
    else:
        asked = Html("<h3>{} &middot; {}</h3><p>{}</p>").format(x.task, _verdict(x), question)
    return Html('{}<div class="answer">{}</div>').format(asked, answer)


def _verdict(x: Sample) -> Html:
    if x.right:
        return Html('<span class="good"><b>right</b></span>')
    wrong = Html('<span class="bad"><b>wrong</b></span>, expected {}')
    return wrong.format((x.expected or "?")[:100])
