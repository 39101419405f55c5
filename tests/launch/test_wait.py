"""The wait for an offer: it ends with an offer, a stop or its time, whatever the services and the clock do meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.checklist import Check
from nanolan.errors import AuthProblem, LedgerProblem, NoOffer, PreflightFailed, RunFailed
from nanolan.launch.prepare import OfferEstimate
from nanolan.notify import FAILURE, SUCCESS, WARNING
from nanolan.plan import Pinned
from nanolan.run.ledger import STOPPED_BY_USER, WAITED, Entry
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import TYPES
from tests.support.failover_fixtures import FIRST, SECOND
from tests.support.wait_fixtures import HOUR, Waited
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


@pytest.fixture
def waited(world: World, tmp_path: Path) -> Waited:
    return Waited(world, tmp_path)


# ---- how it ends
def test_it_returns_at_the_first_look_that_shows_an_offer(waited: Waited) -> None:
    waited.stock_at(150)
    offers = waited.next()
    assert offers[:2] == (FIRST, SECOND) and waited.looked == [0, 60, 120, 180]
    assert len(waited.said) == 4 and "3 offers fit, first 8x B200 at hyper" in waited.said[-1]


def test_it_ends_at_its_time_with_one_line_that_says_what_was_seen(
    world: World, tmp_path: Path
) -> None:
    waited = Waited(world, tmp_path, hours=1)
    with pytest.raises(NoOffer) as e:
        waited.next()
    assert e.value.exit_code == 3 and "nothing is rented. Wait again: just launch" in str(e.value)
    assert "the last one: no stock: 4 listed, all sold out" in str(e.value)
    assert HOUR <= waited.clock.passed_s <= HOUR + 1 and len(waited.looked) < 60


def test_just_stop_ends_it_within_a_second(waited: Waited) -> None:
    waited.clock.at(100, lambda: waited.ledger.ask_to_stop(waited.run_id))
    with pytest.raises(RunFailed, match=STOPPED_BY_USER):
        waited.next()
    assert waited.clock.passed_s < 102


def test_ctrl_c_ends_it_and_says_that_nothing_is_rented(waited: Waited) -> None:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    waited.clock.at(70, ctrl_c)
    with pytest.raises(KeyboardInterrupt, match="ended by hand; nothing is rented"):
        waited.next()
    assert (
        waited.entry.gone and waited.entry.note == "the wait was ended by hand; nothing is rented"
    )


# ---- the ledger says all the time what is true if the process dies now
def test_while_it_waits_the_ledger_holds_a_run_that_has_rented_nothing(waited: Waited) -> None:
    noted: list[Entry] = []
    waited.clock.at(90, lambda: noted.append(waited.entry))
    waited.stock_at(100)
    waited.next()
    (entry,) = noted
    assert (entry.gone, entry.instance_id, entry.note) == (True, None, WAITED)
    assert entry.waiting and entry.waiting.seen.startswith("no stock: 4 listed, all sold out")
    assert entry.waiting.looked < entry.waiting.until


def test_nothing_is_waited_for_without_a_ledger(waited: Waited, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(LedgerProblem):
        waited.next()


def test_a_ledger_that_fills_up_later_does_not_end_it(waited: Waited, tmp_path: Path) -> None:
    waited.clock.at(30, lambda: (tmp_path / "runs").rename(tmp_path / "away"))
    waited.clock.at(31, lambda: (tmp_path / "runs").write_text("in the way"))
    waited.stock_at(100)
    assert waited.next() and any("NOT RECORDED" in line for line in waited.said)


@pytest.mark.parametrize(
    "error, note, told",
    [
        (NoOffer("no offer until 23:10"), "no offer until 23:10", [("gave up", WARNING)]),
        (RunFailed(f"run x was {STOPPED_BY_USER}; none bills"), STOPPED_BY_USER, []),
        (PreflightFailed("the wallet"), "the wallet", [("gave up", WARNING)]),
    ],
)
def test_how_it_ended_is_recorded_and_notified_unless_the_user_ended_it(
    waited: Waited, error: Any, note: str, told: list[Any]
) -> None:
    waited.stock_at(0)
    waited.next()
    waited.wait.gave_up(waited.prepared.plan, error, waited.said.append)
    waited.wait.close()
    assert waited.entry.note == note and [(e, kind) for e, _, kind in waited.told] == told


def test_the_entry_of_a_create_is_left_as_it_is(waited: Waited) -> None:
    waited.ledger.put(Entry(waited.prepared.plan, "i-1"))
    waited.wait.gave_up(waited.prepared.plan, NoOffer("x"), waited.said.append)
    assert waited.entry == Entry(waited.prepared.plan, "i-1")


def test_a_rented_instance_is_notified_with_its_price_and_the_command_to_stop_it(
    waited: Waited,
) -> None:
    waited.wait.rented(waited.prepared.plan)
    waited.wait.close()
    ((event, text, kind),) = waited.told
    assert (event, kind) == ("rented", SUCCESS) and "$33.60/h" in text and "just stop" in text
    assert FAILURE not in text


# ---- the clock
def test_after_a_sleep_of_the_laptop_the_next_look_is_at_once(waited: Waited) -> None:
    waited.clock.at(10, lambda: waited.clock.jump(5 * HOUR))
    waited.stock_at(9)
    assert waited.next() and waited.looked == [0, 10 + 5 * HOUR]


def test_a_laptop_that_sleeps_past_the_time_looks_no_more(waited: Waited) -> None:
    waited.clock.at(10, lambda: waited.clock.jump(13 * HOUR))
    waited.stock_at(11)
    with pytest.raises(NoOffer):
        waited.next()
    assert waited.looked == [0]


def test_a_clock_that_is_set_back_neither_delays_the_next_look_nor_breaks_the_wait(
    world: World, tmp_path: Path
) -> None:
    waited = Waited(world, tmp_path, hours=0.1)
    waited.clock.at(130, lambda: waited.clock.jump(-2 * HOUR))
    with pytest.raises(NoOffer):
        waited.next()
    assert waited.looked[:4] == [0, 60, 120, 130 - 2 * HOUR]


# ---- services that do not answer
def test_failures_double_the_delay_and_an_answer_ends_that(waited: Waited) -> None:
    waited.world.cloud.fault(TYPES, "status", times=4, status=503)
    waited.stock_at(1000)
    waited.next()
    assert waited.looked == [0, 60, 180, 420, 900, 960, 1020]
    assert "no answer: Shadeform is down (HTTP 503)" in waited.said[0]


def test_a_rate_limit_is_kept_as_long_as_the_service_asks_and_sent_once(waited: Waited) -> None:
    waited.world.cloud.fault(TYPES, "rate_limit", retry_after="1800")
    waited.stock_at(1)
    waited.next()
    asked = [r for r in waited.world.cloud.requests if "types" in r.path]
    assert waited.looked == [0, 1800] and len(asked) == 2


def test_a_single_refusal_of_the_key_does_not_end_it(waited: Waited) -> None:
    waited.world.cloud.fault(TYPES, "forbidden", times=3)
    waited.stock_at(1)
    assert waited.next()


def test_a_key_that_stays_refused_ends_it(waited: Waited) -> None:
    waited.world.cloud.fault(TYPES, "unauthorized", times=None)
    with pytest.raises(AuthProblem):
        waited.next()
    assert len(waited.looked) == 5


@pytest.mark.parametrize(
    "action, params",
    [
        ("reset", {}),
        ("html", {}),
        ("truncated", {}),
        ("status", {"status": 200, "body": []}),
        ("status", {"status": 200, "body": {"instance_types": None}}),
        ("status", {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}),
        ("edit", {"change": lambda body: {"instance_types": [None, 5, {"cloud": "x"}]}}),
    ],
    ids=lambda v: v if isinstance(v, str) else str([*v.values()])[:20].partition("<")[0],
)
def test_an_answer_that_is_no_market_is_neither_an_offer_nor_the_end(
    waited: Waited, action: str, params: dict[str, Any]
) -> None:
    waited.world.cloud.switch("no_stock", False)
    waited.world.cloud.fault(TYPES, action, **params)
    assert waited.next() and len(waited.looked) == 2
    assert "no answer" in waited.said[0] or "could not be read" in waited.said[0]


# ---- what is shown
def test_a_log_gets_every_look_and_a_terminal_only_what_changed(waited: Waited) -> None:
    waited.stock_at(150)
    waited.next(terminal=True)
    assert len(waited.said) == 2 and len(waited.looked) == 4
    assert "next look in" in waited.shown[0] and "no stock" in waited.shown[-1]


# ---- offers that fit, and are not rented
def test_an_offer_where_a_check_of_a_launch_fails_is_passed_over(waited: Waited) -> None:
    def estimate(offer: Any, limit_cents: int) -> OfferEstimate:
        good = offer != FIRST and limit_cents == 15_000
        return OfferEstimate(checks=(Check("spend limit", good, "it would be cut off"),))

    waited.prepared = replace(waited.prepared, estimate_on=estimate)
    waited.stock_at(0)
    assert waited.next()[0] == SECOND


def test_a_refused_offer_is_left_alone_for_five_minutes(waited: Waited) -> None:
    waited.stock_at(0)
    waited.next()
    for offer in waited.api.offers()[0]:
        waited.wait.refused(offer)
    waited.next()
    assert waited.clock.passed_s == pytest.approx(300, abs=61)
    assert "a create failed just now; not before" in waited.said[-2]


def test_nothing_is_rented_while_the_key_for_the_machine_is_refused(
    world: World, tmp_path: Path
) -> None:
    waited = Waited(world, tmp_path, hours=0.1, shadeform_api_key_box="revoked-by-now")
    waited.stock_at(0)
    with pytest.raises(NoOffer, match="an offer fits, but Shadeform refused SHADEFORM_API_KEY_BOX"):
        waited.next()


# ---- the inputs, which were pinned before the wait
def pinned(waited: Waited, **changes: str) -> Pinned:
    """Pin a file of the repo for the run that waits."""
    waited.world.hub.put(REPO, {"notes/of-now.txt": b"of now"})
    pin = structs.replace(waited.hub.tree(REPO).pin(["notes/of-now.txt"]), **changes)
    plan = structs.replace(waited.prepared.plan, inputs=(pin,))
    waited.prepared = replace(waited.prepared, plan=plan)
    return pin


LOST = "d" * 40  # a revision that the Hub no longer has


def test_an_upload_during_the_wait_does_not_change_the_run(waited: Waited) -> None:
    pin = pinned(waited)
    waited.world.hub.put(REPO, {"notes/of-now.txt": b"of tomorrow"})
    waited.stock_at(0)
    waited.next()
    assert waited.prepared.plan.inputs == (pin,)


def test_inputs_whose_revision_is_lost_are_checked_and_pinned_again(
    world: World, tmp_path: Path
) -> None:
    waited = Waited(world, tmp_path, eval="none")
    pinned(waited, revision=LOST)
    waited.stock_at(0)
    waited.next()
    assert {p.revision for p in waited.prepared.plan.inputs} == {waited.hub.tree(REPO).revision}
    assert any("has lost revision dddddddd" in line for line in waited.said)


def test_inputs_that_are_lost_and_now_fail_a_check_end_it(world: World, tmp_path: Path) -> None:
    waited = Waited(world, tmp_path, model_tag="d99")
    pinned(waited, revision=LOST)
    waited.stock_at(0)
    with pytest.raises(PreflightFailed, match="has no mid_checkpoints/d99.*nothing was rented"):
        waited.next()


def test_a_hub_that_does_not_answer_is_waited_for(waited: Waited) -> None:
    pinned(waited)
    waited.world.hub.fault("GET /api/models", times=1, status=503)
    waited.stock_at(0)
    waited.next()
    assert "no answer: the Hub is down" in waited.said[0] and len(waited.looked) == 2
