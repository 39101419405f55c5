"""Curves as inline SVG, drawn by matplotlib, in the colours of the page: light and dark are its choice.

matplotlib draws in placeholder colours, which are then replaced by `currentColor` and `var(--...)`. It is in the `report` and
`train` sets only: where it is missing there are no charts, and the page says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from nanolan.report.curves import Curve, Metrics, curve, running_mean, thin

BROAD_IN = 10.0  # of a chart as wide as the page
WIDTH_IN, HEIGHT_IN, DPI = 4.6, 2.5, 72  # SVG points: 331 x 180, which a phone shows unscaled
PIXELS = 560  # of the drawing, on a screen that shows it at twice its size
MEAN_FROM = 200  # points from which a running mean helps the eye
DOTS_UNTIL = 40  # points that are few enough to be shown as dots
INKS = {
    "#010203": "currentColor",
    "#010204": "var(--grid)",
    "#010205": "var(--faint)",
    "#010206": "var(--line)",
}
INK, GRID, FAINT, LINE = INKS


@dataclass(frozen=True)
class Panel:
    """A measure worth a chart: its name in the metrics, what it is, the phases that have it, and how its numbers are written."""

    name: str
    title: str
    number: str = "{:.3g}"
    phases: tuple[str, ...] = ("mid", "sft", "rl")


@dataclass(frozen=True)
class Chart:
    """A drawn panel and, in words, what it shows."""

    title: str
    words: str
    svg: str


PANELS = (
    Panel("reward", "Reward", phases=("rl",)),
    Panel("loss", "Training loss", phases=("mid", "sft")),
    Panel("val_bpb", "Validation, bits per byte", "{:.4g}"),
    Panel("val_loss", "Validation loss", "{:.4g}"),
    Panel("answer_tokens", "Tokens of an answer", phases=("rl",)),
    Panel("tok_per_s", "Tokens a second", "{:,.0f}"),
    Panel("mfu", "Model FLOPs utilisation", "{:.1%}"),
)


def can_draw() -> bool:
    """Whether matplotlib is here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def charts_of(metrics: Metrics, phase: str, draw: bool = True) -> list[Chart]:
    """A chart for each panel that has two points or more; without drawings where `draw` is False."""
    found = [(p, curve(metrics, phase, p.name)) for p in PANELS if phase in p.phases]
    return [
        Chart(p.title, words(p, c), svg(p, c, f"{phase}-{p.name}") if draw else "")
        for p, c in found
        if len(c.known) > 1
    ]


def lead_charts(metrics: Metrics, phases: Sequence[str]) -> list[tuple[str, Chart]]:
    """(phase, its first chart) of each phase that has one. A lone one is as wide as the page, and once more for a phone."""
    found = [
        (phase, p, c)
        for phase in phases
        for p in PANELS
        if phase in p.phases and len((c := curve(metrics, phase, p.name)).known) > 1
    ]
    first = {phase: (p, c) for phase, p, c in reversed(found)}
    out = []
    for phase in (p for p in phases if p in first):
        panel, c = first[phase]
        drawn = svg(panel, c, f"lead-{phase}")
        if len(first) == 1:
            broad = svg(panel, c, f"broad-{phase}", BROAD_IN)
            drawn = f'<div class="broad">{broad}</div><div class="narrow">{drawn}</div>'
        out.append((phase, Chart(panel.title, words(panel, c), drawn)))
    return out


def words(panel: Panel, c: Curve) -> str:
    """Where the curve begins and ends, its extremes, and what is missing of it."""
    values = c.known
    text = " to ".join(panel.number.format(v) for v in (values[0], values[-1]))
    text += (
        f"; lowest {panel.number.format(min(values))}, highest {panel.number.format(max(values))}"
    )
    missing = len(c.ys) - len(values)
    text += (
        f"; {missing} gap{'s' * (missing > 1)} (no number, or started once more)" if missing else ""
    )
    return text + ("; pale: each step, line: running mean" if len(values) >= MEAN_FROM else "")


def svg(panel: Panel, c: Curve, mark: str, width_in: float = WIDTH_IN) -> str:
    """The curve as an <svg> element; `mark` makes its ids its own among the page's others."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": mark,
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure((width_in, HEIGHT_IN), dpi=DPI, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        _lines(axes, c)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: short(value, panel.number))
        axes.set_xlabel("step")
        out = StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return inline(out.getvalue(), mark, panel.title)


def _lines(axes: Any, c: Curve) -> None:
    dots: dict[str, Any] = {"marker": "o", "markersize": 3} if len(c.known) <= DOTS_UNTIL else {}
    many = len(c.known) >= MEAN_FROM
    for line, ink, width in (
        [(c, FAINT, 0.8), (running_mean(c), LINE, 1.4)] if many else [(c, LINE, 1.4)]
    ):
        t = thin(line, PIXELS)
        axes.plot(t.xs, t.ys, color=ink, linewidth=width, **dots)


def short(value: float, number: str) -> str:
    """A number beside an axis: 1,020,000 is 1.02M."""
    if abs(value) >= 1e4:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    return number.format(value)


def inline(text: str, mark: str, title: str) -> str:
    """matplotlib's file as an element of a page: no header or metadata, ids of its own, the page's colours and fonts."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(
        r"<!--.*?-->\s*|<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.S
    )  # its style is for every element
    text = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{mark}-", text)
    text = re.sub(
        r"font: ([\d.]+)px [^;\"]*(; font-family: [^;\"]*)?|font-size: ([\d.]+)px; font-family: [^;\"]*",
        lambda m: f"font-size: {m[1] or m[3]}px",
        text,
    )
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg \1 role="img" aria-label="{title}">',
        text,
        count=1,
    )
    for ink, name in INKS.items():
        text = text.replace(ink, name)
    return re.sub(r"\s*\n\s*", "\n", text).strip()
