"""`just watch`: on a terminal one block that is redrawn in place every second, elsewhere a line per change.

with display(as_json, terminal) as screen:
    screen.show(overview)        after each look
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from nanolan.cost.spending import newest_cents
from nanolan.money import dollars
from nanolan.redact import cursor_allowed, hide, printable
from nanolan.status.as_json import to_dict
from nanolan.status.text import WIDTH, clock_of, duration_text, moment_text, render, trouble_text
from nanolan.status.view import Overview, RunView
from nanolan.times import now_utc

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STYLES = (  # the later ones win
    (r"\b(SUCCEEDED|proven)\b", "bold green"),
    (r"\b(FAILED|LOST|UNKNOWN|failed)\b", "bold red"),
    (r"\b(STOPPED|STOPPING)\b", "bold yellow"),
    (r"\b(TRAINING|UPLOADING|PREPARING|BOOTING|PENDING)\b", "bold cyan"),
    (r"\$\d[\d,.]*\d", "bold"),
    (r"(?m)^ *(WARNING|NOT IN THE LEDGER|UNATTENDED|THESE FIGURES).*$", "bold red"),
    (r"just [a-z-]+( [0-9a-f]{8})?( --now|( \d+))?", "cyan"),
)


class Seen:
    """The newest complete overview, and the first problem since."""

    def __init__(self, now: Callable[[], datetime] = now_utc) -> None:
        self._now = now
        self._good: Overview | None = None
        self._newest: Overview | None = None
        self._at = now()

    def note(self, overview: Overview) -> None:
        self._newest = overview
        if not trouble(overview):
            self._good, self._at = overview, self._now()

    def lines(self) -> list[str]:
        """The current block: costs and ages keep counting; old figures are marked as old."""
        if self._newest is None:
            return ["looking ..."]
        shown = self._good or self._newest
        problem = trouble(self._newest)
        lines = render(counted_on(shown) if self._good else shown)
        if problem and self._good:
            age = duration_text(int((self._now() - self._at).total_seconds()))
            lines += [
                f"THESE FIGURES ARE {age} OLD: the last look failed, the run goes on. Looking again.",
                *textwrap.wrap(problem, WIDTH, initial_indent="  ", subsequent_indent="  "),
            ]
        return [
            printable(hide(line)) for line in lines
        ]  # rich writes to the terminal without the stricter filter


def trouble(overview: Overview) -> str:
    """The first look that failed, or ""."""
    return next(
        (p for p in (*overview.problems, *(p for v in overview.runs for p in v.problems))), ""
    )


def counted_on(overview: Overview) -> Overview:
    """The same overview with current costs."""

    def on(v: RunView) -> RunView:
        return (
            replace(v, spent_cents=newest_cents(v.entry, v.receipt, v.progress, v.instance))
            if v.instance and v.instance.billing
            else v
        )

    return replace(overview, runs=tuple(on(v) for v in overview.runs))


class Redrawn:
    """On a terminal, by rich: redrawn every second by a thread of its own, also while a look is under way."""

    def __init__(
        self, console: Console | None = None, now: Callable[[], datetime] = now_utc
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self.seen, self._console = (
            Seen(now),
            console or Console(file=cursor_allowed(sys.stdout), highlight=False),
        )
        self._live = Live(
            get_renderable=self.text,
            console=self._console,
            refresh_per_second=1,
            vertical_overflow="crop",
        )

    def text(self) -> Text:
        from rich.text import Text

        height = self._console.size.height - 1
        # what is wider cannot be copied whole from here: there is `just ssh`
        lines = [
            line
            for line in self.seen.lines()
            if not (line.startswith("  ssh ") and len(line) > self._console.size.width)
        ]
        if len(lines) > height:  # the head of the block matters most
            lines = [*lines[: height - 1], f"... {len(lines) - height + 1} more lines: just status"]
        text = Text("\n".join(lines).rstrip(), no_wrap=True, overflow="crop")
        for pattern, style in STYLES:
            text.highlight_regex(pattern, style)
        return text

    def show(self, overview: Overview) -> None:
        self.seen.note(overview)
        self._live.refresh()

    def __enter__(self) -> Redrawn:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._live.stop()


class Plain(ExitStack):
    """Not a terminal: the block at first and when the run is over, between them a line for each change."""

    def __init__(
        self, echo: Callable[[str], object], now: Callable[[], datetime] = now_utc
    ) -> None:
        super().__init__()
        self._echo, self._now, self._last = echo, now, ""

    def show(self, overview: Overview) -> None:
        line = "; ".join(map(one_line, overview.runs))
        if not self._last or all(v.ended for v in overview.runs):
            self._echo("\n".join(render(overview)))
        elif line != self._last or trouble(overview):
            self._echo(f"{self._now().astimezone():%H:%M:%S} {trouble(overview) or line}")
        self._last = line or "seen"


class JsonLines(ExitStack):
    """One JSON object per look."""

    def __init__(self, echo: Callable[[str], object]) -> None:
        super().__init__()
        self._echo = echo

    def show(self, overview: Overview) -> None:
        self._echo(json.dumps(to_dict(overview)))


def one_line(v: RunView) -> str:
    """A run in one line: state, step, money, end."""
    p, clock = v.progress, clock_of(v)
    step = (
        f"{p.phase} {p.step}/{p.steps}".strip()
        if p and p.step is not None and not v.receipt
        else ""
    )
    money = f"{dollars(v.spent_cents)} of {dollars(v.entry.plan.limit_cents)}"
    will = (
        f"will cost about {dollars(clock.will_cost_cents)}, ends {moment_text(clock.ends)}"
        if clock.ends
        else ""
    )
    proven = ", ".join(f"{name} proven" for name, r in v.phases.items() if r.state == "proven")
    return ", ".join(
        filter(
            None,
            (
                f"{v.entry.plan.run_id} {v.state}",
                v.reason,
                step,
                money,
                will,
                proven,
                f"WARNING: the provider changed the terms: {changed}"
                if (changed := v.changed())
                else "",
                trouble_text(v),
                f"WARNING: {clock.warning}" if clock.warning else "",
            ),
        )
    )


def display(
    as_json: bool, terminal: bool, echo: Callable[[str], object]
) -> JsonLines | Redrawn | Plain:
    """The display for this kind of output."""
    return JsonLines(echo) if as_json else Redrawn() if terminal else Plain(echo)
