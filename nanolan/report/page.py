"""A run's report as one self-contained HTML page, without network access or scripts.

render_page(data)           with charts, where matplotlib is installed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nanolan.errors import UsageProblem
from nanolan.money import dollars
from nanolan.plan import Fork, Pinned, Plan
from nanolan.redact import hide
from nanolan.report.charts import can_draw
from nanolan.report.costs import bill, timeline
from nanolan.report.data import ReportData
from nanolan.report.html import (
    NOTHING,
    Html,
    joined,
    link,
    note,
    page,
    paragraph,
    section,
    table,
    terms,
)
from nanolan.report.results import curves, evaluation, phase_section, samples
from nanolan.run.record import FAILED, LOST, STOPPED, SUCCEEDED, PhaseReport

DOT = Html(" &middot; ")
LOG = r"logs/[\w.+-]+"
TONES = {SUCCEEDED: "good", FAILED: "bad", LOST: "bad", STOPPED: "warn"}
NO_MATPLOTLIB = (
    "No charts: matplotlib is not installed here. Install it and make the report again: just report"
)


def render_page(s: ReportData, draw: bool | None = None) -> Html:
    """The report of a run; `draw` says whether matplotlib is there (None: look)."""
    draw = can_draw() if draw is None else draw
    phases = [phase_section(s, p, draw) for p in s.plan.phases]
    missing = note("" if draw or not s.metrics.rows else NO_MATPLOTLIB)
    body = {
        "Curve": curves(s, draw),
        "Money": timeline(s),
        "Scores": evaluation(s),
        "Missing": missing,
        **{p: text for p, text in zip(s.plan.phases, phases, strict=True)},
        "Answers": samples(s),
        "Receipt": bill(s),
        "Plan": plan(s.plan),
        "Environment": environment(s),
    }
    there = {name: text for name, text in body.items() if text}
    marks = {
        n: m[1] for n, text in there.items() if (m := re.match(r'<section id="([^"]*)"', text))
    }
    parts = [head(s, marks), *there.values(), foot(s)]
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
            f"{path} cannot be written: {e.strerror}. Name another file: just report --to FILE"
        ) from None
    return path


def head(s: ReportData, marks: Mapping[str, str] | None = None) -> Html:
    """The verdict, why, what it cost, what is saved and lost, what to type next, and links to the page's parts."""
    p, o = s.plan, s.plan.offer
    tag = f"{p.model_tag} as {p.output_tag}" if p.output_tag != p.model_tag else p.model_tag
    run = Html("run <code>{}</code>").format(p.run_id)
    attempt = [f"attempt {p.attempt}"] if p.attempt > 1 else []
    next_words = Html("<p>Next:</p><pre>{}</pre>")
    idle = [n for n in p.phases if s.phases.get(n, PhaseReport("none")).state == "none"]
    inside = [link(f"#{mark}", name) for name, mark in (marks or {}).items()]
    lines = [
        Html("<h1><b>{}</b></h1>").format(s.headline),
        paragraph(joined([p.run_name, " + ".join(p.phases), tag, run, *attempt], DOT)),
        note(f"{o.where}, {dollars(o.hourly_cents)} an hour"),
        paragraph(s.why),
        paragraph(s.saved and f"Saved: {s.saved}."),
        paragraph(s.lost and f"Lost: {s.lost}."),
        next_words.format(text) if (text := next_text(s)) else NOTHING,
        note(f"Not begun: {', '.join(idle)}." if idle and s.ended else ""),
        *(paragraph(f"Unavailable: {problem}") for problem in s.problems),
        Html("<nav>{}</nav>").format(joined([*inside, *hub_links(s)], Html(" "))),
    ]
    whole = Html('<header class="{}">\n{}\n</header>')
    return whole.format(TONES.get(s.state, ""), joined(filter(None, lines)))


def next_text(s: ReportData) -> str:
    """What to type next: the command that goes on, or after a success those that use the model."""
    if not s.ended or s.go_on:
        return s.go_on
    if s.state != SUCCEEDED:
        return f"just why {s.plan.run_id}"
    if s.plan.fork:
        return ""
    tag = f" output-tag={s.plan.output_tag}" if s.plan.output_tag != s.plan.model_tag else ""
    return f"just pull {s.plan.phases[-1]}{tag}\njust chat"


