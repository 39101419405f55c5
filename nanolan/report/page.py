"""A run's report as one page of HTML that needs no network and no script: a Story in, a page out.

render_page(story)          with charts, where matplotlib is installed
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from nanolan.checkpoint.evaluation import PhaseSamples, Sample
from nanolan.cost.spending import split, waste
from nanolan.errors import UsageProblem
from nanolan.money import cost_cents, dollars
from nanolan.phases import PHASES
from nanolan.plan import Pinned, Plan
from nanolan.redact import hide
from nanolan.report.charts import can_draw, charts_of
from nanolan.report.curves import Metrics
from nanolan.report.data import ReportData
from nanolan.report.html import esc, note, page, section, table, terms
from nanolan.report.scores import MODEL, PUBLISHED_BY, Line, is_d20, passes, score_lines
from nanolan.run.record import FAILED, LOST, STOPPED, SUCCEEDED, PhaseReport, Receipt

TONES = {SUCCEEDED: "good", FAILED: "bad", LOST: "bad", STOPPED: "warn"}
STAGES = {"setup": "set-up"}
PARTS = {"train": "training", "evaluate": "evaluation"}
NO_MATPLOTLIB = (
    "No charts: matplotlib is not installed here. Install it and make the report again: just report"
)
QUICK = "A quick evaluation asks {} questions a task: differences below ten points say little."
MOST_ANSWER = 4000  # characters of a sample's text

Show = Callable[[float], str]


def render_page(s: ReportData, draw: bool | None = None) -> str:
    """The report of a run; `draw` says whether matplotlib is there (None: look)."""
    draw = can_draw() if draw is None else draw
    phases = [phase_section(s, p, draw) for p in s.plan.phases]
    missing = note("" if draw or not s.metrics.rows else NO_MATPLOTLIB)
    parts = [
        head(s),
        timeline(s),
        evaluation(s),
        missing,
        *phases,
        samples(s),
        bill(s),
        plan(s.plan),
        environment(s),
        foot(s),
    ]
    return page(f"{s.title} ({s.plan.run_id})", filter(None, parts))


def write_page(html: str, path: Path) -> Path:
    """Write a report, whole or not at all; UsageProblem where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(path.name + ".tmp")
        temp.write_text(hide(html), encoding="utf-8")
        temp.replace(path)
    except OSError as e:
        raise UsageProblem(
            f"{path} cannot be written: {e.strerror}. Name another file: just report --output FILE"
        ) from None
    return path


# ------------------------------------------------------------------ verdict and time
def head(s: ReportData) -> str:
    """The verdict, why, what it cost, what is saved, and what to do next."""
    p, o = s.plan, s.plan.offer
    machine = f"{o.num_gpus}x {o.gpu} at {o.cloud}/{o.region}, {dollars(o.hourly_cents)} an hour"
    lines = [
        f"<h1><b>{esc(s.headline)}</b></h1>",
        f"<p>{esc(p.run_name)} &middot; {esc(' + '.join(p.phases))} &middot; {esc(p.model_tag)}{_renamed(p)} &middot; run "
        f"<code>{esc(p.run_id)}</code>{f' &middot; attempt {p.attempt}' if p.attempt > 1 else ''}</p>",
        note(machine),
    ]
    lines += [f"<p>{esc(s.why)}</p>"] if s.why else []
    lines += [f"<p>Saved: {esc(s.saved)}.</p>"] if s.saved else []
    lines += [f"<p>Go on with it:</p><pre>{esc(s.go_on)}</pre>"] if s.go_on else []
    lines += [f"<p>Could not be seen: {esc(problem)}</p>" for problem in s.problems]
    return f'<header class="{TONES.get(s.state, "")}">\n' + "\n".join(lines) + "\n</header>"


def _renamed(p: Plan) -> str:
    return f" as {esc(p.output_tag)}" if p.output_tag != p.model_tag else ""


def timeline(s: ReportData) -> str:
    """A bar for each stage, from where it began to where it ended, with its seconds and dollars."""
    if s.receipt is None and not s.ended:
        return section("Where time and money went", note("The machine tells this when it ends."))
    stages = {stage: sec for stage, sec in s.receipt.stages.items() if sec > 0} if s.receipt else {}
    total, at, lines = sum(stages.values()), 0, list[str]()
    for stage, sec in stages.items():
        lines.append(
            _bar(stage, sec, at / total, sec / total, cost_cents(s.plan.offer.hourly_cents, sec))
        )
        at += sec
    return section(
        "Where time and money went", *lines, "" if lines else note("The machine did not tell.")
    )


