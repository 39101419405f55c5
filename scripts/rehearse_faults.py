"""Rehearse every fault, one rehearsal each, and print what was saved, lost and paid.

    just rehearse-faults                all of them (about half an hour)
    just rehearse-faults hang reboot    only these two
    just rehearse-faults --write        all, and write the table to docs/faults.md

Exit code 1 when one of them ends otherwise than expected.
"""

from __future__ import annotations

import outside_venv  # noqa: F401

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
HEAD = """# Faults and their outcomes

`./just rehearse-faults --write` produced each row with the real launch, box program and trainer, a local Shadeform, a local
Hub and two CPU processes. *Saved* is what was proven on the Hub at the end; *steps lost* are training steps that had to be
repeated or are gone; *paid* is the simulated bill. In the longer trainings a state is saved about every second and uploaded
every two.

| fault | what happens | verdict | exit | saved | steps lost | paid |
|---|---|---|---|---|---|---|
"""


@click.command(cls=KeyValueCommand)
@click.argument("names", nargs=-1, metavar="[FAULT]...")
@click.option("--write", is_flag=True, help="write the table to docs/faults.md")
def rehearse_faults(names: tuple[str, ...], write: bool) -> int:
    """Rehearse faults and print a table of their outcomes."""
    from nanolan.sim.scenarios import SCENARIOS

    if unknown := set(names) - set(SCENARIOS):
        raise click.UsageError(
            f"no fault called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}"
        )
    cache = ROOT / ".rehearsal/cache"
    rows = []
    wrong = 0
    click.echo(
        f"{'fault':<14} {'verdict':<10} {'reason':<14} {'exit':>4} {'lost':>7} {'paid':>9} {'s':>4}  saved"
    )
    for name in names or SCENARIOS:
        outcome = play(SCENARIOS[name], cache)
        problems = differences(SCENARIOS[name], outcome)
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


def differences(scenario: Scenario, outcome: Outcome) -> list[str]:
    """How the outcome differs from the expected one."""
    want = (scenario.verdict, scenario.reason, scenario.exit_code)
    have = (outcome.verdict, outcome.reason, outcome.exit_code)
    due = scenario.times if scenario.moment else 0
    return [
        text
        for wrong, text in (
            (have != want, f"{have}, should be {want}"),
            (outcome.left_running > 0, f"{outcome.left_running} instances still running"),
            (outcome.played != due, f"the fault occurred {outcome.played} times, should be {due}"),
            (
                outcome.lost_steps > scenario.most_lost,
                f"{outcome.lost_steps} steps lost, at most {scenario.most_lost} allowed",
            ),
        )
        if wrong
    ]


def row(name: str, scenario: Scenario, outcome: Outcome) -> str:
    """A line of the table in docs/faults.md."""
    verdict = f"{outcome.verdict} ({outcome.reason})" if outcome.reason else outcome.verdict
    saved = outcome.saved or "nothing"
    return (
        f"| `{name}` | {scenario.what} | {verdict} | {outcome.exit_code} | {saved} | "
        f"{outcome.lost_steps} steps | ${outcome.paid_dollars:.2f} |\n"
    )


if __name__ == "__main__":
    run(rehearse_faults)
