"""One clock: dates and ages use the service's time, even if the local clock is wrong or changes."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
from check_status import enforce

from nanolan.box.start import read_service_clock
from nanolan.cost.overdue import OverdueTimer
from nanolan.errors import Unreachable
from nanolan.hub.client import Hub
from nanolan.launch.make_plan import make_plan
from nanolan.launch.preflight import Findings
from nanolan.manage.guard import Guard, facts_reader
from nanolan.redact import Secret
from nanolan.run.find import RunSearch
from nanolan.run.ledger import Ledger
from nanolan.settings.load import load_settings
from nanolan.shadeform.keyless import instance_in_plan
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.status.status import look
from nanolan.times import SERVICE_CLOCK, ServiceClock, difference, now_utc, parse_time
from tests.manage.test_guard import deletes  # noqa: F401  # a fixture
from tests.support.box_fixtures import REPO, TOKEN
from tests.support.core_fixtures import PLAN, client
from tests.support.guard_fixtures import Post, post  # noqa: F401  # a fixture
from tests.support.launch_fixtures import B200

TRUTH = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


class Machine:
    """A machine whose clock is wrong; `steady` is what nobody sets."""

    def __init__(self, wrong: timedelta = timedelta()) -> None:
        self.wrong = wrong
        self.passed_s = 0.0
        self.said: list[str] = []
        self.clock = ServiceClock(lambda: self.truth + self.wrong, lambda: self.passed_s)
        self.clock.on_difference = self.said.append

    @property
    def truth(self) -> datetime:
        return TRUTH + timedelta(seconds=self.passed_s)

    def hear(self, service: str = "Shadeform", **age: str) -> None:
        self.clock.learn(service, format_datetime(self.truth, usegmt=True), **age)


@pytest.mark.parametrize(
    "hours", [-24 * 365, -24, -8, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 8, 24, 24 * 365]
)
def test_after_one_answer_the_time_is_the_services(
    hours: float,
) -> None:
    m = Machine(hours * HOUR)
    m.hear()
    m.passed_s += 1000
    assert m.clock.now() == m.truth
    m.wrong = timedelta(hours=50)  # it jumps in mid-run
    assert m.clock.now() == m.truth and m.clock.ahead_s == 50 * 3600


def test_a_local_clock_that_agrees_is_used_for_its_fractions() -> None:
    m = Machine(timedelta(seconds=1.25))
    m.hear()
    assert m.clock.now() == m.truth + m.wrong


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "now",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Mon, 99 Foo 20026 99:99:99 GMT",
        "0",
        "\0",
        "Sun, 01 Mar 99999999999 12:00:00 GMT",
        "Sun, 01 Mar 2026 12:00:00 +9999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -0500",
        "Sun, 01 Mar 2026 14:00:00 CEST",
        "Sun, 01 Mar 2026 14:00:00",
    ],
)
def test_an_invalid_date_is_ignored(date: str | None) -> None:
    m = Machine()
    m.clock.learn("Shadeform", date)
    assert m.clock.now() == m.truth and m.clock.agreed() is None


@pytest.mark.parametrize("age", ["60", "1", "many"])
def test_a_cached_answer_is_ignored(age: str) -> None:
    m = Machine(8 * HOUR)
    m.hear(age=age)
    assert m.clock.agreed() is None


def test_a_deletion_needs_shadeforms_own_time_of_the_last_minutes() -> None:
    m = Machine()
    assert m.clock.agreed() is None
    m.hear("the Hub")
    assert m.clock.agreed() is None
    m.hear()
    m.passed_s += 300
    assert m.clock.agreed() == m.truth
    m.passed_s += 400
    assert m.clock.agreed() is None and m.clock.now() == m.truth


@pytest.mark.parametrize("offset", [-48, -1, 1, 48])
def test_one_answer_that_contradicts_the_others_changes_no_date_and_deletes_nothing(
    offset: int,
) -> None:
    m = Machine()
    m.hear()
    m.clock.learn("Shadeform", format_datetime(m.truth + offset * HOUR, usegmt=True))
    assert m.clock.now() == m.truth and m.clock.agreed() is None and not m.said
    m.hear()
    assert m.clock.agreed() == m.truth


@pytest.mark.parametrize("wrong", [0, -8])
def test_alternating_clocks_of_a_service_never_cause_a_deletion(
    wrong: int,
) -> None:
    m = Machine(wrong * HOUR)
    for i in range(9):
        m.passed_s += 10
        m.clock.learn(
            "Shadeform",
            format_datetime(m.truth + (9 * HOUR if i % 2 else timedelta()), usegmt=True),
        )
        assert m.clock.agreed() in (None, m.truth)


def test_a_changed_service_clock_counts_from_the_second_answer() -> None:
    m = Machine()
    m.hear()
    for told in (None, m.truth + 5 * HOUR):
        m.clock.learn("Shadeform", format_datetime(m.truth + 5 * HOUR, usegmt=True))
        assert m.clock.agreed() == told


def test_the_hubs_time_counts_only_until_shadeforms_is_known() -> None:
    m = Machine(8 * HOUR)
    m.hear("the Hub")
    assert m.clock.now() == m.truth
    m.hear()
    m.clock.learn("the Hub", format_datetime(m.truth + 5 * HOUR, usegmt=True))
    assert m.clock.now() == m.truth


def test_a_difference_is_reported_once_and_again_when_it_changes() -> None:
    m = Machine(timedelta(seconds=50))
    m.hear()
    assert not m.said
    for wrong in (8 * HOUR, 8 * HOUR, -2 * HOUR, timedelta()):
        m.wrong = wrong
        m.hear()
    assert m.said == [
        difference(8 * 3600, "Shadeform"),
        difference(-2 * 3600, "Shadeform"),
        difference(0, "Shadeform"),
    ]
    assert "8.0 h ahead of Shadeform's" in m.said[0] and "2.0 h behind" in m.said[1]


# ------------------------------------------------------------------ whoever goes by it
def service_is(cloud: ShadeformServer, hours: float) -> None:
    """The service's clock is so far ahead of this machine's."""
    cloud.account.now = lambda: time.time() + 3600 * hours
    client(cloud).offers()


@pytest.mark.parametrize("hours", [-24, -8, 8, 24])
def test_the_deadline_of_a_plan_uses_the_providers_clock(
    hours: float,
    post: Post,
) -> None:
    service_is(post.cloud, hours)
    s = load_settings({}, {"HF_REPO": REPO, "SPEND_LIMIT": "40"})
    plan = make_plan(s, B200[0], "0badcafe", "ab12cd34", PLAN.code, Findings([]))
    life_s = parse_time(plan.deadline).timestamp() - post.cloud.account.now()
    assert abs(life_s - 40 * 3600 * 100 / B200[0].hourly_cents) < 10


@pytest.mark.parametrize("ahead", [timedelta(hours=h) for h in (2, 24, 24 * 365)])
def test_a_guard_whose_clock_jumps_ahead_deletes_nothing(ahead: timedelta, post: Post) -> None:
    wrong = timedelta()
    clock = ServiceClock(lambda: now_utc() + wrong)
    post.rent(known=True)
    api = client(post.cloud, service_clock=clock)
    there = RunSearch(
        load_settings({}, {"HF_REPO": REPO, "HF_ENDPOINT": post.hub.url}),
        Hub(post.hub.url, Secret(TOKEN), patience_s=0),
        api.instances,
    )
    guard = Guard(
        api,
        facts_reader(there, post.ledger, "0badcafe", api.info),
        post.said.append,
        now=clock.agreed,
        slack_s=1.0,
        confirm_s=0.0,
    )
    assert guard.round() == 1
    wrong = ahead
    assert guard.round() == 1 and post.alive() == [True] and "deleting" not in post.words


def test_a_guard_without_the_services_time_deletes_nothing_and_says_so(post: Post) -> None:
    post.rent(known=True, deadline=-HOUR)
    guard = post.guard()
    guard._now = lambda: None
    assert guard.round() == 1 and post.alive() == [True] and guard.failed
    assert "do not report the time" in post.text
    assert post.guard().round() == 0 and post.alive() == [False]


@pytest.mark.parametrize("hours", [-24, -2, 2])
def test_watch_guard_deletes_only_by_the_providers_clock(
    hours: float,
    post: Post,
    tmp_path: Path,
) -> None:
    """By this machine's clock the deadline has passed, or has not; by the provider's it is the other way round."""
    post.rent(known=True, deadline=timedelta(hours=hours / 2))
    service_is(post.cloud, hours)
    api = client(post.cloud)
    view = look(
        post.ledger,
        post.ledger.entries(),
        api,
        lambda _: Hub(post.hub.url, Secret(TOKEN), patience_s=0),
    ).runs[0]
    ticks = iter([0.0, 0.0, 1e3, 1e3, 1e3, 1e3])
    guard = OverdueTimer(lambda: next(ticks))
    enforce(post.ledger, view, api, guard)
    assert bool(enforce(post.ledger, view, api, guard)) == (hours > 0)
    assert bool(deletes(post)) == (hours > 0)


def test_every_command_reports_a_difference_of_more_than_a_minute(
    post: Post,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []
    SERVICE_CLOCK.on_difference = said.append
    service_is(post.cloud, 8)
    client(post.cloud).offers()
    assert said == [difference(-8 * 3600, "Shadeform")]


def test_a_ledger_is_dated_by_the_service(post: Post) -> None:
    service_is(post.cloud, 8)
    assert abs((now_utc() - datetime.now(timezone.utc)) - 8 * HOUR) < timedelta(seconds=10)
    assert Ledger(post.ledger.home).entries() == []


class Asked:
    """Stands for Shadeform or the Hub: each call tells `clock` the time, unless it is down."""

    def __init__(self, m: Machine, down: bool) -> None:
        self.m, self.down = m, down
        self.calls = 0

    def info(self, *_: object) -> None:
        self.calls += 1
        if self.down:
            raise Unreachable("down")
        self.m.hear()

    read = info


@pytest.mark.parametrize("down", [(), ("Shadeform",), ("the Hub",)])
@pytest.mark.parametrize("hours", [-8, 8])
def test_a_restarted_box_asks_for_the_time_before_it_counts(
    hours: float, down: tuple[str, ...]
) -> None:
    m = Machine(hours * HOUR)
    api, hub = Asked(m, "Shadeform" in down), Asked(m, "the Hub" in down)
    for _ in range(2):
        read_service_clock(api, hub, instance_in_plan(PLAN), PLAN, m.clock)  # type: ignore[arg-type]
        assert m.clock.now() == m.truth
    assert api.calls + hub.calls == (2 if api.down else 1)
