"""What a trainer measured step by step (metrics.jsonl), as curves that can be drawn: gaps stay gaps, peaks stay peaks. Pure.

20,000 steps do not fit 700 pixels. Of the points that share a pixel the lowest and the highest are kept, so that a spike of
one step is seen; nothing is averaged unless the legend says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

MEAN_OF = 50  # a running mean spans this part of the steps
MOST_STEP = 1 << 40  # a step beyond this is no step


@dataclass(frozen=True)
class Row:
    """One line of metrics.jsonl: the numbers by their names, NaN among them."""

    phase: str
    step: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Metrics:
    """All rows that can be read, and how many lines cannot."""

    rows: tuple[Row, ...] = ()
    damaged: int = 0


@dataclass(frozen=True)
class Curve:
    """Points in the order in which they were written; y is NaN where there is a gap."""

    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()

    @property
    def known(self) -> list[float]:
        """The values without the gaps."""
        return [y for y in self.ys if not math.isnan(y)]


def read_metrics(data: bytes) -> Metrics:
    """The rows of a metrics.jsonl; a line cut off or damaged is counted, and keeps no other away."""
    lines = [line for line in data.splitlines() if line.strip()]
    rows = [row for line in lines if (row := _row(line)) is not None]
    return Metrics(tuple(rows), len(lines) - len(rows))


def _row(line: bytes) -> Row | None:
    try:
        d = json.loads(line)  # not msgspec: the trainer writes NaN as NaN
        phase, step = d.pop("phase"), d.pop("step")
        if not isinstance(phase, str) or type(step) is not int or not 0 <= step < MOST_STEP:
            return None
        return Row(phase, step, {k: float(v) for k, v in d.items() if type(v) in (int, float)})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def curve(metrics: Metrics, phase: str, name: str) -> Curve:
    """One measure of one phase by step. A value that is no number, and a step back (started once more), leave a gap."""
    xs: list[float] = []
    ys: list[float] = []
    for row in metrics.rows:
        if row.phase != phase or name not in row.numbers:
            continue
        if xs and row.step < xs[-1]:
            xs.append(xs[-1])
            ys.append(math.nan)
        xs.append(row.step)
        ys.append(y if math.isfinite(y := row.numbers[name]) else math.nan)
    return Curve(tuple(xs), tuple(ys))


def thin(c: Curve, pixels: int) -> Curve:
    """At most the lowest and the highest point of each pixel, and a gap where there is one."""
    if len(c.xs) <= 2 * pixels:
        return c
    first, width = min(c.xs), (max(c.xs) - min(c.xs)) / pixels or 1.0
    kept: list[tuple[float, float]] = []
    pixel, held, gap = -1, list[int](), False
    for i, x in enumerate(c.xs):
        if (at := int((x - first) / width)) != pixel:
            kept += _extremes(c, held, gap)
            pixel, held, gap = at, [], False
        if math.isnan(c.ys[i]):
            gap = True
        else:
            held.append(i)
    kept += _extremes(c, held, gap)
    return Curve(tuple(x for x, _ in kept), tuple(y for _, y in kept))


def _extremes(c: Curve, held: list[int], gap: bool) -> list[tuple[float, float]]:
    """The lowest and the highest of the points `held`, in their own order."""
    ends = (
        {min(held, key=c.ys.__getitem__), max(held, key=c.ys.__getitem__)} if held else set[int]()
    )
    points = [(c.xs[i], c.ys[i]) for i in sorted(ends)]
    return [*points, (points[-1][0] if points else math.nan, math.nan)] if gap else points


def running_mean(c: Curve) -> Curve:
    """The mean over a window of steps that ends at each point; the window begins anew after a gap."""
    window, total, ys = max(1, len(c.ys) // MEAN_OF), 0.0, list[float]()
    begin = 0  # of the window
    for i, y in enumerate(c.ys):
        if math.isnan(y):
            begin, total = i + 1, 0.0
            ys.append(math.nan)
            continue
        total += y
        if i - begin >= window:
            total -= c.ys[begin]
            begin += 1
        ys.append(total / (i - begin + 1))
    return Curve(c.xs, tuple(ys))
