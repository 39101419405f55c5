"""A spot run whose instance was taken away goes on: once, within its limit, and only after the instance is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling, NoOffer, PreflightFailed, RunFailed
from nanolan.launch.claim import commit_claimed
from nanolan.manage.run_budget import Agreed
from nanolan.manage.stop_request import ask_to_stop
from nanolan.manage.takeover import (
    MOST_INSTANCES,
    NotYet,
    follow_and_take_up,
    instances_of,
    taken_away,
)
from nanolan.run.ledger import STOPPED_BY_USER, Attempt, Entry
from nanolan.run.record import Receipt
from nanolan.sim.world import World
from nanolan.status.status import look
from nanolan.status.view import RunView
from tests.support.core_fixtures import CREATE, LIST, a_plan, creates
from tests.support.launch_fixtures import tell
from tests.support.spot_fixtures import LIMIT_CENTS, SPOT, SpotRun
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


@pytest.fixture
def run(world: World, tmp_path: Path) -> Iterator[SpotRun]:
    yield SpotRun(world, tmp_path / "home")
    world.cloud.account.now = time.time


def preempted(run: SpotRun, after_s: float = 1800, notice: bool = True) -> None:
    """A run that trained for a while before its instance was taken away."""
    run.launch()
    run.sleep(after_s)
    run.preempt(notice)


# ---- it goes on


@pytest.mark.parametrize("notice", [True, False])
def test_a_run_whose_spot_instance_was_taken_away_goes_on_as_its_next_attempt(
    run: SpotRun, notice: bool
) -> None:
    preempted(run, notice=notice)
    launched = run.take_up()
    assert launched and launched.prepared.plan.attempt == 2 and len(run.live) == 1
    (before,) = launched.earlier
    assert before.note.startswith("lost: preempted") and before.spot_cents == SPOT.hourly_cents
    paid = 100 * float(run.boxes[0].cost_at(run.now))
    assert before.spent_cents and before.spent_cents >= paid
    assert run.entry.plan.limit_cents == LIMIT_CENTS - before.spent_cents
    assert run.entry.earlier == launched.earlier
    run.laws()


@pytest.mark.slow
def test_three_preemptions_are_four_attempts_within_one_limit(run: SpotRun) -> None:
    preempted(run, 600)
    for _ in range(2):
        assert run.take_up()
        run.sleep(900)
        run.preempt()
    last = run.take_up()
    assert last and [a.number for a in last.earlier] == [1, 2, 3]
    assert last.prepared.plan.instance_name.count("-a4-") == 1
    run.laws()


@pytest.mark.slow
def test_what_was_seen_of_the_bill_counts_when_the_box_could_not_report(run: SpotRun) -> None:
    """Its last heartbeat is an hour old: the Hub could not be reached from there."""
    run.launch()
    run.trains = False
    run.sleep(3600)
    look(run.ledger, [run.entry], run.api, lambda e: run.hub)
    paid = 100 * float(run.boxes[0].cost_at(run.now))
    run.preempt()
    run.trains = True
    launched = run.take_up()
    counted = (launched and launched.earlier[0].spent_cents) or 0
    assert paid <= counted <= paid + SPOT.hourly_cents * 660 / 3600
    run.laws()


def test_a_run_that_is_complete_is_not_rented_again(run: SpotRun) -> None:
    from nanolan.manage import takeover

    preempted(run)
    nothing = takeover.upcoming
    try:
        takeover.upcoming = lambda *args, **more: None  # type: ignore[assignment]
        assert run.take_up() is None and creates(run.world.cloud) == 1
    finally:
        takeover.upcoming = nothing


# ---- not before it is gone


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(lambda run: None, id="it bills"),
        pytest.param(lambda run: run.preempt(settle_s=0), id="it is being deleted"),
        pytest.param(
            lambda run: (run.preempt(), run.world.cloud.fault(LIST, "status", times=None)),
            id="the listing fails",
        ),
        pytest.param(
            lambda run: (
                run.preempt(),
                run.world.hub.fault("GET .*/progress.json", status=503, times=10**6),
            ),
            id="the Hub fails",
        ),
    ],
)
def test_nothing_is_rented_before_the_instance_is_confirmed_gone(
    run: SpotRun, meanwhile: Callable[[SpotRun], object]
) -> None:
    run.launch()
    run.sleep(600)
    meanwhile(run)
    with pytest.raises(NotYet, match="nothing was rented"):
        run.take_up()
    assert creates(run.world.cloud) == 1


def test_an_unclear_create_ends_it_and_is_never_repeated(run: SpotRun) -> None:
    preempted(run)
    run.world.cloud.fault(CREATE, "reset")
    with pytest.raises(MayBeBilling, match="UNKNOWN"):
        run.take_up()
    for _ in range(2):
        run.sleep(200)
        with pytest.raises(MayBeBilling, match="UNKNOWN whether"):
            run.take_up()
    assert creates(run.world.cloud) == 2 and run.live == []


def test_a_create_whose_answer_is_lost_is_found_and_kept(run: SpotRun) -> None:
    preempted(run)
    run.world.cloud.fault(CREATE, "reset_after_effect")
    assert run.take_up() and len(run.live) == 1
    run.laws()


# ---- after a stop, never


def stop_here(run: SpotRun) -> None:
    run.ledger.ask_to_stop(run.entry.plan.run_id)


def stop_elsewhere(run: SpotRun) -> None:
    ask_to_stop(run.hub, structs.replace(run.entry.plan, attempt=1))


@pytest.mark.parametrize("stop", [stop_here, stop_elsewhere])
@pytest.mark.parametrize("moment", ["", "sold out", "creating"])
def test_a_stop_on_any_laptop_at_any_moment_prevents_the_next_create(
    run: SpotRun, stop: Callable[[SpotRun], None], moment: str
) -> None:
    preempted(run)
    if moment == "sold out":
        run.world.cloud.fault(CREATE, "out_of_stock")
    done = list[str]()

    def heard(text: str) -> None:
        if moment and moment in text and not done:
            done.append(text)
            stop(run)

    run.heard = heard
    if not moment:
        stop(run)
    with pytest.raises(RunFailed, match="stopped by just stop"):
        run.take_up()
    assert creates(run.world.cloud) == (2 if moment == "sold out" else 1) and run.live == []


@pytest.mark.parametrize("hub_down", [False, True])
def test_a_stop_at_once_leaves_its_marks_first_and_deletes_whatever_the_hub_says(
    run: SpotRun, hub_down: bool
) -> None:
    """Its instance is gone then, like one that was taken away."""
    run.launch()
    seen = run.api.instances()
    if hub_down:
        run.world.hub.fault("POST .*/commit/", status=503, times=10**6)
    stop = run.stop()
    stop.delete(run.entry, [i for i in seen if i.billing])
    assert run.live == [] and run.ledger.stop_asked(run.entry.plan.run_id)
    run.world.hub.faults.clear()
    assert ("no request to stop could be left on the Hub" in run.text) is hub_down
    # another laptop knows only the Hub
    entry = structs.replace(run.entry, gone=False, note="")
    run.ledger.allow(entry.plan.run_id, run.ledger.stop_mark(entry.plan.run_id))
    run.ledger.put(entry)
    run.sleep(300)
    if not hub_down:
        with pytest.raises(RunFailed, match="stopped by just stop"):
            run.take_up()
        assert creates(run.world.cloud) == 1


# ---- within what was agreed to


def test_a_dearer_offer_is_waited_for_and_never_rented(run: SpotRun) -> None:
    preempted(run)
    with pytest.raises(NoOffer, match="just resume"):
        run.take_up(Agreed(SPOT.hourly_cents - 1))
    assert creates(run.world.cloud) == 1
    assert taken_away(view_of(run)), "a later try, or just resume, goes on"
    assert run.take_up(Agreed(SPOT.hourly_cents)) and run.entry.plan.attempt == 3
    assert [a.number for a in run.entry.earlier] == [1]
    run.laws()


def view_of(run: SpotRun) -> RunView:
    return look(run.ledger, [run.entry], run.api, lambda e: run.hub).runs[0]


@pytest.mark.slow
def test_an_offer_on_demand_within_the_price_is_as_good(world: World, tmp_path: Path) -> None:
    run = SpotRun(world, tmp_path / "home", spot="yes")
    preempted(run)
    for entry in world.cloud.account.catalogue:
        for region in entry["availability"]:
            region["available"] &= region.get("rental_type") != "spot"
    try:
        launched = run.take_up(Agreed(9999))
        assert launched and not launched.prepared.offer.spot
        run.preempt()
        with pytest.raises(PreflightFailed, match="was not taken away"):
            run.take_up()  # an instance on demand is not taken away
    finally:
        for entry in world.cloud.account.catalogue:
            for region in entry["availability"]:
                region["available"] |= region.get("rental_type") == "spot"
        world.cloud.account.now = time.time


def test_without_enough_money_for_the_rest_nothing_is_rented(run: SpotRun) -> None:
    preempted(run, 3600)
    with pytest.raises(PreflightFailed, match="nothing was rented.*left of [$]35.00"):
        run.take_up(Agreed(SPOT.hourly_cents, 3500))
    with pytest.raises(PreflightFailed, match="nothing is left, nothing was rented"):
        run.take_up(Agreed(SPOT.hourly_cents, 1000))
    assert creates(run.world.cloud) == 1


@pytest.mark.parametrize("count", [0, 1, MOST_INSTANCES])
def test_only_attempts_with_an_instance_count_as_instances(count: int) -> None:
    sold_out = Attempt(99, None, 0, "sold out")
    past = (*(Attempt(n, f"i-{n}", 100, "lost: preempted") for n in range(count)), sold_out)
    assert instances_of(past) == count


def test_a_run_that_had_its_number_of_instances_gets_no_other_one(run: SpotRun) -> None:
    preempted(run)
    used = tuple(Attempt(n, f"i-{n}", 1, "lost: preempted") for n in range(1, MOST_INSTANCES))
    plan = structs.replace(run.entry.plan, attempt=MOST_INSTANCES)
    run.ledger.put(structs.replace(run.entry, plan=plan, earlier=used))
    with pytest.raises(PreflightFailed, match=f"has had {MOST_INSTANCES} instances"):
        run.take_up()
    assert creates(run.world.cloud) == 1


# ---- what is not taken up

PLAN = a_plan()
ON_SPOT = structs.replace(PLAN, offer=structs.replace(PLAN.offer, spot=True))
TAKEN = (Attempt(1, "i-0", 5, "lost: preempted: x"),)


@pytest.mark.parametrize(
    "view, taken",
    [
        (RunView(Entry(ON_SPOT, "i"), "lost", "preempted: x"), True),
        (
            RunView(Entry(ON_SPOT, "i"), "stopped", receipt=Receipt("", "stopped", "preempted")),
            True,
        ),
        (RunView(Entry(ON_SPOT, None, True, "create refused", None, TAKEN), "failed"), True),
        (RunView(Entry(ON_SPOT, None, True, "waiting ended", None, TAKEN), "failed"), True),
        (RunView(Entry(ON_SPOT, "i", True, STOPPED_BY_USER), "lost", "preempted: x"), False),
        (RunView(Entry(ON_SPOT, None, True, STOPPED_BY_USER, None, TAKEN), "stopped"), False),
        (RunView(Entry(ON_SPOT, "i"), "lost", "the instance is gone"), False),
        (RunView(Entry(ON_SPOT, "i"), "failed", receipt=Receipt("", "failed", "nan")), False),
        (RunView(Entry(ON_SPOT, "i"), "stopped", receipt=Receipt("", "stopped", "user")), False),
        (RunView(Entry(ON_SPOT, "i"), "succeeded", receipt=Receipt("", "succeeded")), False),
        (RunView(Entry(ON_SPOT, None, True, "create refused"), "failed"), False),
        (RunView(Entry(ON_SPOT, "i", True, "boot failed", None, TAKEN), "failed"), False),
        (RunView(Entry(ON_SPOT, "i", earlier=TAKEN), "training"), False),
    ],
)
def test_only_a_run_whose_instance_was_taken_away_is_taken_up(view: RunView, taken: bool) -> None:
    assert taken_away(view) is taken


# ---- followed to the end


@pytest.mark.slow
def test_an_instance_that_is_taken_away_while_it_boots_is_followed_by_the_next(
    run: SpotRun,
) -> None:
    """A preemption during the set-up is no failure of the run (skypilot#1610)."""
    preempted(run)
    run.trains = False
    done = list[str]()

    def heard(text: str) -> None:
        if text.startswith("waiting until it trains") and not done:
            done.append(text)
            run.next.append((run.now + 30, lambda: run.preempt(settle_s=0)))
            run.next.append((run.now + 200, lambda: setattr(run, "trains", True)))

    run.heard = heard

    def follow() -> RunView:
        attempt = run.entry.plan.attempt
        return RunView(run.entry, "succeeded") if attempt == 3 else view_of(run)

    view = follow_and_take_up(run.take_over(), Agreed(SPOT.hourly_cents), follow)
    assert view.entry.plan.attempt == 3 and [a.number for a in view.entry.earlier] == [1, 2]
    assert all("preempted" in a.note for a in view.entry.earlier)
    run.laws()


@pytest.mark.slow
def test_a_run_is_followed_through_preemptions_to_its_verdict(run: SpotRun) -> None:
    run.launch()
    lives = [600.0, 900.0]

    def follow() -> RunView:
        if lives:
            run.sleep(lives.pop())
            run.preempt()
        else:
            tell(run.world, run.entry.plan, Receipt("", "succeeded", spent_cents=100))
            run.world.cloud.account.delete(run.live[0].id)
            run.sleep(5)
        return view_of(run)

    view = follow_and_take_up(run.take_over(), Agreed(SPOT.hourly_cents), follow)
    assert view.state == "succeeded" and view.entry.plan.attempt == 3
    assert run.text.count("Taking it up again") == 2
    run.laws()


@pytest.mark.slow
def test_what_does_not_work_yet_is_tried_again_and_said_once(run: SpotRun) -> None:
    preempted(run)
    run.world.cloud.fault(LIST, "status", times=20)
    launched = list[object]()

    def follow() -> RunView:
        view = view_of(run) if not launched else RunView(run.entry, "succeeded")
        return RunView(view.entry, "lost", "preempted: x") if not launched else view

    follow_and_take_up(
        run.take_over(), Agreed(SPOT.hourly_cents), follow, on_launched=launched.append
    )
    assert len(launched) == 1 and run.text.count("not yet:") == 1
    run.laws()


def test_an_attempt_that_another_laptop_has_launched_is_followed_and_not_rented_again(
    run: SpotRun, world: World, tmp_path: Path
) -> None:
    """It claims the attempt while this laptop waits for an offer; then its instance shows in the listing."""
    preempted(run)
    other = SpotRun(world, tmp_path / "other", first=run)
    assert other.ledger.owner != run.ledger.owner
    other.ledger.put(run.entry)
    claimed = structs.replace(run.entry.plan, attempt=2)
    commit_claimed(run.hub, claimed, other.ledger.owner, {}, [])
    before = run.entry
    with pytest.raises(PreflightFailed, match="launched elsewhere"):
        run.take_up()
    assert run.entry == before and creates(world.cloud) == 1
    assert other.take_up() and creates(world.cloud) == 2
    assert view_of(run).entry.plan == other.entry.plan == run.entry.plan
    with pytest.raises(NotYet, match="still has instance"):
        run.take_up()
    run.laws()
