"""A run that waits for an offer, as every command shows it: pending while its launch lives, ended when that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from nanolan.cost.spending import attempts, run_cost
from nanolan.errors import PreflightFailed
from nanolan.manage.resume import check_ended
from nanolan.manage.stop import has_rented_nothing
from nanolan.run.ledger import STOPPED_BY_USER, WAITED, Attempt, Entry, Ledger, Waiting
from nanolan.run.state import waiting_text
from nanolan.status.as_json import to_dict
from nanolan.status.run_list import render, verdict_of
from nanolan.status.run_list import to_dict as list_dict
from nanolan.status.text import render as render_all
from nanolan.status.text import render_run
from nanolan.status.view import RunView
from nanolan.status.why import answer
from tests.support.core_fixtures import PLAN
from tests.support.status_fixtures import RUN, Desk, desk  # noqa: F401  # a fixture

WAITING = Waiting(
    "2026-11-28T02:00:00Z", "2026-11-27T14:02:00Z", "no stock: 3 listed, all sold out"
)
FAILED_BEFORE = (Attempt(1, "i-1", 120, "instance i-1 did not come up"),)


def waits(desk: Desk, **changes: object) -> Entry:  # noqa: F811
    """The desk's run as a launch leaves it in the ledger while it waits."""
    entry = Entry(desk.entry.plan, gone=True, note=WAITED, waiting=WAITING)
    entry = structs.replace(entry, **changes)
    desk.cloud.account.instances.clear()
    desk.ledger.put(entry)
    return entry


def seen(desk: Desk, *, lives: bool) -> RunView:  # noqa: F811
    if not lives:
        return desk.look().runs[0]
    with desk.ledger.launching(desk.entry.plan.run_id):
        return desk.look().runs[0]


def test_while_its_launch_lives_it_is_pending_and_says_what_it_waits_for(
    desk: Desk,  # noqa: F811
) -> None:
    waits(desk)
    view = seen(desk, lives=True)
    assert (view.state, view.reason, view.ended) == ("pending", waiting_text(WAITING), False)
    assert waiting_text(WAITING).endswith(": no stock: 3 listed, all sold out")
    text = "\n".join(render_run(view))
    assert "PENDING" in text and "nothing is rented; at most $" in text
    assert "/h" not in text and "machine" not in text and max(map(len, render_run(view))) <= 80
    assert "nothing is wrong: pending (waiting for an offer" in answer(view, None).cause


def test_when_its_launch_is_gone_it_has_ended_without_renting(desk: Desk) -> None:  # noqa: F811
    waits(desk)
    view = seen(desk, lives=False)
    assert (view.state, view.reason, view.ended) == ("failed", WAITED, True)
    assert str(view.verdict()) == f"run {view.entry.plan.run_id} failed: {WAITED}"
    found = answer(view, None)
    assert (found.name, found.cause) == ("no_offer", WAITED)
    assert found.next == "just launch phase=sft wait=12h" and not view.resumable


@pytest.mark.parametrize("lives", [True, False])
def test_as_json_it_has_no_price_and_no_deadline(desk: Desk, lives: bool) -> None:  # noqa: F811
    waits(desk)
    with desk.ledger.launching(desk.entry.plan.run_id) if lives else desk.ledger.creating("x"):
        (told,) = to_dict(desk.look())["runs"]
    assert (told["usd_per_hour"], told["deadline"], told["clock"]["limit_at"]) == (None, None, None)
    assert told["waiting"] == (
        {"until": WAITING.until, "looked": WAITING.looked, "seen": WAITING.seen} if lives else None
    )


def test_a_look_at_it_changes_nothing_in_the_ledger(desk: Desk) -> None:  # noqa: F811
    entry = waits(desk)
    seen(desk, lives=True)
    seen(desk, lives=False)
    assert desk.ledger.entries() == [entry]


def test_a_create_takes_the_waiting_away(desk: Desk) -> None:  # noqa: F811
    waits(desk)
    desk.ledger.put(Entry(desk.entry.plan))
    with desk.ledger.launching(desk.entry.plan.run_id):
        view = desk.look().runs[0]
    assert view.state == "unknown" and "may bill" in "\n".join(render_all(desk.look()))


@pytest.mark.parametrize(
    "note, lives, verdict",
    [
        (WAITED, True, "waiting"),
        (WAITED, False, "not rented"),
        ("no offer until 02:00", False, "not rented"),
        (STOPPED_BY_USER, False, "stopped"),
    ],
)
def test_the_list_of_runs_says_what_became_of_it(
    desk: Desk,  # noqa: F811
    note: str,
    lives: bool,
    verdict: str,
) -> None:
    entry = waits(desk, note=note)
    launching = {entry.plan.run_id} if lives else set[str]()
    lines = render([entry], launching)
    assert verdict_of(entry, launching) == verdict and lines[1].endswith("$0.00")
    assert any("last look" in line for line in lines) is lives and max(map(len, lines)) <= 80
    (told,) = list_dict([entry], launching)["runs"]
    assert told["verdict"] == (None if lives else verdict) and bool(told["waiting"]) is lives


def test_it_costs_what_its_earlier_instances_cost(desk: Desk) -> None:  # noqa: F811
    assert attempts(waits(desk)) == [] and run_cost(waits(desk)).text() == "$0.00"
    assert run_cost(waits(desk, earlier=FAILED_BEFORE)).text() == "$1.20"
    assert "attempt 1: $1.20" in "\n".join(render_run(seen(desk, lives=True)))


def test_it_has_rented_nothing_unless_an_earlier_attempt_had_an_instance(
    desk: Desk,  # noqa: F811
) -> None:
    assert has_rented_nothing(waits(desk))
    assert has_rented_nothing(waits(desk, earlier=(Attempt(1, None, 0, "just sold out"),)))
    assert not has_rented_nothing(waits(desk, earlier=FAILED_BEFORE))
    assert not has_rented_nothing(desk.entry)


@pytest.mark.parametrize("lives", [True, False])
def test_there_is_nothing_to_resume(desk: Desk, lives: bool) -> None:  # noqa: F811
    waits(desk)
    with desk.ledger.launching(RUN) if lives else desk.ledger.creating("x"):
        overview = desk.look()
    with pytest.raises(PreflightFailed, match="there is nothing to continue"):
        check_ended(overview)


def test_a_ledger_without_the_field_is_read_as_before(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.put(Entry(PLAN))
    path = ledger.runs / f"{PLAN.run_id}.json"
    path.write_text(path.read_text().replace(',\n  "waiting": null', ""))
    assert "waiting" not in path.read_text() and ledger.entries() == [Entry(PLAN)]
