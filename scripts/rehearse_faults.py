"""Play every fault for real, one rehearsal each, and print what was saved, lost and paid.

    just rehearse-faults                all of them (about half an hour)
    just rehearse-faults hang reboot    only these
    just rehearse-faults --write        all, and keep the table in docs/faults.md

Exit code 1 when one of them does not end as it must.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanolan.cli.command import KeyValueCommand, run
from nanolan.settings.settings import ROOT

if TYPE_CHECKING:
    from nanolan.sim.rehearsal import Outcome
    from nanolan.sim.scenarios import Scenario

TABLE = ROOT / "docs/faults.md"
HEAD = """# What goes wrong, and what comes of it

Each row was played for real by `./just rehearse-faults --write`: the real launch, box program and trainer, a local
Shadeform and a local Hub, two CPU processes. *Saved* is what was proven on the Hub at the end; *in vain* are training steps
that had to be done again or are gone; *paid* is the simulated bill. Where it trains for long, a state is saved every second
or so and uploaded every two.

| fault | what happens | verdict | exit | saved | in vain | paid |
|---|---|---|---|---|---|---|
"""


@click.command(cls=KeyValueCommand)
@click.argument("names", nargs=-1, metavar="[FAULT]...")
@click.option("--write", is_flag=True, help="keep the table in docs/faults.md")
def rehearse_faults(names: tuple[str, ...], write: bool) -> int:
    """Rehearse faults and print a table of what came of them."""
    from nanolan.sim.scenarios import SCENARIOS

    if unknown := set(names) - set(SCENARIOS):
        raise click.UsageError(
            f"no fault called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}"
        )
    cache, rows, wrong = ROOT / ".rehearsal/cache", [], 0
    click.echo(
        f"{'fault':<14} {'verdict':<10} {'reason':<14} {'exit':>4} {'in vain':>7} {'paid':>9} {'s':>4}  saved"
    )
    for name in names or SCENARIOS:
        outcome = play(SCENARIOS[name], cache)
        problems = complaints(SCENARIOS[name], outcome)
        wrong += bool(problems)
        click.echo(
            f"{name:<14} {outcome.verdict:<10} {outcome.reason or '-':<14} {outcome.exit_code:>4} {outcome.lost_steps:>7} "
            f"{'$' + format(outcome.paid_dollars, '.2f'):>9} {outcome.seconds:>4.0f}  {outcome.saved or 'nothing'}"
        )
        for problem in problems:
            click.echo(f"{'':<14} WRONG: {problem}")
        rows.append(row(name, SCENARIOS[name], outcome))
    if write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(HEAD + "".join(rows))
        click.echo(f"written to {TABLE.relative_to(ROOT)}")
    return 1 if wrong else 0


def play(scenario: Scenario, cache: Path) -> Outcome:
    """One rehearsal in a folder of its own, removed afterwards."""
    from nanolan.sim.rehearsal import rehearse
    from nanolan.sim.shadeform.instance import Delays
    from nanolan.sim.world import World

    folder = Path(tempfile.mkdtemp(prefix="nanolan-fault-"))
    try:
        with World(folder, cache=cache, delays=Delays()) as world:
            return rehearse(world, [], scenario, lambda line: None, time.monotonic(), quiet=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def complaints(scenario: Scenario, o: Outcome) -> list[str]:
    """In what the outcome is not as it must be."""
    want, have = (
        (scenario.verdict, scenario.reason, scenario.exit_code),
        (o.verdict, o.reason, o.exit_code),
    )
    due = scenario.times if scenario.moment else 0
    return [
        text
        for wrong, text in (
            (have != want, f"{have}, should be {want}"),
            (o.left_running > 0, f"{o.left_running} machines still run"),
            (o.played != due, f"its moment came {o.played} times, should be {due}"),
            (
                o.lost_steps > scenario.most_lost,
                f"{o.lost_steps} steps in vain, at most {scenario.most_lost}",
            ),
        )
        if wrong
    ]


def row(name: str, scenario: Scenario, o: Outcome) -> str:
    """A line of the table in docs/faults.md."""
    verdict = f"{o.verdict} ({o.reason})" if o.reason else o.verdict
    return (
        f"| `{name}` | {scenario.what} | {verdict} | {o.exit_code} | {o.saved or 'nothing'} | {o.lost_steps} steps | "
        f"${o.paid_dollars:.2f} |\n"
    )


if __name__ == "__main__":
    run(rehearse_faults)
