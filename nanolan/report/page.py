"""A run's report as one self-contained HTML page, without network access or scripts.

render_page(data)           with charts, where matplotlib is installed
"""

from __future__ import annotations

import re
from pathlib import Path

from nanolan.errors import UsageProblem
from nanolan.money import dollars
from nanolan.plan import Fork, Pinned, Plan
from nanolan.redact import hide
from nanolan.report.charts import can_draw
from nanolan.report.costs import bill, timeline
from nanolan.report.data import ReportData
from nanolan.report.html import esc, note, page, section, table, terms
from nanolan.report.results import evaluation, phase_section, samples
from nanolan.run.record import FAILED, LOST, STOPPED, SUCCEEDED

TONES = {SUCCEEDED: "good", FAILED: "bad", LOST: "bad", STOPPED: "warn"}
NO_MATPLOTLIB = (
    "No charts: matplotlib is not installed here. Install it and make the report again: just report"
)


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
            f"{path} cannot be written: {e.strerror}. Name another file: just report --to FILE"
        ) from None
    return path


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
    lines += [f"<p>Unavailable: {esc(problem)}</p>" for problem in s.problems]
    return f'<header class="{TONES.get(s.state, "")}">\n' + "\n".join(lines) + "\n</header>"


def _renamed(p: Plan) -> str:
    return f" as {esc(p.output_tag)}" if p.output_tag != p.model_tag else ""


def plan(p: Plan) -> str:
    """The plan and the code."""
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
                **(trainer(p, p.fork) if p.fork else {"recipe": recipe(p)}),
                "nanolan": p.nanolan,
                "commit": c.commit + (" with uncommitted changes" if c.dirty else ""),
                "code": f"bundle of {c.size:,} bytes, sha256 {c.sha256[:16]}",
            }
        ),
        _pinned("Inputs", p.inputs),
        _pinned("Data sets", p.datasets),
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
    """Hardware and software of the machine."""
    e = s.environment
    if e is None:
        return section(
            "Environment",
            note(
                "The machine reported no environment."
                if s.ended
                else "Not available before the run ends."
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
    """The time of the report, and where the files are."""
    log = (
        f"; the whole log is {s.receipt.log}"
        if s.receipt and re.fullmatch(r"logs/\S+", s.receipt.log)
        else ""
    )
    return note(f"Made by nanolan at {s.made} from {s.plan.runs_repo}/{s.plan.folder}{log}.")