def _bar(stage: str, seconds: int, start: float, share: float, cents: int) -> str:
    kind = stage.rpartition(".")[2]
    left = min(start, 0.995)
    bar = (
        f'<i class="{kind if kind in ("train", "evaluate", "upload") else ""}" '
        f'style="margin-left:{100 * left:.2f}%;width:{100 * min(share, 1 - left):.2f}%"></i>'
    )
    return (
        f'<div class="stage"><span>{esc(stage_name(stage))}</span><div class="track">{bar}</div><span>{_time(seconds)}</span>'
        f"<span>{dollars(cents)}</span><span>{share:.0%}</span></div>"
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


# ------------------------------------------------------------------ how good
def evaluation(s: ReportData) -> str:
    """Tasks by phases: the score, its change since the phase before, and what nanochat published."""
    lines = score_lines(s.phases)
    if not lines:
        why = (
            "was not asked for (eval=none)"
            if s.plan.evaluate == "none"
            else f"has no results{'' if s.ended else ' yet'}"
        )
        return section("Evaluation", note(f"No evaluation: it {why}."), _passes(s))
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
    few = few if most or s.plan.evaluate == "quick" else ""
    return section(
        "Evaluation", judged, note(" ".join(filter(None, (legend, core, size, few)))), _passes(s)
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
    """rl's own exam on GSM8K, before and after."""
    rows = [row for r in s.phases.values() for row in passes(r)]
    cells = [
        [f"pass@{k}", *("&ndash;" if v is None else _percent(v) for v in (before, after))]
        for k, before, after in rows
    ]
    return f"<h3>rl on GSM8K, sampled</h3>{table(['', 'before', 'after'], cells)}" if cells else ""


def phase_section(s: ReportData, phase: str, draw: bool) -> str:
    """What became of a phase, and its curves."""
    r = s.phases.get(phase, PhaseReport("none"))
    charts = charts_of(s.metrics, phase, draw)
    drawn = [
        f"<figure>{c.svg}<figcaption><b>{esc(c.title)}</b>: {esc(c.words)}</figcaption></figure>"
        for c in charts
    ]
    if r.state == "none" and not charts:
        return section(f"{phase}: {PHASES[phase].title}", note("Not begun."))
    return section(
        f"{phase}: {PHASES[phase].title}",
        terms(_facts(s, phase, r)),
        '<div class="charts">' + "\n".join(drawn) + "</div>"
        if drawn
        else note(no_curves(s.metrics, phase)),
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
        else _change(r.loss_start, r.loss_end),  # rl's is not one to fall
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
    why = "" if s.plan.evaluate == "none" or found else "No samples: they come with an evaluation."
    return section("What it answers", *found, note(why))


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


# ------------------------------------------------------------------ money
def bill(s: ReportData) -> str:
    """What was foretold, metered and told by the provider; where it went; and what earlier machines cost."""
    r, p = s.receipt, s.plan
    foretold = (r.predicted if r else None) or p.predicted
    lost = waste(r) if r else None
    rows = {
        "predicted": f"{dollars(foretold.likely_cents)} ({dollars(foretold.low_cents)} to {dollars(foretold.high_cents)})"
        if foretold
        else "no figures for this GPU",
        "metered": dollars(r.metered_cents)
        if r
        else f"{dollars(s.cents)}{'' if s.ended else ' so far'}",
        "the provider says": _told(r),
        "limit": dollars(p.limit_cents),
        "waste": ""
        if lost is None
        else f"{lost:.0%} of the time neither trained nor evaluated a phase that was proven",
    }
    before = [[esc(f"attempt {a.number}"), esc(a.note), dollars(a.spent_cents)] for a in s.earlier]
    return section(
        "Receipt",
        terms(rows),
        _by_kind(r, p) if r else "",
        "<h3>Earlier machines of this run</h3>" if before else "",
        table(["", "what became of it", "cost"], before),
    )


def _told(r: Receipt | None) -> str:
    return "" if r is None else "nothing" if r.provider_cents is None else dollars(r.provider_cents)


def _by_kind(r: Receipt, p: Plan) -> str:
    """Dollars and seconds by what they were spent on, over all phases."""
    cents: dict[str, int] = {}
    seconds: dict[str, int] = {}
    for stage, c in split(r, p.offer.hourly_cents).items():
        kind = stage_name(stage.rpartition(".")[2])
        kind = PARTS.get(kind, kind)
        cents[kind] = cents.get(kind, 0) + c
        seconds[kind] = seconds.get(kind, 0) + r.stages[stage]
    rows = [[esc(kind), _time(seconds[kind]), dollars(c)] for kind, c in cents.items()]
    return table(["spent on", "time", "cost, each stage rounded up"], rows)


# ------------------------------------------------------------------ what was asked, and with what
def plan(p: Plan) -> str:
    """What was asked for."""
    o, c = p.offer, p.code
    return section(
        "Plan and code",
        terms(
            {
                "run": f"{p.run_id}, launched {p.created_at}",
                "phases": " + ".join(p.phases),
                "machine": f"{o.num_gpus}x {o.gpu} ({o.vram_gb} GB each), {o.instance_type} at {o.cloud}/{o.region}, {o.os}",
                "price": f"{dollars(o.hourly_cents)} an hour; limit {dollars(p.limit_cents)}; deleted by {p.deadline}",
                "model": p.model_tag
                + (f", {p.parameters:,} parameters" if p.parameters is not None else "")
                + (f", written as {p.output_tag}" if p.output_tag != p.model_tag else ""),
                "evaluation": p.evaluate + (" with HumanEval" if p.humaneval else ""),
                "gate": p.gate,
                "micro-batch": p.batch,
                "recipe": recipe(p),
                "commit": c.commit + (" with uncommitted changes" if c.dirty else ""),
                "code": f"bundle of {c.size:,} bytes, sha256 {c.sha256[:16]}",
            }
        ),
        _pinned("Inputs", p.inputs),
        _pinned("Data sets", p.datasets),
    )


def recipe(p: Plan) -> str:
    """What is not as the recipe has it."""
    own = [
        f"{name}: {', '.join(f'{k} {v}' for k, v in its.items())}"
        for name, its in p.recipe.items()
        if isinstance(its, dict) and name in p.phases
    ]
    shared = [f"{k} {v}" for k, v in p.recipe.items() if not isinstance(v, dict)]
    return "; ".join([", ".join(shared)] * bool(shared) + own) or "the default"


def _pinned(title: str, pins: tuple[Pinned, ...]) -> str:
    rows = [
        [
            f"{esc(x.repo)}<small>{esc(_folders(x))}</small>",
            f"<code>{esc(x.revision[:12])}</code>",
            _size(x.size),
        ]
        for x in pins
    ]
    return f"<h3>{esc(title)}</h3>{table(['repo', 'revision', 'size'], rows)}" if rows else ""


def _size(n: int) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 100_000 else f"{n / 1e3:,.1f} kB"


def _folders(x: Pinned) -> str:
    files = f"{len(x.files)} file{'s' * (len(x.files) != 1)}"
    folders = ", ".join(dict.fromkeys(f.path.rpartition("/")[0] or f.path for f in x.files))
    return (
        files
        if x.kind == "dataset"
        else f"{folders}: {files}, {'proven' if x.proven else 'unproven'}"
    )


def environment(s: ReportData) -> str:
    """What the machine was."""
    e = s.environment
    if e is None:
        return section(
            "Environment",
            note(
                "The machine has not told." if s.ended else "The machine tells this when it ends."
            ),
        )
    gpus = ", ".join(f"{e.gpus.count(name)}x {name}" for name in dict.fromkeys(e.gpus))
    return section(
        "Environment",
        terms(
            {
                "GPUs": gpus,
                "driver": e.driver,
                "system": e.system,
                "CPUs": e.cpus,
                "Python": e.python,
                "packages": ", ".join(f"{k} {v}" for k, v in e.packages.items()),
            }
        ),
    )


def foot(s: ReportData) -> str:
    """When this was told, and where the rest lies."""
    log = (
        f"; the whole log is {s.receipt.log}"
        if s.receipt and re.fullmatch(r"logs/\S+", s.receipt.log)
        else ""
    )
    return note(f"Made by nanolan at {s.made} from {s.plan.runs_repo}/{s.plan.folder}{log}.")
