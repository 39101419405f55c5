"""Each fault, played for real, ends as its row says: in the slow set, the box's own tests have them with a stand-in trainer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rehearse_faults import differences, play, rehearse_faults

from nanolan.sim.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_fault_ends_with_the_right_verdict_loses_no_more_than_promised_and_leaves_nothing_running(
    name: str, seed_cache: Path
) -> None:
    assert differences(SCENARIOS[name], play(SCENARIOS[name], seed_cache)) == []


def test_the_table_in_the_docs_has_a_row_for_every_fault_and_no_other() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs/faults.md").read_text(), re.M)
    assert rows == list(SCENARIOS)


def test_an_unknown_fault_is_refused_with_those_there_are() -> None:
    done = CliRunner().invoke(rehearse_faults, ["flood"])
    assert (
        done.exit_code == 2 and "no fault called flood" in done.output and "hub-down" in done.output
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_what_it_is_and_how_it_ends(name: str) -> None:
    s = SCENARIOS[name]
    assert s.what and re.compile(s.moment) and (s.exit_code == 0) == (s.verdict == "succeeded")
    assert (s.reason == "") == (s.verdict == "succeeded" or name == "stop-between"), (
        "no machine is left that could give a reason"
    )
