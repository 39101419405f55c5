"""The table of a check: 80 columns, a row a part."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from nanolan.cost.gpu_check import GpuCheck, Part

WIDTH = 80
FIGURES = 57  # columns
SHORT = {"facts": ("torch", "driver_version", "nccl", "cpus", "disk_free_gb", "disk_mb_s", "xid")}


def render(check: GpuCheck) -> list[str]:
    """The check as lines of at most WIDTH columns."""
    what = f"{check.gpus} x {check.gpu}" if check.gpu else f"{check.gpus} CPU ranks: a rehearsal"
    head = f"{what}, model {check.size}, {check.seconds:.0f} s"
    return [head[:WIDTH], "", *(line for part in check.parts for line in part_lines(part))]


def part_lines(part: Part) -> list[str]:
    """A part's state, seconds and figures; or its reason."""
    text = figures_text(part.figures, SHORT.get(part.name)) if part.state == "ok" else part.reason
    lines = textwrap.wrap(text, FIGURES) or [""]
    first = f"{part.name:<10}{part.state[:6]:<7}{part.seconds:>4.0f} s {lines[0]}"
    return [first.rstrip(), *(" " * 23 + line for line in lines[1:])]


def figures_text(figures: Mapping[str, Any], only: tuple[str, ...] | None = None) -> str:
    """ "name value" of each figure; tables within one are in brackets."""
    shown = {k: v for k, v in figures.items() if only is None or k in only}
    return ", ".join(f"{name} {_value(value)}" for name, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({figures_text(value)})"
    if isinstance(value, (list, tuple)):
        return "/".join(dict.fromkeys(map(str, value))) or "none"
    return str(value)