def hub_links(s: ReportData) -> list[Html]:
    """Links to the run folder and the log on the Hub, where their names are those of a Hub."""
    p = s.plan
    names = re.fullmatch(r"[\w.-]+/[\w.-]+", p.runs_repo) and re.fullmatch(r"[\w-]+", p.run_id)
    if not names or not re.fullmatch(r"https?://[\w.:-]+(/[\w./-]*)?", p.hf_endpoint):
        return []
    repo = f"{p.hf_endpoint.rstrip('/')}/{p.runs_repo}"
    found = [link(f"{repo}/tree/main/{p.folder}", "Run folder")]
    if s.receipt and re.fullmatch(LOG, s.receipt.log):
        found.append(link(f"{repo}/blob/main/{s.receipt.log}", "Log"))
    return found


def plan(p: Plan) -> Html:
    """The plan and the code."""
    o, c = p.offer, p.code
    return section(
        "Plan and code",
        terms(
            {
                "run": f"{p.run_id}, launched {p.created_at}",
                "phases": " + ".join(p.phases),
                "machine": f"{o.num_gpus}x {o.gpu} ({o.vram_gb} GB each), {o.instance_type} at {o.cloud}/{o.region}, {o.os}"
                + (", spot" if o.spot else ""),
                "price": f"{dollars(o.hourly_cents)} an hour; limit {dollars(p.limit_cents)}; deleted by {p.deadline}",
                "model": p.model_tag
                + (f", {p.parameters:,} parameters" if p.parameters is not None else "")
                + (f", written as {p.output_tag}" if p.output_tag != p.model_tag else ""),
                "evaluation": p.evaluate + (" with HumanEval" if p.humaneval else ""),
                "gate": p.gate,
                "micro-batch": p.batch,
                **(trainer(p, p.fork) if p.fork else {"recipe": recipe(p)}),
                "nanolan": p.nanolan,
                "commit": c.commit + (" with uncommitted changes" if c.dirty else ""),
                "code": f"bundle of {c.size:,} bytes, sha256 {c.sha256[:16]}",
            }
        ),
        _pinned("Inputs", p.inputs),
        _pinned("Data sets", p.datasets),
        mark="plan",
    )


def trainer(p: Plan, fork: Fork) -> dict[str, str]:
    """The foreign trainer, and what each phase ran."""
    changed = " with uncommitted changes" if fork.code and fork.code.dirty else ""
    runs = {n: fork.phases[n] for n in p.phases}
    return {
        "trainer": f"{fork.row}: {fork.source} at {fork.commit}{changed}",
        **{f"{n} ran": r.command or " ".join((r.module, *r.arguments)) for n, r in runs.items()},
    }


def recipe(p: Plan) -> str:
    """The settings that differ from the recipe."""
    own = [
        f"{name}: {', '.join(f'{k} {v}' for k, v in its.items())}"
        for name, its in p.recipe.items()
        if isinstance(its, dict) and name in p.phases
    ]
    shared = [f"{k} {v}" for k, v in p.recipe.items() if not isinstance(v, dict)]
    return "; ".join([", ".join(shared)] * bool(shared) + own) or "the default"


def _pinned(title: str, pins: tuple[Pinned, ...]) -> Html:
    rows = [
        [
            Html("{}<small>{}</small>").format(x.repo, _folders(x)),
            Html("<code>{}</code>").format(x.revision[:12]),
            _size(x.size),
        ]
        for x in pins
    ]
    whole = Html("<h3>{}</h3>{}")
    return whole.format(title, table(["repo", "revision", "size"], rows)) if rows else NOTHING


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


def environment(s: ReportData) -> Html:
    """Hardware and software of the machine."""
    e = s.environment
    if e is None:
        return NOTHING
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
        mark="environment",
    )


def foot(s: ReportData) -> Html:
    """The time of the report, and where the files are."""
    log = (
        f"; the whole log is {s.receipt.log}"
        if s.receipt and re.fullmatch(LOG, s.receipt.log)
        else ""
    )
    return note(f"Made by nanolan at {s.made} (UTC) from {s.plan.runs_repo}/{s.plan.folder}{log}.")
